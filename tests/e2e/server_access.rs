//! What tokens open, for how long, and what is written down of it; and what a server takes at most.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::Server;
use crate::server_pipelines::wait_until;
use crate::support::Sandbox;

/// Longer than an answer takes that does not wait for records, on any machine.
const SOON: Duration = Duration::from_secs(60);

pub fn token(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let arguments = [&["token", "create"], arguments].concat();
    let created = sandbox.json(&arguments);
    created["token"].as_str().unwrap().to_owned()
}

/// Fails when any of them goes on: a fetch is answered otherwise then, and of a stream the client gives up.
#[test]
fn what_waits_or_streams_ends_with_its_token() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["topic", "create", "t"]);
    sandbox.succeed(&["queue", "create", "q"]);
    // It may read, too: that is how it is seen that all of them wait.
    let roles = ["--role", "consume", "--role", "read"];
    let reader = token(&sandbox, &[&["reader"][..], &roles].concat());
    // There is another one: without any, no token is needed.
    token(&sandbox, &["other", "--role", "read"]);
    let mut server = Server::start(&sandbox, &[]);
    server.log_in(&reader);
    let server = &server;
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| server.get("/v1/topics/t/stream"));
        let poll = scope.spawn(|| server.get("/v1/topics/t/records?wait_ms=59000"));
        let lease = scope.spawn(|| server.post("/v1/queues/q/lease", &json!({"wait_ms": 59000})));
        server.wait_for_consumers(3);
        sandbox.succeed(&["token", "revoke", "reader"]);
        poll.join().unwrap().expect_problem(401, "unauthenticated");
        lease.join().unwrap().expect_problem(401, "unauthenticated");
        let stream = stream.join().unwrap().expect(200).body;
        let last = stream.lines().rfind(|line| !line.is_empty());
        let problem = last.unwrap().strip_prefix("data: ").unwrap();
        let problem: Value = serde_json::from_str(problem).unwrap();
        assert_eq!(problem["code"], "unauthenticated", "{stream}");
    });
}

/// Fails when the stream goes on: the client gives up then.
#[test]
fn a_stream_ends_when_its_token_expires() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["topic", "create", "t"]);
    let mut server = Server::start(&sandbox, &[]);
    // As long as it may take until the stream has begun.
    let reader = token(
        &sandbox,
        &["reader", "--role", "consume", "--expires-in", "10s"],
    );
    server.log_in(&reader);
    let stream = server.get("/v1/topics/t/stream").expect(200).body;
    assert!(stream.contains("event: error"), "{stream}");
}

#[test]
fn a_flood_of_refusals_leaves_the_audit_log_readable() {
    const REFUSALS: u64 = 500;
    let sandbox = Sandbox::new();
    token(&sandbox, &["other", "--role", "read"]);
    let server = Server::start(&sandbox, &[]);
    let started = Instant::now();
    for _ in 0..REFUSALS {
        server
            .get("/v1/topics")
            .expect_problem(401, "unauthenticated");
    }
    server.stop();
    let audit = std::fs::read_to_string(sandbox.data_dir().join("audit-refused.jsonl")).unwrap();
    let lines: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let written = lines.iter().filter(|line| line["status"] == 401).count() as u64;
    let left_out = lines
        .iter()
        .filter_map(|line| line["refusals_left_out"].as_u64());
    assert_eq!(written + left_out.sum::<u64>(), REFUSALS, "{audit}");
    // Ten of each minute.
    let minutes = started.elapsed().as_secs() / 60 + 1;
    assert!(written <= 10 * minutes, "{audit}");
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
        .run(&["group", "delete", "suspect", "--yes"])
        .expect_code(1)
        .expect_error(&["pause it first"]);
    // Also of a pipeline that is known from before only.
    sandbox.succeed(&["pipeline", "delete", "suspect", "--yes"]);
    server.log_in(&consumer);
    server
        .post("/v1/groups/suspect/offsets", &offsets)
        .expect_problem(403, "forbidden");
    // Who has moved it, or wanted to, is written down; who moved a group of its own is not.
    let moves = |name: &str| -> Vec<(Value, Value)> {
        let log = std::fs::read_to_string(sandbox.data_dir().join(name)).unwrap();
        let events = log.lines().map(|line| serde_json::from_str(line).unwrap());
        let moves = events.filter(|event: &Value| {
            let path = event["path"].as_str();
            path.is_some_and(|path| path.ends_with("/offsets"))
        });
        moves
            .map(|event| {
                assert_eq!(event["subject"], "position of pipeline suspect");
                (event["token"].clone(), event["status"].clone())
            })
            .collect()
    };
    let by = |token: &str, status: u16| (json!(token), json!(status));
    assert_eq!(
        moves("audit.jsonl"),
        [by("deployer", 204), by("deployer", 409)]
    );
    assert_eq!(
        moves("audit-refused.jsonl"),
        [by("consumer", 403), by("consumer", 403)]
    );
}

/// Fails when purging dead letters takes whatever a queue holds.
#[test]
fn who_purges_dead_letters_empties_no_other_queue() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["queue", "create", "orders"]);
    let deployer = token(&sandbox, &["deployer", "--role", "deploy"]);
    let mut server = Server::start(&sandbox, &[]);
    let file = sandbox.write_lines("orders.jsonl", [r#"{"order":1}"#, r#"{"order":2}"#]);
    sandbox.succeed(&["produce", "queue:orders", "--file", file.to_str().unwrap()]);
    server.log_in(&deployer);
    server
        .post("/v1/queues/orders/purge", &json!({}))
        .expect_problem(403, "forbidden");
    let purge = json!({ "source": "queue:orders" });
    let purged = server.post("/v1/dead-letters/purge", &purge).expect(200);
    assert_eq!(
        purged.json(),
        json!({ "queue": "orders", "deleted": 0, "held": 0, "others": 2 })
    );
    sandbox
        .run(&["dead-letter", "purge", "queue:orders", "--yes"])
        .expect_code(0)
        .expect_error(&["still holds 2 messages that are no dead letters"]);
    assert_eq!(sandbox.json(&["queue", "describe", "orders"])["waiting"], 2);
    sandbox.succeed(&["queue", "purge", "orders", "--yes"]);
    server.stop();
}

/// How long a commit takes to be written on a server of slow commits.
const SLOW_COMMIT: Duration = Duration::from_secs(4);
/// After this a request has come to its commit, and the commit is not written yet.
const IN_BETWEEN: Duration = Duration::from_secs(2);

/// A server of a pipeline `suspect` that is paused after ten records, and on which each commit takes its time.
fn with_slow_commits(sandbox: &Sandbox) -> Server {
    sandbox.wire_suspect("passthrough", 1, "");
    let server = Server::start(sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    server
        .post_lines("/v1/topics/in/records", &"{\"value\":\"x\"}\n".repeat(10))
        .expect(200);
    wait_until("ten records", || records_of(&server, "out") == 10);
    sandbox.succeed(&["pipeline", "pause", "suspect"]);
    server.stop();
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    let sleep = format!("commit::before-write=sleep({})", SLOW_COMMIT.as_millis());
    command.env("FAILPOINTS", sleep);
    Server::of(sandbox.start_command(command))
}

fn records_of(server: &Server, topic: &str) -> Value {
    let described = server.get(&format!("/v1/topics/{topic}")).expect(200);
    described.json()["records"].clone()
}

/// A client that does not wait for the answer lets no pipeline start before its commit is written.
///
/// Fails when what keeps pipelines from starting goes with the request.
#[test]
fn a_reset_whose_client_has_gone_is_not_overtaken_by_a_start() {
    let sandbox = Sandbox::new();
    let server = with_slow_commits(&sandbox);
    let address = server.url().strip_prefix("http://").unwrap();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    let body = json!({"topic": "in", "to": "earliest"}).to_string();
    let request = format!(
        "POST /v1/groups/suspect/reset HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).unwrap();
    // Its commit waits to be written.
    std::thread::sleep(IN_BETWEEN);
    drop(client);
    std::thread::sleep(Duration::from_millis(200));
    server
        .post("/v1/pipelines/suspect/resume", &Value::Null)
        .expect(200);
    let started = Instant::now();
    while records_of(&server, "out") != 20 {
        assert!(started.elapsed() < SOON, "it started at its old position");
        std::thread::sleep(Duration::from_millis(50));
    }
    server.stop();
}

/// Whose position a group is counts when it is moved, not when that was asked for.
///
/// Fails when nobody looks again after the wait for what changes pipelines.
#[test]
fn a_move_that_has_waited_for_the_end_of_the_pipeline_is_a_move_of_none() {
    let sandbox = Sandbox::new();
    let server = with_slow_commits(&sandbox);
    std::thread::scope(|scope| {
        let path = "/v1/pipelines/suspect?delete_data=true";
        let deletion = scope.spawn(|| server.send("DELETE", path, "application/json", ""));
        std::thread::sleep(IN_BETWEEN);
        let offsets = json!({"topic": "in", "offsets": [{"partition": 0, "offset": 3}]});
        let moved = server.post("/v1/groups/suspect/offsets", &offsets);
        moved.expect(204);
        assert!(deletion.is_finished(), "it has not waited");
        assert_eq!(deletion.join().unwrap().status / 100, 2);
    });
    let group = server.get("/v1/groups/suspect").expect(200).json();
    assert_eq!(group["positions"][0]["committed_offset"], 3, "{group}");
    server.stop();
    let audit = std::fs::read_to_string(sandbox.data_dir().join("audit.jsonl")).unwrap();
    assert!(audit.contains("/v1/pipelines/suspect"), "{audit}");
    assert!(!audit.contains("/offsets"), "{audit}");
}

/// Fails when the body of a request that is refused is read nevertheless, which lets its client send it.
#[test]
fn a_client_that_asks_before_it_sends_is_not_told_to_go_on_when_it_is_refused() {
    let sandbox = Sandbox::new();
    token(&sandbox, &["other", "--role", "read"]);
    let server = Server::start(&sandbox, &[]);
    let address = server.url().strip_prefix("http://").unwrap();
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let head = format!(
        "POST /v1/topics/t/records HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-ndjson\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n"
    );
    client.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    client.read_exact(&mut status).unwrap();
    assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 401");
}

/// Posts lines without saying before how many bytes they have. Returns the beginning of the answer.
fn status_of_chunked(address: &str, path: &str, lines: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    for chunk in lines.as_bytes().chunks(64 << 10) {
        write!(stream, "{:x}\r\n", chunk.len()).unwrap();
        stream.write_all(chunk).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    String::from_utf8_lossy(&status).into_owned()
}

#[test]
fn bodies_together_hold_no_more_than_the_server_has_room_for() {
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
    let mut slow = TcpStream::connect(address).unwrap();
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
    // Also of a large one the answer is seen, whether its length was told before or not.
    let large = line(1_000_000).repeat(12);
    server
        .post_lines(path, &large)
        .expect_problem(503, "overloaded");
    assert_eq!(status_of_chunked(address, path, &large), "HTTP/1.1 503");
    // There is room for a small one, and for all once the other has gone.
    server.post_lines(path, &line(10)).expect(200);
    drop(slow);
    while server.post_lines(path, &line(300_000)).status == 503 {
        assert!(started.elapsed() < SOON, "the room never came back");
    }
}

/// A connection on which the server was asked whether it lives.
fn ask(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /livez HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    stream
}

/// What comes on a connection: `None` if nothing does in that time, and nothing at all if it was closed.
fn answer(mut stream: &TcpStream, patience: Duration) -> Option<String> {
    use std::io::ErrorKind::{ConnectionReset, TimedOut, WouldBlock};

    stream.set_read_timeout(Some(patience)).unwrap();
    let mut answer = [0; 1 << 10];
    match stream.read(&mut answer) {
        Ok(bytes) => Some(String::from_utf8_lossy(&answer[..bytes]).into_owned()),
        Err(error) if [WouldBlock, TimedOut].contains(&error.kind()) => None,
        Err(error) if error.kind() == ConnectionReset => Some(String::new()),
        Err(error) => panic!("{error}"),
    }
}

/// Fails when what is read of topics does not count, when what is leased is not refused before, and when the answers of
/// the server's health are refused, too.
#[test]
fn answers_that_are_not_read_keep_others_from_reading_and_leasing() {
    // More than the system keeps on the way between two sockets.
    const RECORDS: usize = 15;
    const VALUE_BYTES: usize = 1_000_000;
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["--max-unread-bytes", "1MiB"]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    server.post("/v1/queues", &json!({"name": "q"})).expect(201);
    let line = json!({"value": "x".repeat(VALUE_BYTES)}).to_string() + "\n";
    for _ in 0..RECORDS {
        server.post_lines("/v1/topics/t/records", &line).expect(200);
    }
    let message = "{\"value\":\"m\"}\n";
    server
        .post_lines("/v1/queues/q/messages", message)
        .expect(200);

    let address = server.url().strip_prefix("http://").unwrap();
    let all = "/v1/topics/t/records?max_bytes=16777216";
    let mut unread = TcpStream::connect(address).unwrap();
    let request = format!("GET {all} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    unread.write_all(request.as_bytes()).unwrap();
    // One that is alone gets through.
    let mut begun = [0; 15];
    unread.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200 OK");

    let lease = || server.post("/v1/queues/q/lease", &json!({"max_messages": 1}));
    let one = || server.get("/v1/topics/t/records?max_records=1");
    one().expect_problem(503, "overloaded");
    lease().expect_problem(503, "overloaded");
    server.get("/readyz").expect(200);
    let metrics = server.get("/metrics").expect(200).body;
    let held = metrics
        .lines()
        .find_map(|line| line.strip_prefix("millstream_http_unread_bytes "));
    let held: f64 = held.unwrap().parse().unwrap();
    assert!(held > (RECORDS * VALUE_BYTES) as f64, "{held}");
    // What is done is answered.
    server.post_lines("/v1/topics/t/records", &line).expect(200);
    drop(unread);
    wait_until("the answer is dropped", || one().status == 200);
    let leased = lease().expect(200);
    assert!(
        leased.body.contains("\"delivery_count\":1"),
        "{}",
        leased.body
    );
    server.stop();
}

/// Fails when connections are not counted, when one that is closed still counts, and when one waits for ever.
#[test]
fn connections_beyond_the_limit_wait_for_their_turn_and_are_closed_after_a_while() {
    const WAIT: Duration = Duration::from_secs(10);
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["--max-connections", "2"]);
    let address = server.url().strip_prefix("http://").unwrap();
    let is_ok = |stream: &TcpStream| {
        let answer = answer(stream, SOON).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let open = [ask(address), ask(address)];
    open.iter().for_each(is_ok);
    let waiting = ask(address);
    assert_eq!(answer(&waiting, Duration::from_millis(500)), None);
    let [closed, open] = open;
    drop(closed);
    is_ok(&waiting);
    let started = Instant::now();
    let refused = ask(address);
    assert_eq!(answer(&refused, WAIT * 3).as_deref(), Some(""));
    assert!(started.elapsed() > WAIT * 9 / 10, "{:?}", started.elapsed());
    drop(waiting);
    is_ok(&ask(address));
    drop(open);
    server.stop();
}
