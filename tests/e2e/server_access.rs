//! What tokens open, for how long, and what is written down of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::Server;
use crate::support::Sandbox;

/// Longer than an answer takes that does not wait for records.
const SOON: Duration = Duration::from_secs(20);

fn token(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let arguments = [&["token", "create"], arguments].concat();
    let created = sandbox.json(&arguments);
    created["token"].as_str().unwrap().to_owned()
}

#[test]
fn what_waits_or_streams_ends_with_its_token() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["topic", "create", "t"]);
    sandbox.succeed(&["queue", "create", "q"]);
    let reader = token(&sandbox, &["reader", "--role", "consume"]);
    // There is another one: without any, no token is needed.
    token(&sandbox, &["other", "--role", "read"]);
    let mut server = Server::start(&sandbox, &[]);
    server.log_in(&reader);
    let server = &server;
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| server.get("/v1/topics/t/stream"));
        let poll = scope.spawn(|| server.get("/v1/topics/t/records?wait_ms=59000"));
        let lease = scope.spawn(|| server.post("/v1/queues/q/lease", &json!({"wait_ms": 59000})));
        std::thread::sleep(Duration::from_millis(500));
        let started = Instant::now();
        sandbox.succeed(&["token", "revoke", "reader"]);
        poll.join().unwrap().expect_problem(401, "unauthenticated");
        lease.join().unwrap().expect_problem(401, "unauthenticated");
        let stream = stream.join().unwrap().expect(200).body;
        let last = stream.lines().filter(|line| !line.is_empty()).next_back();
        let problem = last.unwrap().strip_prefix("data: ").unwrap();
        let problem: Value = serde_json::from_str(problem).unwrap();
        assert_eq!(problem["code"], "unauthenticated", "{stream}");
        assert!(started.elapsed() < SOON);
    });
}

#[test]
fn a_stream_ends_when_its_token_expires() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["topic", "create", "t"]);
    let mut server = Server::start(&sandbox, &[]);
    let reader = token(
        &sandbox,
        &["reader", "--role", "consume", "--expires-in", "3s"],
    );
    server.log_in(&reader);
    let started = Instant::now();
    let stream = server.get("/v1/topics/t/stream").expect(200).body;
    assert!(stream.contains("event: error"), "{stream}");
    assert!(started.elapsed() < SOON);
}

#[test]
fn a_flood_of_refusals_leaves_the_audit_log_readable() {
    let sandbox = Sandbox::new();
    token(&sandbox, &["other", "--role", "read"]);
    let server = Server::start(&sandbox, &[]);
    for _ in 0..500 {
        server
            .get("/v1/topics")
            .expect_problem(401, "unauthenticated");
    }
    server.stop();
    let audit = std::fs::read_to_string(sandbox.data_dir().join("audit.jsonl")).unwrap();
    let refused = audit.lines().filter(|line| line.contains("401")).count();
    assert!(refused <= 10, "{refused} lines");
    let last: Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    assert_eq!(last["refusals_left_out"], 490, "{audit}");
}
