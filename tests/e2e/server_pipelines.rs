//! Pipelines and plugins of a running server: apply, pause, deploy, roll back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::Server;
use crate::support::counting::{self, Workload};
use crate::support::{Answer, Sandbox, Service, note, plugins};

/// How long a server may take to come to a state.
const PATIENCE: Duration = Duration::from_secs(300);

/// A component that does the same as another one, and is another one.
pub fn variant(sandbox: &Sandbox, package: &str, name: &str) -> PathBuf {
    let mut wasm = std::fs::read(plugins::component(package)).unwrap();
    // A custom section: id, size, length of its name, name.
    wasm.push(0);
    wasm.push(u8::try_from(name.len() + 1).unwrap());
    wasm.push(u8::try_from(name.len()).unwrap());
    wasm.extend_from_slice(name.as_bytes());
    sandbox.write(&format!("{name}.wasm"), wasm)
}

/// Waits until something is so that takes a while.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never came to be: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn pipeline(sandbox: &Sandbox, name: &str) -> Value {
    sandbox.json(&["pipeline", "describe", name])
}

/// Whether everything in `events` has gone through both pipelines.
pub fn is_processed(sandbox: &Sandbox, total: u64) -> bool {
    let records = |topic: &str| sandbox.json(&["topic", "describe", topic])["records"].clone();
    records("counts") == total && records("copies") == total
}

pub fn produce(sandbox: &Sandbox, workload: &mut Workload, count: u64) {
    let file = sandbox.write_lines("events.jsonl", workload.lines(count));
    let file = file.to_str().unwrap();
    sandbox.succeed(&[
        "produce",
        "topic:events",
        "--key-field",
        "key",
        "--file",
        file,
    ]);
}

#[test]
fn pipelines_are_applied_paused_resumed_and_started_again() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let server = Server::start(&sandbox, &[]);
    let applied = sandbox.json(&["apply", "millstream.toml"]);
    assert_eq!(applied["pipelines"].as_array().unwrap().len(), 2);
    assert_eq!(applied["pipelines"][0]["change"], "started");
    let again = sandbox.json(&["apply", "millstream.toml"]);
    assert_eq!(again["pipelines"][0]["change"], "unchanged");
    let mut workload = Workload::new(1);
    produce(&sandbox, &mut workload, 500);
    wait_until("500 records processed", || is_processed(&sandbox, 500));
    assert_eq!(pipeline(&sandbox, "count")["running"]["state"], "running");

    sandbox.succeed(&["pipeline", "pause", "count"]);
    produce(&sandbox, &mut workload, 100);
    std::thread::sleep(Duration::from_millis(300));
    let paused = pipeline(&sandbox, "count");
    assert_eq!(paused["running"]["state"], "paused");
    assert_eq!(paused["lag_records"], 100);
    // A pause outlives the server, and so does everything else.
    server.stop();
    let server = Server::start(&sandbox, &[]);
    assert_eq!(pipeline(&sandbox, "count")["running"]["state"], "paused");
    assert_eq!(pipeline(&sandbox, "copy")["running"]["state"], "running");
    sandbox.succeed(&["pipeline", "resume", "count"]);
    wait_until("600 records processed", || is_processed(&sandbox, 600));
    workload.assert_counted_once(&sandbox);

    let metrics = server.get("/metrics").expect(200).body;
    for line in [
        "kafka_consumergroup_lag{consumergroup=\"count\",topic=\"events\",partition=\"0\"} 0",
        "millstream_pipeline_state{pipeline=\"count\",state=\"running\"} 1",
        "millstream_pipeline_records_in_total{pipeline=\"count\",plugin=\"count\"} 100",
        "millstream_plugin_faults_total{pipeline=\"count\",plugin=\"count\",kind=\"trap\"} 0",
        "millstream_pipeline_parked_keys{pipeline=\"count\",plugin=\"count\"} 0",
        "millstream_plugin_custom_counter_total{pipeline=\"count\",name=\"counted\"} 100",
        "millstream_plugin_custom_gauge{pipeline=\"count\",name=\"last count\"} ",
        "millstream_plugin_custom_histogram_count{pipeline=\"count\",name=\"counts\"} 100",
        "millstream_plugin_custom_histogram_bucket{le=\"1.0\",pipeline=\"count\",name=\"counts\"} ",
        "le=\"+Inf\"",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "no {line} in:\n{metrics}");
    }
    let of_count = |name: &str| -> f64 {
        let start = format!("millstream_plugin_{name}{{pipeline=\"count\",plugin=\"count\"}} ");
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&start));
        values.next().expect(name).parse().unwrap()
    };
    let computed = of_count("cpu_seconds_total");
    assert!(computed > 0.0 && computed <= of_count("call_seconds_sum"));
    // A hundred records came in since the server started.
    assert!(of_count("input_bytes_total") > 1_000.0);
    let memory_bytes = of_count("memory_bytes");
    assert!(
        (65_536.0..256.0 * 1_048_576.0).contains(&memory_bytes),
        "{memory_bytes}"
    );
    let top = sandbox.succeed(&["top", "--count", "1"]);
    assert!(top.contains("count\trunning"), "{top}");

    sandbox.succeed(&["pipeline", "delete", "copy", "--yes"]);
    sandbox
        .run(&["plugin", "delete", "count", "--yes"])
        .expect_code(1)
        .expect_error(&["`count` is used by"]);
    sandbox.succeed(&["plugin", "delete", "passthrough", "--yes"]);
    server.stop();
}

/// Fails when the task of a producer does not count what its instance takes.
#[test]
fn the_memory_of_a_producer_is_that_of_its_instance() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "numbers"

[topics.numbers]

[plugins.counter]
path = "{testing-counter}"

[pipelines.numbers]
plugin = "counter"
to = "topic:numbers"
config = { count = 100 }
"#,
    );
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let memory_bytes = || -> f64 {
        let metrics = server.get("/metrics").expect(200).body;
        let start = "millstream_plugin_memory_bytes{pipeline=\"numbers\",plugin=\"counter\"} ";
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(start));
        values.next().expect("the gauge").parse().unwrap()
    };
    wait_until("an instance", || memory_bytes() >= 65_536.0);
    let next = variant(&sandbox, "testing-counter", "next");
    let next = next.to_str().unwrap();
    let before = memory_bytes();
    sandbox.succeed(&["plugin", "upload", "counter", next, "--deploy"]);
    wait_until("the instance of the next version", || {
        memory_bytes() == before
    });
    sandbox.succeed(&["pipeline", "pause", "numbers"]);
    assert_eq!(memory_bytes(), 0.0);
    server.stop();
}

#[test]
fn deploys_under_load_lose_and_double_nothing() {
    const DEPLOYS: usize = 50;
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let versions = ["even", "odd"].map(|name| variant(&sandbox, "testing-stateful-count", name));
    let digests = versions.map(|file| {
        let file = file.to_str().unwrap();
        let uploaded = sandbox.json(&["plugin", "upload", "count", file]);
        assert_eq!(uploaded["differences"], serde_json::json!([]));
        uploaded["digest"].as_str().unwrap().to_owned()
    });
    let mut workload = Workload::new(2);
    std::thread::scope(|scope| {
        let deploys = scope.spawn(|| {
            for number in 0..DEPLOYS {
                let digest = &digests[number % 2];
                let deployed = sandbox.json(&["plugin", "deploy", "count", digest]);
                assert_eq!(deployed["outcome"], "succeeded", "{deployed}");
            }
        });
        let lag = || pipeline(&sandbox, "count")["lag_records"].as_u64();
        while !deploys.is_finished() {
            if lag() < Some(5_000) {
                produce(&sandbox, &mut workload, 400);
            }
        }
        deploys.join().unwrap();
    });
    wait_until("all records processed", || {
        is_processed(&sandbox, workload.total())
    });
    workload.assert_counted_once(&sandbox);
    let deploys = sandbox.json(&["plugin", "deploys"]);
    let deploys = deploys.as_array().unwrap();
    assert!(deploys.len() >= DEPLOYS, "{}", deploys.len());
    assert!(deploys[0]["ended_ms"].as_u64() >= deploys[0]["started_ms"].as_u64());
    let back = sandbox.json(&["plugin", "rollback", "count"]);
    assert_eq!(back["to"].as_str().unwrap(), digests[0]);
    server.stop();
}

/// A server that is told to stop while batches are under way ends them and commits what they led to, and takes no more:
/// each record is handed to the plugin once over both lives of the server, whatever the delivery guarantee.
///
/// Fails when it ends without waiting for batches: then some records of at-most-once are lost, and the others are handed
/// over again.
#[test]
fn a_server_that_is_told_to_stop_finishes_and_commits_what_is_under_way() {
    for (delivery, concurrency) in [
        ("at-most-once", 1),
        ("at-most-once", 4),
        ("at-least-once", 1),
        ("exactly-once", 1),
        ("exactly-once", 4),
    ] {
        let records = 2_400 * concurrency;
        // Later calls take long until the server has stopped, however late it is told to.
        let (called, has_stopped) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&has_stopped);
        let service = Service::start(move |call| {
            let called = called.fetch_add(1, Ordering::Relaxed);
            let waits = called > records / 2 && !is_over.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(if waits { 300 } else { 5 }));
            Answer::Status(200, call.body.clone())
        });
        let sandbox = Sandbox::new();
        let settings = format!(
            "delivery = \"{delivery}\"\nconcurrency = {concurrency}\nbatch.max-records = 10\nlimits.deadline = \"60s\"\nallow = {{ http = [{:?}] }}\nconfig.url = {:?}",
            service.authority(),
            service.url()
        );
        sandbox.wire_suspect("testing-calls-service", 4, &settings);
        let server = Server::start(&sandbox, &[]);
        sandbox.succeed(&["apply", "millstream.toml"]);
        let line = |number: usize| format!("{{\"key\":\"{number}\",\"value\":\"{number}\"}}\n");
        let lines: String = (0..records).map(line).collect();
        server
            .post_lines("/v1/topics/in/records", &lines)
            .expect(200);
        let outputs = || {
            let outputs = sandbox.consume("out");
            let values = outputs.iter().map(|output| output.value_text().to_owned());
            let mut values: Vec<String> = values.collect();
            values.sort_unstable();
            values
        };
        while service.call_count() < records / 4 {
            std::thread::sleep(Duration::from_millis(1));
        }
        server.stop();
        has_stopped.store(true, Ordering::Relaxed);
        let done = service.call_count();
        let told = format!("{delivery}, {concurrency}: {done} of {records} before the stop");
        note(&told);
        assert!(done < records, "{told}: it came too late");
        assert_eq!(outputs().len(), done, "{told}");

        let server = Server::start(&sandbox, &[]);
        wait_until("all records processed", || {
            let described = pipeline(&sandbox, "suspect");
            described["lag_records"] == 0
        });
        server.stop();
        let calls = service.calls();
        assert!(calls.values().all(|bodies| bodies.len() == 1), "{told}");
        assert_eq!(calls.len(), records, "{told}");
        let mut sent: Vec<String> = (0..records).map(|number| number.to_string()).collect();
        sent.sort_unstable();
        assert_eq!(outputs(), sent, "{told}");
    }
}

/// What came since the deploy is counted again, from the state that there was then: the last counts are right, and the
/// outputs that were sent twice are named.
#[test]
fn a_rollback_with_state_counts_again_from_the_deploy_on() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let mut workload = Workload::new(3);
    produce(&sandbox, &mut workload, 300);
    wait_until("300 records processed", || is_processed(&sandbox, 300));
    let next = variant(&sandbox, "testing-stateful-count", "next");
    sandbox.succeed(&[
        "plugin",
        "upload",
        "count",
        next.to_str().unwrap(),
        "--deploy",
    ]);
    produce(&sandbox, &mut workload, 200);
    wait_until("500 records processed", || is_processed(&sandbox, 500));
    let back = sandbox.succeed(&["plugin", "rollback", "count", "--with-state"]);
    assert!(back.contains(" succeeded, for count\n"), "{back}");
    assert!(
        back.contains("output\trecords\ntopic:counts\t200\n"),
        "{back}"
    );
    wait_until("200 records processed again", || {
        is_processed(&sandbox, 700)
    });
    let mut counts = std::collections::BTreeMap::new();
    for output in sandbox.consume("counts") {
        let count: u64 = output.value_text().parse().unwrap();
        counts.insert(output.key_text().to_owned(), count);
    }
    assert_eq!(&counts, workload.sent());
    server.stop();
}

#[test]
fn a_rollback_with_state_that_fails_midway_is_run_again() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("FAILPOINTS", "deploy::state-restored=1*return->off");
    let server = Server::of(sandbox.start_command(command));
    sandbox.succeed(&["apply", "millstream.toml"]);
    let mut workload = Workload::new(5);
    produce(&sandbox, &mut workload, 300);
    wait_until("300 records processed", || is_processed(&sandbox, 300));
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let next = next.to_str().unwrap();
    sandbox.succeed(&["plugin", "upload", "count", next, "--deploy"]);
    let back = ["plugin", "rollback", "count", "--with-state"];
    sandbox
        .run(&back)
        .expect_code(1)
        .expect_error(&["half put back", "--with-state"]);
    server
        .post("/v1/pipelines/count/resume", &Value::Null)
        .expect_problem(409, "rollback-unfinished");
    // Half of the state is in no backup, whoever makes it.
    let backup = sandbox.path("backup");
    let backup = backup.to_str().unwrap();
    let folder = serde_json::json!({ "folder": backup });
    server
        .post("/v1/backups", &folder)
        .expect_problem(409, "rollback-unfinished");
    produce(&sandbox, &mut workload, 200);
    server.stop();
    sandbox
        .run(&["backup", backup])
        .expect_failure()
        .expect_error(&["half put back", "--with-state"]);
    let server = Server::start(&sandbox, &[]);
    server
        .post("/v1/pipelines/count/resume", &Value::Null)
        .expect_problem(409, "rollback-unfinished");
    let back = sandbox.json(&back);
    assert_eq!(back["outcome"], "succeeded");
    assert_eq!(back["report"]["kind"], "unsent", "{back}");
    server.post("/v1/backups", &folder).expect(201);
    wait_until("500 records processed", || is_processed(&sandbox, 500));
    workload.assert_counted_once(&sandbox);
    server.stop();
}

/// A backup keeps no rollback waiting, however long it takes, and is none if it has copied half of a state.
///
/// Fails when the backup holds what a rollback needs, and when only the state before the copy is looked at.
#[test]
fn a_rollback_during_a_backup_goes_on_and_the_backup_is_of_no_half_state() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env(
        "FAILPOINTS",
        "backup::before-checkpoint=1*sleep(20000)->off;deploy::state-restored=1*return->off",
    );
    let server = Server::of(sandbox.start_command(command));
    sandbox.succeed(&["apply", "millstream.toml"]);
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let next = next.to_str().unwrap();
    sandbox.succeed(&["plugin", "upload", "count", next, "--deploy"]);
    let backup = sandbox.path("backup");
    let new = serde_json::json!({ "folder": backup, "detach": true });
    let begun = server.post("/v1/backups", &new).expect(202).json();
    let status = || {
        let status = server.get(&format!("/v1/backups/{}", begun["id"]));
        status.expect(200).json()
    };
    let back = ["plugin", "rollback", "count", "--with-state"];
    sandbox
        .run(&back)
        .expect_code(1)
        .expect_error(&["half put back"]);
    assert_eq!(status()["running"], true, "the rollback has waited");
    wait_until("the backup's end", || status()["running"] == false);
    let ended = status();
    assert_eq!(ended["problem"]["code"], "rollback-unfinished", "{ended}");
    for left in ["backup", "backup.millstream-partial"] {
        assert!(!sandbox.path(left).exists(), "{left}");
    }
    sandbox.succeed(&back);
    server.post("/v1/backups", &new).expect(202);
    wait_until("a backup", || backup.exists());
    server.stop();
}

#[test]
fn a_pipeline_that_stops_is_told_of_in_the_servers_log() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-traps", 1, "dead-letter = \"stop\"");
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let poison = sandbox.write("poison.jsonl", "{\"value\":\"poison\"}\n");
    let poison = poison.to_str().unwrap();
    let produce = [
        "produce", "topic:in", "--format", "record", "--file", poison,
    ];
    sandbox.succeed(&produce);
    wait_until("the pipeline has failed", || {
        sandbox.json(&["pipeline", "describe", "suspect"])["running"]["state"] == "failed"
    });
    let log = server.stop().stderr;
    let line = log
        .lines()
        .find(|line| line.contains("the pipeline stopped"));
    assert!(
        line.is_some_and(|line| line.contains("ERROR") && line.contains("suspect")),
        "{log}"
    );
}

#[test]
fn a_server_is_ready_once_its_pipelines_have_been_started() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let server = Server::start(&sandbox, &[]);
    server.get("/readyz").expect(200);
    sandbox.succeed(&["apply", "millstream.toml"]);
    server.stop();
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("FAILPOINTS", "deploy::restore=sleep(15000)");
    let process = sandbox.start_command(command);
    let local = sandbox.data_dir().join("server.json");
    wait_until("server.json", || local.exists());
    let local: Value = serde_json::from_slice(&std::fs::read(local).unwrap()).unwrap();
    let url = format!("{}/readyz", local["url"].as_str().unwrap());
    let agent = ureq::Agent::config_builder().http_status_as_error(false);
    let agent = agent.build().new_agent();
    let mut early = agent.get(&url).call().unwrap();
    assert_eq!(early.status().as_u16(), 503);
    let reasons = early.body_mut().read_to_string().unwrap();
    assert!(reasons.contains("pipelines"), "{reasons}");
    let server = Server::of(process);
    server.get("/readyz").expect(200);
    server.stop();
}

#[test]
fn whoever_hears_that_a_trial_has_ended_can_begin_the_next_one() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    // What the trial's task has left to do takes its time.
    command.env("FAILPOINTS", "deploy::trial-over=sleep(2000)");
    let server = Server::of(sandbox.start_command(command));
    sandbox.succeed(&["apply", "millstream.toml"]);
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let uploaded = sandbox.json(&["plugin", "upload", "count", next.to_str().unwrap()]);
    let digest = uploaded["digest"].as_str().unwrap();
    let shadow = [
        "plugin", "deploy", "count", digest, "--shadow", "--for", "50ms",
    ];
    assert_eq!(sandbox.json(&shadow)["outcome"], "observed");
    let shown = sandbox.succeed(&shadow);
    assert!(
        shown.contains("pipeline\trecords\tdifferent\tfaults\tns/record\ncount\t0\t0\t0\t-\n"),
        "{shown}"
    );
    let deployed = sandbox.json(&["plugin", "deploy", "count", digest]);
    assert_eq!(deployed["outcome"], "succeeded", "{deployed}");
    server.stop();
}

#[test]
fn whoever_waits_for_a_deploy_hears_that_the_store_takes_no_writes() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env(
        "FAILPOINTS",
        "commit::before-write=400*off->return(no room)",
    );
    let server = Server::of(sandbox.start_command(command));
    sandbox.succeed(&["apply", "millstream.toml"]);
    sandbox.succeed(&["topic", "create", "other"]);
    let next = variant(&sandbox, "testing-stateful-count", "next");
    let uploaded = sandbox.json(&["plugin", "upload", "count", next.to_str().unwrap()]);
    let request = serde_json::json!({
        "digest": uploaded["digest"], "canary": [0], "duration_ms": 600_000,
    });
    let begun = server.post("/v1/plugins/count/deploy", &request);
    let id = begun.expect(200).json()["id"].clone();
    let mut poisoned = server.post_lines("/v1/topics/other/records", "{\"value\":\"x\"}\n");
    while poisoned.status == 200 {
        poisoned = server.post_lines("/v1/topics/other/records", "{\"value\":\"x\"}\n");
    }
    poisoned.expect_problem(503, "store-poisoned");
    let stop = format!("/v1/deploys/{id}/stop");
    let started = Instant::now();
    server
        .post(&stop, &Value::Null)
        .expect_problem(503, "store-poisoned");
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// The new version fails on every record of its partition: it is taken back, the old one processes what it failed on, and
/// there is no dead letter anywhere.
#[test]
fn a_faulty_canary_takes_itself_back() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect(
        "passthrough",
        4,
        "retry = { max-attempts = 3, initial = \"10ms\" }",
    );
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let faulty = plugins::component("testing-process-error");
    let faulty = faulty.to_str().unwrap();
    let lines = |from: u64| -> String {
        let line = |number: u64| {
            format!(
                "{{\"partition\":{},\"key\":\"k{number}\",\"value\":\"poison {number}\"}}\n",
                number % 4
            )
        };
        (from..from + 40).map(line).collect()
    };
    server
        .post_lines("/v1/topics/in/records", &lines(0))
        .expect(200);
    std::thread::scope(|scope| {
        let deploy = scope.spawn(|| {
            sandbox.run(&[
                "plugin", "upload", "suspect", faulty, "--deploy", "--canary", "1", "--for", "20s",
            ])
        });
        let mut sent = 40;
        while !deploy.is_finished() {
            server
                .post_lines("/v1/topics/in/records", &lines(sent))
                .expect(200);
            sent += 40;
            std::thread::sleep(Duration::from_millis(50));
        }
        let ended = deploy.join().unwrap().expect_code(1);
        assert!(ended.stdout.contains("rolled-back"), "{}", ended.stdout);
        // Both versions, in a table.
        let table = ended
            .stdout
            .split("version\trecords\tfailures\tns/record\n");
        let rows: Vec<_> = table.last().unwrap().lines().take(2).collect();
        assert!(
            rows.iter().all(|row| row.split('\t').count() == 4),
            "{rows:?}"
        );
        assert!(!ended.stdout.contains('{'), "{}", ended.stdout);
        wait_until("all records in the output", || {
            sandbox.json(&["topic", "describe", "out"])["records"] == sent
        });
    });
    let letters = sandbox.json(&["dead-letter", "list", "suspect"]);
    assert_eq!(letters, serde_json::json!([]));
    assert_eq!(pipeline(&sandbox, "suspect")["running"]["state"], "running");
    server.stop();
}

/// A version that imports what only the new manifest allows comes with it, though not with the one before.
#[test]
fn a_manifest_brings_the_version_that_needs_it() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("passthrough", 1, "");
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    sandbox.wire_suspect("testing-reads-clock", 1, "");
    sandbox
        .run(&["apply", "millstream.toml"])
        .expect_code(1)
        .expect_error(&["allow = { clocks = true }"]);
    sandbox.wire_suspect("testing-reads-clock", 1, "allow = { clocks = true }");
    let applied = sandbox.run(&["apply", "millstream.toml"]).expect_code(0);
    assert!(
        applied.stderr.contains("runs version"),
        "{}",
        applied.stderr
    );
    assert_eq!(pipeline(&sandbox, "suspect")["running"]["state"], "running");
    server.stop();
}

/// Fails when half a component is left, and when the OpenAPI document does not know the answer.
#[test]
fn an_upload_for_which_there_is_no_room_is_refused_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env("FAILPOINTS", "deploy::component-write=1*return");
    let server = Server::of(sandbox.start_command(command));
    let file = plugins::component("passthrough");
    let upload = ["plugin", "upload", "p", file.to_str().unwrap()];
    sandbox
        .run(&upload)
        .expect_failure()
        .expect_error(&["cannot write", ".wasm", "storage space"]);
    server
        .get("/v1/plugins/p")
        .expect_problem(404, "unknown-plugin");
    let components = sandbox.data_dir().join("plugins");
    assert_eq!(std::fs::read_dir(components).unwrap().count(), 0);
    let document = server.get("/openapi.json").expect(200).json();
    let upload_responses = &document["paths"]["/v1/plugins/{plugin}/versions"]["post"]["responses"];
    assert!(upload_responses["507"].is_object(), "{upload_responses}");
    // There is room again.
    sandbox.succeed(&upload);
    server.stop();
}

#[test]
fn what_is_no_plugin_or_does_not_fit_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let server = Server::start(&sandbox, &[]);
    let manifest = std::fs::read_to_string(sandbox.path("millstream.toml")).unwrap();
    let apply = |text: &str| server.send("POST", "/v1/manifests", "application/toml", text);
    let problem = apply(&manifest).expect_problem(400, "invalid-manifest");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("plugin upload"),
        "{problem}"
    );
    apply("name = 1").expect_problem(400, "invalid-manifest");
    server
        .send(
            "POST",
            "/v1/plugins/p/versions",
            "application/wasm",
            "no component",
        )
        .expect_problem(400, "invalid-plugin");
    server
        .get("/v1/plugins/p")
        .expect_problem(404, "unknown-plugin");
    sandbox.succeed(&["apply", "millstream.toml"]);
    let producer = plugins::component("testing-counter");
    let uploaded = sandbox.json(&["plugin", "upload", "count", producer.to_str().unwrap()]);
    let digest = uploaded["digest"].as_str().unwrap();
    assert_eq!(uploaded["misfits"][0]["pipeline"], "count");
    sandbox
        .run(&["plugin", "deploy", "count", digest])
        .expect_code(1)
        .expect_error(&["no consumer"]);
    assert_eq!(pipeline(&sandbox, "count")["running"]["state"], "running");
    server.stop();
}

#[test]
fn a_redrive_reaches_a_pipeline_that_runs() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-rejects", 1, "");
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let lines = "{\"key\":\"k\",\"value\":\"poison\"}\n{\"key\":\"k\",\"value\":\"fine\"}\n";
    server
        .post_lines("/v1/topics/in/records", lines)
        .expect(200);
    let count = || {
        sandbox
            .json(&["dead-letter", "list", "suspect"])
            .as_array()
            .unwrap()
            .len()
    };
    wait_until("a dead letter", || count() == 1);
    let healed = plugins::component("passthrough");
    let healed = healed.to_str().unwrap();
    sandbox.succeed(&["plugin", "upload", "suspect", healed, "--deploy"]);
    let redriven = sandbox.json(&["dead-letter", "redrive", "suspect"]);
    assert_eq!(redriven["redriven"], 1, "{redriven}");
    wait_until("the redriven record", || {
        sandbox.json(&["topic", "describe", "out"])["records"] == 2
    });
    assert_eq!(count(), 0);
    server.stop();
}

#[test]
fn what_a_plugin_logs_can_be_followed() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-logs", 1, "");
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let mut following = sandbox.start(&["logs", "suspect"]);
    server
        .post_lines("/v1/topics/in/records", "{\"value\":\"a poison\"}\n")
        .expect(200);
    following.wait_until("the line", |it| it.stdout().contains("offset 0 is poison"));
    following.interrupt();
    following.wait().expect_code(0);
    let lines = sandbox.succeed(&["logs", "suspect", "--no-follow", "--output", "json"]);
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    server.stop();
}

#[test]
fn a_server_runs_signed_plugins_only() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let made = sandbox.json(&["plugin", "keygen", "ours.pem"]);
    let id = made["id"].as_str().unwrap();
    sandbox
        .run(&["plugin", "keygen", "ours.pem"])
        .expect_code(2)
        .expect_error(&["no key is written over"]);
    sandbox.succeed(&["plugin", "keygen", "others.pem"]);
    let mode = std::fs::metadata(sandbox.path("ours.pem")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions());
    assert_eq!(mode & 0o077, 0, "others read the private key");
    sandbox
        .run(&["serve", "--trusted-key", "ours.pem"])
        .expect_code(2)
        .expect_error(&["no Ed25519 public key"]);
    let rules = ["--require-signature", "--trusted-key", "ours.pem.pub"];
    let server = Server::start(&sandbox, &rules);

    let file = variant(&sandbox, "testing-stateful-count", "even");
    let file = file.to_str().unwrap();
    let upload = ["plugin", "upload", "count", file];
    sandbox
        .run(&upload)
        .expect_code(1)
        .expect_error(&["is not signed", "plugin sign FILE"]);
    sandbox.succeed(&["plugin", "sign", file, "--key", "others.pem"]);
    sandbox
        .run(&upload)
        .expect_code(1)
        .expect_error(&["is not among the trusted ones"]);
    server
        .send(
            "POST",
            "/v1/plugins/count/versions",
            "application/wasm",
            "x",
        )
        .expect_problem(403, "unsigned-plugin");
    // The file `.sig` beside the component is sent with it.
    sandbox.succeed(&["plugin", "sign", file, "--key", "ours.pem"]);
    assert_eq!(sandbox.json(&upload)["signer"], id);
    let described = sandbox.json(&["plugin", "describe", "count"]);
    assert_eq!(described["versions"][0]["signer"], id);
    assert!(sandbox.succeed(&["plugin", "list"]).contains(id));

    sandbox.run(&["apply", "millstream.toml"]).expect_code(1);
    sandbox.succeed(&["apply", "millstream.toml", "--sign", "ours.pem"]);
    let mut workload = Workload::new(3);
    produce(&sandbox, &mut workload, 100);
    wait_until("100 records processed", || is_processed(&sandbox, 100));
    assert!(sandbox.succeed(&["plugin", "deploys"]).contains(id));
    server.stop();
}
