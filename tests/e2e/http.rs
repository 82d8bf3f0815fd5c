//! Plugins that call services: what their manifest allows and nothing else, with a key that is the same
//! whenever a record is processed, and without harm to anybody when the service does its worst.
//!
//! The checks have failed on engines that were broken by hand: without the look at `allow.http` (the
//! denied host is called), with the key taken from the index in the batch (keys collide), and with the
//! right to compute kept through the wait (16 calls never meet).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::plugins::component;
use crate::support::process::TIME_LIMIT;
use crate::support::records::assert_dense;
use crate::support::{Answer, Random, Sandbox, Service, note};

/// A pipeline that posts each value to a URL, may call these hosts, and has these further settings.
fn scene(url: &str, hosts: &[&str], partitions: u32, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    wire(&sandbox, url, hosts, partitions, settings);
    sandbox
}

fn wire(sandbox: &Sandbox, url: &str, hosts: &[&str], partitions: u32, settings: &str) {
    let settings = format!("allow = {{ http = {hosts:?} }}\nconfig.url = {url:?}\n{settings}");
    sandbox.wire_suspect("testing-calls-service", partitions, &settings);
}

/// Produces `{"n": 0}` and so on, each with a key of its own.
fn produce(sandbox: &Sandbox, numbers: std::ops::Range<u32>) {
    let lines = numbers.map(|number| format!(r#"{{"n":"{number}"}}"#));
    sandbox.produce("in", lines, Some("n"));
}

fn run(sandbox: &Sandbox) -> Value {
    let finished = sandbox
        .run(&["run", "millstream.toml", "--until-idle", "--output", "json"])
        .expect_code(0);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The outputs, sorted.
fn outputs(sandbox: &Sandbox) -> Vec<String> {
    let records = sandbox.consume("out");
    assert_dense(&records);
    let mut values: Vec<_> = records
        .iter()
        .map(|record| record.value_text().to_owned())
        .collect();
    values.sort();
    values
}

/// What an echoing service makes of `produce`, sorted.
fn echoes(numbers: impl Iterator<Item = u32>) -> Vec<String> {
    let mut values: Vec<_> = numbers.map(|n| format!(r#"got {{"n":"{n}"}}"#)).collect();
    values.sort();
    values
}

fn echo(body: &str) -> Answer {
    Answer::Status(200, format!("got {body}"))
}

/// The errors of the dead letters.
fn dead_letter_errors(sandbox: &Sandbox) -> Vec<String> {
    let queue = "queue:suspect.dead-letters";
    let printed = sandbox.succeed(&["consume", queue, "--peek", "--output", "json"]);
    let error = |line: &str| {
        let letter: Value = serde_json::from_str(line).unwrap();
        let headers = letter["headers"].as_array().unwrap();
        let header = headers
            .iter()
            .find(|header| header[0] == "millstream-error");
        header.unwrap()[1].as_str().unwrap().to_owned()
    };
    printed.lines().map(error).collect()
}

/// Whether a call is about the record with this number.
fn is_about(body: &str, number: u32) -> bool {
    body == format!(r#"{{"n":"{number}"}}"#)
}

#[test]
fn answers_become_outputs() {
    let service = Service::start(|call| echo(&call.body));
    let hosts = [&*service.authority()];
    let sandbox = scene(&service.url(), &hosts, 4, "limits.deadline = \"60s\"");
    produce(&sandbox, 0..200);
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes(0..200));
    let calls = service.calls();
    assert_eq!(calls.len(), 200, "every record has a key of its own");
    for (key, bodies) in &calls {
        assert!(key.starts_with("suspect/in/"), "{key}");
        assert_eq!(bodies.len(), 1, "{key}");
    }
    assert!(
        service.connection_count() <= 8,
        "connections are used again: {}",
        service.connection_count()
    );
}

/// A record that was given up on is sent back, and killed while its call is under way: under at-most-once that call was
/// its one.
///
/// Fails when the record is taken out of those that are parked by the checkpoint after the call.
#[test]
fn a_redriven_record_is_called_once_under_at_most_once() {
    for concurrency in [1, 4] {
        let service = Service::start(|call| match call.count {
            1 => Answer::Status(400, "never".to_owned()),
            2 => Answer::Hang,
            _ => echo(&call.body),
        });
        let settings = format!(
            "delivery = \"at-most-once\"\nconcurrency = {concurrency}\nlimits.deadline = \"60s\"\nconfig.timeout-ms = 60000"
        );
        let sandbox = scene(&service.url(), &[&service.authority()], 1, &settings);
        produce(&sandbox, 0..1);
        assert_eq!(run(&sandbox)["dead_letters"], 1);
        sandbox.succeed(&["dead-letter", "redrive", "suspect"]);
        let mut killed = sandbox.start(&["run", "millstream.toml"]);
        killed.wait_until("the second call", |_| service.call_count() == 2);
        assert!(killed.kill().0, "the run ended by itself");
        run(&sandbox);
        assert_eq!(service.call_count(), 2, "{settings}");
        assert!(outputs(&sandbox).is_empty());
    }
}

#[test]
fn an_attempt_that_is_made_again_has_the_same_key() {
    let service = Service::start(|call| match call.count {
        1 => Answer::Status(500, "out of order".to_owned()),
        2 => Answer::Headers(429, "retry-after: 0"),
        3 => Answer::Close,
        _ => echo(&call.body),
    });
    let retry = "retry = { max-attempts = 4, initial = \"1ms\" }\nlimits.deadline = \"60s\"";
    let sandbox = scene(&service.url(), &[&service.authority()], 2, retry);
    produce(&sandbox, 0..20);
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 0, "{summary}");
    assert_eq!(outputs(&sandbox), echoes(0..20));
    let calls = service.calls();
    assert_eq!(calls.len(), 20);
    for (key, bodies) in &calls {
        assert_eq!(bodies.len(), 4, "{key}");
        assert_eq!(bodies.iter().collect::<BTreeSet<_>>().len(), 1, "{key}");
    }
}

#[test]
fn a_record_that_the_service_refuses_is_a_dead_letter_at_once() {
    let service = Service::start(|call| match is_about(&call.body, 7) {
        true => Answer::Status(422, "no such flight".to_owned()),
        false => echo(&call.body),
    });
    let deadline = "limits.deadline = \"60s\"";
    let sandbox = scene(&service.url(), &[&service.authority()], 1, deadline);
    produce(&sandbox, 0..20);
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes((0..20).filter(|n| *n != 7)));
    assert_eq!(
        dead_letter_errors(&sandbox),
        ["the service answered 422: no such flight"]
    );
    assert_eq!(service.call_count(), 20);
    // Nobody calls again to find out what the plugin saw.
    let shown = sandbox.json(&["dead-letter", "show", "suspect", "0"]);
    let expected = "not kept: the plugin calls services, and would have called them again";
    assert_eq!(shown["replay"], expected);
    let component = component("testing-calls-service");
    let component = component.to_str().unwrap();
    let replay = [
        "dead-letter",
        "replay",
        "suspect",
        "0",
        "--plugin",
        component,
    ];
    let replayed = sandbox.run(&replay).expect_code(4);
    assert!(
        replayed.stdout.contains("a replay calls no services"),
        "{}",
        replayed.stdout
    );
    assert_eq!(service.call_count(), 20);
}

/// A service that hangs on one record: that one is tried again, given up on, and harms no other.
#[track_caller]
fn assert_hang_harms_nobody(settings: &str) {
    let service = Service::start(|call| match is_about(&call.body, 7) {
        true => Answer::Hang,
        false => echo(&call.body),
    });
    let retry = "retry = { max-attempts = 2, initial = \"1ms\" }";
    let settings = format!("{retry}\nbatch.max-records = 10\n{settings}");
    let sandbox = scene(&service.url(), &[&service.authority()], 1, &settings);
    produce(&sandbox, 0..20);
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 1, "{summary}");
    assert_eq!(outputs(&sandbox), echoes((0..20).filter(|n| *n != 7)));
    let errors = dead_letter_errors(&sandbox);
    assert!(errors[0].contains("no answer in time"), "{errors:?}");
}

#[test]
fn a_service_that_hangs_past_the_deadline() {
    assert_hang_harms_nobody("limits.deadline = \"1s\"");
}

#[test]
fn a_service_that_hangs_past_the_plugins_own_timeout() {
    assert_hang_harms_nobody("limits.deadline = \"60s\"\nconfig.timeout-ms = 2000");
}

#[test]
fn a_service_that_is_not_there() {
    // Nobody is given this port, and nothing listens there.
    let host = "127.0.0.1:1";
    let retry = "retry = { max-attempts = 2, initial = \"1ms\" }";
    let sandbox = scene(&format!("http://{host}/calls"), &[host], 1, retry);
    produce(&sandbox, 0..3);
    run(&sandbox);
    let errors = dead_letter_errors(&sandbox);
    assert_eq!(errors.len(), 3);
    assert!(
        errors[0].contains("the connection was refused"),
        "{errors:?}"
    );
}

#[test]
fn a_body_that_never_ends_is_cut() {
    let service = Service::start(|call| match is_about(&call.body, 7) {
        true => Answer::Endless,
        false => echo(&call.body),
    });
    let settings =
        "retry = { max-attempts = 1 }\nlimits = { deadline = \"60s\", memory = \"256MiB\" }";
    let sandbox = scene(&service.url(), &[&service.authority()], 1, settings);
    produce(&sandbox, 0..20);
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes((0..20).filter(|n| *n != 7)));
    let errors = dead_letter_errors(&sandbox);
    let expected = "the response's body has more than the 16777216 bytes that one may have";
    assert!(errors[0].contains(expected), "{errors:?}");
}

#[test]
fn a_host_that_is_not_listed_is_not_called() {
    let service = Service::start(|call| echo(&call.body));
    let port = service.authority().rsplit_once(':').unwrap().1.to_owned();
    let others = [
        "127.0.0.1".to_owned(),
        "127.0.0.1:1".to_owned(),
        format!("localhost:{port}"),
        format!("*.localhost:{port}"),
    ];
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let sandbox = scene(&service.url(), &others, 1, "");
    produce(&sandbox, 0..3);
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 3, "{summary}");
    for error in dead_letter_errors(&sandbox) {
        assert!(
            error.contains("the pipeline does not allow this host: list it in `allow.http`"),
            "{error}"
        );
    }
    assert_eq!(service.connection_count(), 0);
}

#[test]
fn a_redirect_leads_to_no_host_that_is_not_listed() {
    let target = Service::start(|call| echo(&call.body));
    let url = target.url();
    let service = Service::start(move |_| Answer::Redirect(url.clone()));
    // The host follows none.
    let sandbox = scene(&service.url(), &[&service.authority()], 1, "");
    produce(&sandbox, 0..1);
    run(&sandbox);
    let errors = dead_letter_errors(&sandbox);
    assert!(errors[0].contains("the service answered 307"), "{errors:?}");
    // A plugin that does is held to the list.
    let follow = "config.follow = true";
    let sandbox = scene(&service.url(), &[&service.authority()], 1, follow);
    produce(&sandbox, 0..1);
    run(&sandbox);
    let errors = dead_letter_errors(&sandbox);
    assert!(errors[0].contains("list it in `allow.http`"), "{errors:?}");
    assert_eq!(target.connection_count(), 0);
    // And comes where it leads if that is on the list, too.
    let hosts = [&*service.authority(), &*target.authority()];
    let sandbox = scene(&service.url(), &hosts, 1, follow);
    produce(&sandbox, 0..1);
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes(0..1));
}

#[test]
fn a_name_is_looked_up() {
    let service = Service::start(|call| echo(&call.body));
    let authority = service.authority().replace("127.0.0.1", "localhost");
    let url = format!("http://{authority}/");
    let sandbox = scene(&url, &[&authority.to_uppercase()], 1, "");
    produce(&sandbox, 0..3);
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes(0..3));
}

#[test]
fn a_service_that_the_system_trusts_is_called_over_tls() {
    let service = Service::start_tls(|call| echo(&call.body));
    let authority = service.authority().replace("127.0.0.1", "localhost");
    let retry = "retry = { max-attempts = 1 }";
    let sandbox = scene(&format!("https://{authority}/"), &[&authority], 2, retry);
    produce(&sandbox, 0..20);
    let certificates = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/e2e/tls/ca.pem");
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command.env("SSL_CERT_FILE", certificates);
    sandbox.start_command(command).wait().expect_code(0);
    assert_eq!(outputs(&sandbox), echoes(0..20));
    assert!(
        service.connection_count() <= 4,
        "connections are used again: {}",
        service.connection_count()
    );
}

#[test]
fn a_service_that_nobody_vouches_for_is_told_nothing() {
    let service = Service::start_tls(|call| echo(&call.body));
    let authority = service.authority().replace("127.0.0.1", "localhost");
    let retry = "retry = { max-attempts = 1 }";
    let sandbox = scene(&format!("https://{authority}/"), &[&authority], 1, retry);
    produce(&sandbox, 0..1);
    // Some authority is trusted, and it is not the service's.
    let other = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/e2e/tls/localhost.pem"
    );
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command.env("SSL_CERT_FILE", other);
    sandbox.start_command(command).wait().expect_code(0);
    let errors = dead_letter_errors(&sandbox);
    assert!(
        errors[0].contains("certificate is not trusted"),
        "{errors:?}"
    );
    assert_eq!(service.call_count(), 0);
}

#[test]
fn a_plugin_that_calls_services_without_a_grant_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-calls-service", 1, "");
    sandbox
        .run(&["check", "millstream.toml"])
        .expect_code(2)
        .expect_error(&[
            "imports what it is not granted",
            "wasi:http/outgoing-handler",
            "allow = { http = [\"api.example.com\"] }",
        ]);
}

#[test]
fn only_a_plugin_that_calls_services_imports_http() {
    let imports_http = |package: &str| {
        let bytes = std::fs::read(component(package)).unwrap();
        let name = b"wasi:http/";
        bytes.windows(name.len()).any(|window| window == name)
    };
    assert!(imports_http("testing-calls-service"));
    assert!(!imports_http("passthrough"));
    assert!(!imports_http("testing-stateful-count"));
}

/// Calls that are answered when so many are waiting at a time.
struct Meeting {
    size: usize,
    present: Mutex<usize>,
    changed: Condvar,
}

impl Meeting {
    /// Waits for the others; whether they came.
    fn join(&self) -> bool {
        let mut present = self.present.lock().unwrap();
        *present += 1;
        self.changed.notify_all();
        let until = Instant::now() + TIME_LIMIT / 5;
        while *present < self.size {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            present = self.changed.wait_timeout(present, left).unwrap().0;
        }
        true
    }
}

/// A service whose first calls are answered when so many are waiting, and that number: twice the calls that
/// may run at a time, which are `max(8, 4 × cores)`.
fn meeting() -> (Service, usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let size = 2 * (4 * cores).max(8);
    let meeting = Arc::new(Meeting {
        size,
        present: Mutex::new(0),
        changed: Condvar::new(),
    });
    let service = Service::start(move |call| match meeting.join() {
        true => echo(&call.body),
        false => Answer::Status(400, "the others did not come".to_owned()),
    });
    (service, size)
}

#[test]
fn calls_of_one_partition_wait_together() {
    let (service, size) = meeting();
    let concurrency = 4 * size;
    let settings =
        format!("concurrency = {concurrency}\nbatch.max-records = 1\nlimits.deadline = \"10m\"\n");
    let sandbox = scene(&service.url(), &[&service.authority()], 1, &settings);
    // Keys enough that many more instances than that have some.
    produce(&sandbox, 0..500);
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes(0..500));
    assert_eq!(service.call_count(), 500);
}

#[test]
fn calls_that_wait_do_not_keep_others_from_running() {
    let (service, size) = meeting();
    let settings = "limits.deadline = \"10m\"";
    let partitions = size as u32;
    let sandbox = scene(
        &service.url(),
        &[&service.authority()],
        partitions,
        settings,
    );
    let records = (0..partitions).map(|n| {
        let value = format!(r#"{{"n":"{n}"}}"#);
        serde_json::json!({ "partition": n, "key": null, "value": value }).to_string()
    });
    let file = sandbox.write_lines("records.jsonl", records);
    sandbox.produce_records("in", &file);
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes(0..partitions));
}

/// Kills in the middle of calls.
const KILLS: usize = 6;

#[test]
fn after_kills_every_call_of_a_record_had_the_same_key() {
    const RECORDS: u32 = 2_000;
    let service = Service::start(|call| {
        std::thread::sleep(Duration::from_millis(5));
        echo(&call.body)
    });
    let settings = "batch.max-records = 20\nlimits.deadline = \"60s\"";
    let sandbox = scene(&service.url(), &[&service.authority()], 4, settings);
    // Compiles the plugin, so that the runs to come start fast.
    sandbox.run_until_idle();
    produce(&sandbox, 0..RECORDS);
    let mut random = Random::from_environment();
    for kill in 0..KILLS {
        let before = service.call_count();
        let mut running = sandbox.start(&["run", "millstream.toml"]);
        let wanted = before + random.within(1..100) as usize;
        running.wait_until("calls", |_| service.call_count() >= wanted);
        let (was_killed, finished) = running.kill();
        assert!(was_killed, "{}", finished.stderr);
        note(format_args!(
            "kill {kill} after {} calls",
            service.call_count()
        ));
    }
    run(&sandbox);
    assert_eq!(outputs(&sandbox), echoes(0..RECORDS));
    let calls = service.calls();
    assert_eq!(calls.len(), RECORDS as usize, "as many keys as records");
    let mut keys_of: BTreeMap<&String, BTreeSet<&String>> = BTreeMap::new();
    for (key, bodies) in &calls {
        for body in bodies {
            keys_of.entry(body).or_default().insert(key);
        }
    }
    assert!(keys_of.values().all(|keys| keys.len() == 1));
    let repeated = calls.values().filter(|bodies| bodies.len() > 1).count();
    note(format_args!("{repeated} records were called for again"));
    assert!(repeated > 0, "no kill came in the middle of a batch");
}
