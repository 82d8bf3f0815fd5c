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
        let last = stream.lines().rfind(|line| !line.is_empty());
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

#[test]
fn the_position_of_a_pipeline_is_moved_by_those_who_deploy_it() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("passthrough", 1, "");
    let consumer = token(&sandbox, &["consumer", "--role", "consume"]);
    let deployer = [
        "deployer", "--role", "consume", "--role", "read", "--role", "deploy",
    ];
    let deployer = token(&sandbox, &deployer);
    let mut server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    sandbox.succeed(&["pipeline", "pause", "suspect"]);
    let offsets = json!({"topic": "in", "offsets": [{"partition": 0, "offset": 0}]});
    server.log_in(&consumer);
    server
        .post("/v1/groups/suspect/offsets", &offsets)
        .expect_problem(403, "forbidden");
    server.post("/v1/groups/mine/offsets", &offsets).expect(204);
    server.log_in(&deployer);
    server
        .post("/v1/groups/suspect/offsets", &offsets)
        .expect(204);
    sandbox.succeed(&["pipeline", "resume", "suspect"]);
    server
        .post("/v1/groups/suspect/offsets", &offsets)
        .expect_problem(409, "conflict");
    sandbox
        .run(&["group", "delete", "suspect"])
        .expect_code(1)
        .expect_error(&["pause it first"]);
    // Also of a pipeline that is known from before only.
    sandbox.succeed(&["pipeline", "delete", "suspect", "--yes"]);
    server.log_in(&consumer);
    server
        .post("/v1/groups/suspect/offsets", &offsets)
        .expect_problem(403, "forbidden");
}

#[test]
fn bodies_together_hold_no_more_than_the_server_has_room_for() {
    use std::io::Write as _;

    let sandbox = Sandbox::new();
    sandbox.succeed(&["topic", "create", "t"]);
    let server = Server::start(&sandbox, &["--max-inflight-bytes", "1MiB"]);
    let path = "/v1/topics/t/records";
    let line = |bytes: usize| format!("{{\"value\":\"{}\"}}\n", "x".repeat(bytes));
    // One that is alone may be larger.
    server
        .post_lines(path, &line(500_000).repeat(4))
        .expect(200);
    let address = server.url().strip_prefix("http://").unwrap();
    let mut slow = std::net::TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-ndjson\r\ncontent-length: 1000000\r\n\r\n"
    );
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&vec![b' '; 900_000]).unwrap();
    let started = Instant::now();
    let held_bytes = || -> f64 {
        let metrics = server.get("/metrics").expect(200).body;
        let mut lines = metrics.lines();
        let held = lines.find_map(|line| line.strip_prefix("millstream_http_inflight_bytes "));
        held.unwrap().parse().unwrap()
    };
    // Whoever comes last is refused: until then that is the slow one.
    while held_bytes() < 900_000.0 {
        assert!(started.elapsed() < SOON, "the body was never counted");
    }
    let refused = server.post_lines(path, &line(300_000));
    assert!(refused.headers.contains_key("retry-after"));
    refused.expect_problem(503, "overloaded");
    // There is room for a small one, and for all once the other has gone.
    server.post_lines(path, &line(10)).expect(200);
    drop(slow);
    while server.post_lines(path, &line(300_000)).status == 503 {
        assert!(started.elapsed() < SOON, "the room never came back");
    }
}
