//! What a machine's operator meets: limits of the system, log lines for machines, completions, manual pages,
//! health checks.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::server::Server;
use crate::support::{Consumed, Finished, Running, Sandbox};

/// Runs `millstream` with these arguments by way of a shell that sets limits first.
fn limited(sandbox: &Sandbox, limits: &str, arguments: &[&str]) -> Finished {
    let plain = sandbox.command(arguments);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{limits}; exec \"$@\""), "sh"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(plain.get_current_dir().unwrap())
        .stdin(Stdio::null())
        .env_remove("FAILPOINTS")
        .env_remove("RUST_LOG");
    sandbox.start_command(command).wait()
}

fn large_input(sandbox: &Sandbox, records: usize) -> String {
    let value = "x".repeat(1_000);
    let lines = (0..records).map(|number| format!("{number}/{value}"));
    let file = sandbox.write_lines("large.txt", lines);
    file.to_str().unwrap().to_owned()
}

#[test]
fn files_that_may_not_grow_stop_produce_and_what_it_acknowledged_is_there() {
    // Durability `sync`: what is acknowledged is on disk.
    let sandbox = Sandbox::with_durability("sync");
    let file = large_input(&sandbox, 20_000);
    let produce = [
        "produce",
        "topic:lines",
        "--format",
        "lines",
        "--file",
        &file,
    ];
    sandbox.succeed(&[&produce[..], &["--create", "--max", "100"]].concat());
    let arguments = [
        "produce",
        "topic:lines",
        "--format",
        "lines",
        "--file",
        &file,
        "--progress-interval",
        "1ms",
    ];
    // In units of 512 bytes; the signal would end the process.
    let finished = limited(&sandbox, "trap '' XFSZ; ulimit -f 10000", &arguments)
        .expect_code(1)
        .expect_error(&[
            "stopped accepting writes",
            "File too large",
            "nothing acknowledged is lost",
            "ulimit -f",
        ]);
    let acknowledged = finished.acknowledged_records() as usize;
    let stored = sandbox.consume("lines");
    assert!((100..20_100).contains(&stored.len()), "{}", stored.len());
    assert!(
        100 + acknowledged <= stored.len(),
        "{acknowledged} of {}",
        stored.len()
    );
    assert_eq!(sandbox.json(&["verify"])["problem_count"], 0);
    // With room it goes on.
    sandbox.succeed(&[&produce[..], &["--max", "10"]].concat());
    assert_eq!(sandbox.consume("lines").len(), stored.len() + 10);
}

/// Connections take descriptors as the store's files do, and cost whoever opens them nothing.
///
/// Fails when as many are accepted as come.
#[test]
fn idle_connections_leave_the_store_its_files() {
    const FILES: usize = 256;
    let sandbox = Sandbox::new();
    let plain = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {FILES}; exec \"$@\""), "sh"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(plain.get_current_dir().unwrap())
        .stdin(Stdio::null())
        // So that there are many of the store's files.
        .env("FAILPOINTS", "store::memtable-bytes=return(65536)");
    let server = Server::of(sandbox.start_command(command));
    let topic = json!({"name": "t"});
    server.post("/v1/topics", &topic).expect(201);
    let value = "x".repeat(20_000);
    let line = format!("{{\"value\":\"{value}\"}}\n");
    let produce = || server.post_lines("/v1/topics/t/records", &line).expect(200);
    // On a connection that is kept.
    produce();
    let address = server.url().strip_prefix("http://").unwrap();
    let idle: Vec<_> = (0..FILES)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    for _ in 0..200 {
        produce();
    }
    drop(idle);
    server.stop();
    assert_eq!(sandbox.json(&["verify"])["problem_count"], 0);
    assert_eq!(sandbox.consume("t").len(), 201);
}

#[test]
fn the_limit_of_open_files_is_raised_and_kept_to() {
    let sandbox = Sandbox::new();
    let file = large_input(&sandbox, 1_000);
    let arguments = [
        "produce",
        "topic:lines",
        "--create",
        "--format",
        "lines",
        "--file",
        &file,
        "-v",
    ];
    limited(&sandbox, "ulimit -S -n 40; ulimit -H -n 4096", &arguments)
        .expect_code(0)
        .expect_error(&[
            "limit of open files",
            "limit=\"4096\"",
            "max_store_files=2048",
        ]);
    limited(
        &sandbox,
        "ulimit -n 64",
        &["consume", "topic:lines", "--from", "earliest"],
    )
    .expect_code(0)
    .expect_error(&["few files may be open", "LimitNOFILE"]);
    limited(&sandbox, "ulimit -n 12", &["topic", "list"])
        .expect_failure()
        .expect_error(&["Too many open files"]);
    assert_eq!(sandbox.consume("lines").len(), 1_000);
}

/// All lines of standard error, which have to be JSON objects.
fn json_lines(finished: &Finished) -> Vec<serde_json::Value> {
    let lines = finished.stderr.lines();
    lines
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error}: {line}\n{}", finished.stderr));
            assert!(
                value["level"].is_string() && value["timestamp"].is_string(),
                "{line}"
            );
            value
        })
        .collect()
}

#[test]
fn with_json_everything_on_standard_error_is_json() {
    let sandbox = Sandbox::new();
    let file = large_input(&sandbox, 20_000);
    let json = ["--log-format", "json"];
    let produce = [
        "produce",
        "topic:lines",
        "--create",
        "--format",
        "lines",
        "--file",
        &file,
    ];
    let shown = ["--progress-interval", "1ms", "-vv"];
    let finished = sandbox
        .run(&[&produce[..], &shown, &json].concat())
        .expect_code(0);
    let lines = json_lines(&finished);
    let is_progress = |line: &&serde_json::Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("acknowledged "))
    };
    assert!(lines.iter().any(|line| is_progress(&line)), "{lines:?}");

    let finished = sandbox.run(&["topic", "describe", "nothing", "--log-format", "json"]);
    let lines = json_lines(&finished.expect_code(1));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["level"], "ERROR");
    assert!(
        lines[0]["message"].as_str().unwrap().contains("nothing"),
        "{lines:?}"
    );

    let finished = sandbox.run(&["topic", "describe", "--nothing", "--log-format", "json"]);
    let lines = json_lines(&finished.expect_code(2));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let message = lines[0]["message"].as_str().unwrap();
    assert!(message.starts_with("unexpected argument"), "{message}");
    assert!(message.contains("Usage:"), "{message}");

    for failpoint in [
        "commit::before-write=panic(on purpose)",
        "commit::before-write=return(full)",
    ] {
        let mut command = sandbox.command(&[&produce[..], &json].concat());
        command.env("FAILPOINTS", failpoint);
        let finished = sandbox.start_command(command).wait().expect_failure();
        let lines = json_lines(&finished);
        assert!(!lines.is_empty());
        if failpoint.contains("panic") {
            let panic = lines
                .iter()
                .find(|line| line["location"].is_string())
                .unwrap();
            assert!(
                panic["message"].as_str().unwrap().contains("on purpose"),
                "{panic}"
            );
        }
    }
}

#[test]
fn every_shell_has_its_completions() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.succeed(&["completions", shell]);
        for word in ["millstream", "dead-letter", "backup"] {
            assert!(script.contains(word), "{shell}: no `{word}`");
        }
    }
    let script = sandbox.write("millstream.bash", sandbox.succeed(&["completions", "bash"]));
    let complete = format!(
        "source {}; COMP_WORDS=(millstream back); COMP_CWORD=1; _millstream millstream back millstream; echo \"${{COMPREPLY[*]}}\"",
        script.display()
    );
    let output = Command::new("bash")
        .args(["-c", &complete])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "backup");
    sandbox.run(&["completions", "tcsh"]).expect_code(2);
}

#[test]
fn every_verb_has_its_manual_page() {
    let sandbox = Sandbox::new();
    let folder = sandbox.path("man/man1");
    sandbox.succeed(&["man", folder.to_str().unwrap()]);
    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for (name, says) in [
        ("millstream.1", "EXTRA"),
        ("millstream-run.1", "until\\-idle"),
        ("millstream-topic-create.1", "partitions"),
        ("millstream-dead-letter-redrive.1", "redrive"),
        ("millstream-verify.1", "backup"),
    ] {
        let text = page(name);
        assert!(text.contains(".TH"), "{name}: {text}");
        assert!(text.contains(says), "{name}: no `{says}` in {text}");
    }
    // The program's help names its verbs: each has a page.
    let help = sandbox
        .start_command(sandbox.bare_command(&["--help"]))
        .wait();
    let verbs = help.stdout.split_once("Commands:").unwrap().1;
    let verbs = verbs.lines().skip(1).take_while(|line| !line.is_empty());
    let mut count = 0;
    for line in verbs.filter(|line| line.starts_with("  ") && !line.starts_with("   ")) {
        let verb = line.split_whitespace().next().unwrap();
        page(&format!("millstream-{verb}.1"));
        count += 1;
    }
    assert!(count > 10, "{count} verbs");
}

/// A server that answers one question with this status line.
fn answer_once(status: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: 5\r\nconnection: close\r\n\r\nstore"
        )
        .unwrap();
        request
    });
    (url, thread)
}

#[test]
fn health_is_what_the_server_says() {
    let sandbox = Sandbox::new();
    for (status, code) in [("200 OK", 0), ("503 Service Unavailable", 1)] {
        let (url, server) = answer_once(status);
        let command = sandbox.bare_command(&["health", &url, "--output", "json"]);
        let finished = sandbox.start_command(command).wait().expect_code(code);
        let view: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
        assert_eq!(view["ready"], code == 0, "{view}");
        assert_eq!(view["answer"], "store");
        assert_eq!(server.join().unwrap(), "GET /readyz HTTP/1.1\r\n");
    }
    // Nobody is given this port, and nothing listens there.
    let command = sandbox.bare_command(&["health", "http://127.0.0.1:1"]);
    sandbox
        .start_command(command)
        .wait()
        .expect_code(1)
        .expect_error(&["no answer from"]);
}

/// Fails when the server of the data directory is not found.
#[test]
fn health_is_that_of_the_server_that_holds_the_data_directory() {
    let sandbox = Sandbox::new();
    let ask = || sandbox.run(&["health", "--output", "json"]);
    let server = Server::start(&sandbox, &[]);
    let view: serde_json::Value = serde_json::from_str(&ask().expect_code(0).stdout).unwrap();
    assert_eq!(view["ready"], true);
    assert_eq!(view["url"], format!("{}/readyz", server.url()));
    // What is left behind by one that was killed tells of none that is ready.
    assert!(server.kill());
    ask().expect_code(1).expect_error(&["no answer from"]);
}

/// Whoever holds the data directory may listen where an address was left behind, and say nothing.
///
/// Fails when its answer is waited for as long as that of a server.
#[test]
fn run_does_not_wait_for_a_server_that_says_nothing() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("passthrough", 1, "");
    let mut holder = sandbox.start(&["run", "millstream.toml"]);
    let format = sandbox.data_dir().join("FORMAT");
    holder.wait_until("the data directory", |_| format.exists());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let local = sandbox.data_dir().join("server.json");
    let left = serde_json::json!({ "url": url, "token": "mst_x" });
    fs::write(&local, left.to_string()).unwrap();
    let started = std::time::Instant::now();
    let refused = sandbox
        .run(&["run", "millstream.toml"])
        .expect_code(3)
        .expect_error(&["is in use"]);
    assert!(!refused.stderr.contains("apply"), "{}", refused.stderr);
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
    holder.interrupt();
    holder.wait().expect_code(0);
    fs::remove_file(local).unwrap();
}

/// Runs that end when there is nothing left to do are all that some data directories ever see.
#[test]
fn a_run_until_idle_applies_retention_and_compaction_before_it_ends() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "rounds"

[topics.in]
retention = "forever"

[topics.recent]
retention = "1h"

[topics.newest]
cleanup = "compact"
min-cleanable-dirty-ratio = 0.0

[plugins.passthrough]
path = "{passthrough}"

[pipelines.recent]
from = "topic:in"
plugin = "passthrough"
to = "topic:recent"

[pipelines.newest]
from = "topic:in"
plugin = "passthrough"
to = "topic:newest"
"#,
    );
    // From 1970. No run finds any of its outputs when it starts.
    for round in 1..=3 {
        let record = json!({ "timestamp": round, "key": "k", "value": round.to_string() });
        let file = sandbox.write_lines("records.jsonl", [record.to_string()]);
        sandbox.produce_records("in", &file);
        sandbox.run_until_idle();
        assert_eq!(sandbox.consume("in").len(), round);
        assert!(sandbox.consume("recent").is_empty(), "round {round}");
        let newest = sandbox.consume("newest");
        let values: Vec<_> = newest.iter().map(Consumed::value_text).collect();
        assert_eq!(values, [round.to_string()]);
    }
}

/// What a run could not process may be needed to see why.
#[test]
fn a_run_that_fails_does_not_apply_retention_before_it_ends() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "failing"

[topics.in]
retention = "forever"

[topics.recent]
retention = "1h"

[plugins.traps]
path = "{testing-traps}"

[pipelines.recent]
from = "topic:in"
plugin = "traps"
to = "topic:recent"
dead-letter = "stop"
retry = { max-attempts = 1 }
batch = { max-wait = "10s" }
"#,
    );
    // They wait for a while, so that what a run applies when it starts is over.
    let records = ["good", "poison"].map(|value| json!({ "timestamp": 1, "value": value }));
    let file = sandbox.write_lines("records.jsonl", records.map(|record| record.to_string()));
    sandbox.produce_records("in", &file);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(1);
    assert_eq!(sandbox.consume("recent").len(), 1);
}

/// A data directory with a pipeline, and who holds it.
fn held() -> (Sandbox, Running) {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("passthrough", 1, "");
    let mut holder = sandbox.start(&["run", "millstream.toml"]);
    let lock = sandbox.data_dir().join("LOCK");
    holder.wait_until("locked", |holder| {
        fs::read_to_string(&lock).is_ok_and(|text| text == holder.id().to_string())
    });
    (sandbox, holder)
}

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

/// Fails when a verb that looks at a data directory for a moment keeps a server from starting.
#[test]
fn a_server_waits_for_whoever_holds_the_data_directory() {
    let (sandbox, holder) = held();
    let mut server = sandbox.start(&SERVE);
    let waits = format!("another process (pid {}); waiting for it", holder.id());
    server.wait_for_error(&waits);
    holder.interrupt();
    holder.wait().expect_code(0);
    Server::of(server).stop();
}

#[test]
fn a_server_that_waits_ends_when_it_is_told_to() {
    let (sandbox, holder) = held();
    let mut server = sandbox.start(&SERVE);
    server.wait_for_error("waiting for it");
    server.terminate();
    let ended = server.wait().expect_code(0);
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    holder.interrupt();
    holder.wait().expect_code(0);
}

#[test]
fn a_server_does_not_wait_for_ever() {
    let (sandbox, holder) = held();
    let started = std::time::Instant::now();
    sandbox
        .run(&SERVE)
        .expect_code(3)
        .expect_error(&["waiting for it, 10 s at most", "error: the data directory"]);
    assert!(started.elapsed() >= std::time::Duration::from_secs(10));
    holder.interrupt();
    holder.wait().expect_code(0);
    // The service manager tries again then.
    let unit = include_str!("../../packaging/millstream.service");
    assert!(unit.contains("\nRestartPreventExitStatus=2\n"), "{unit}");
}
