//! `millstream serve`: the HTTP API, and the verbs that ask it.

use std::time::Duration;

use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::server_pipelines::wait_until;
use crate::support::{Finished, Running, Sandbox};

/// A server of a sandbox's data directory.
pub struct Server {
    process: Running,
    url: String,
    agent: ureq::Agent,
    token: Option<String>,
}

/// What a server answered.
pub struct Answered {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: String,
}

impl Answered {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The answer is a problem document with this code.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Value {
        let answered = self.expect(status);
        let media_type = answered.headers.get("content-type").unwrap();
        assert_eq!(media_type, "application/problem+json");
        let problem = answered.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("/errors/{code}"));
        problem
    }
}

/// The root of the tests' certificates.
fn test_root() -> RootCerts {
    let root = Certificate::from_pem(include_bytes!("tls/ca.pem")).unwrap();
    RootCerts::new_with_certs(&[root])
}

fn agent(tls: TlsConfig) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .tls_config(tls);
    config.build().new_agent()
}

impl Server {
    pub fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        Self::listen(sandbox, "127.0.0.1:0", arguments)
    }

    pub fn listen(sandbox: &Sandbox, address: &str, arguments: &[&str]) -> Self {
        let serve = [&["serve", "--listen", address], arguments].concat();
        Self::of(sandbox.start(&serve))
    }

    /// The server of a process that starts.
    pub fn of(mut process: Running) -> Self {
        process.wait_until("the server to listen", |process| {
            process.stdout().contains("listening on")
        });
        let stdout = process.stdout();
        let url = stdout.split("listening on ").nth(1).unwrap();
        let trusted = TlsConfig::builder().root_certs(test_root());
        Self {
            process,
            url: url.trim().to_owned(),
            agent: agent(trusted.build()),
            token: None,
        }
    }

    /// Asks it under another address of this machine from now on, whatever name its certificate is made out to.
    pub fn call_it(&mut self, host: &str) {
        let (scheme, rest) = self.url.split_once("://").unwrap();
        let (_, port) = rest.rsplit_once(':').unwrap();
        self.url = format!("{scheme}://{host}:{port}");
        self.agent = agent(TlsConfig::builder().disable_verification(true).build());
    }

    /// Sends a token from now on.
    pub fn log_in(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// Sends no token from now on.
    pub fn log_out(&mut self) {
        self.token = None;
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn send(&self, method: &str, path: &str, media_type: &str, body: &str) -> Answered {
        self.try_send(method, path, media_type, body.as_bytes())
            .unwrap()
    }

    /// Sends a request to a server that may go away meanwhile.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> Result<Answered, ureq::Error> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", media_type);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).unwrap();
        let mut response = self.agent.run(request)?;
        Ok(Answered {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string()?,
        })
    }

    /// Sends JSON lines with these headers.
    pub fn send_with(&self, path: &str, headers: &[(&str, &str)], lines: &str) -> Answered {
        let mut request = ureq::http::Request::post(format!("{}{path}", self.url))
            .header("content-type", "application/x-ndjson");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(lines.to_owned()).unwrap();
        let mut response = self.agent.run(request).unwrap();
        Answered {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.body_mut().read_to_string().unwrap(),
        }
    }

    pub fn get(&self, path: &str) -> Answered {
        self.send("GET", path, "application/json", "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answered {
        self.send("POST", path, "application/json", &body.to_string())
    }

    pub fn post_lines(&self, path: &str, lines: &str) -> Answered {
        self.send("POST", path, "application/x-ndjson", lines)
    }

    /// Waits until so many requests wait for records or messages. That takes a token that may read, if any is needed.
    #[track_caller]
    pub fn wait_for_consumers(&self, count: u32) {
        wait_until(&format!("{count} consumers that wait"), || {
            let metrics = self.get("/metrics").expect(200).body;
            let mut lines = metrics.lines();
            let waiting =
                lines.find_map(|line| line.strip_prefix("millstream_http_waiting_consumers "));
            waiting.unwrap().parse::<f64>().unwrap() == f64::from(count)
        });
    }

    /// Its process.
    pub fn process(&self) -> &Running {
        &self.process
    }

    /// SIGKILL. Returns whether that ended it.
    pub fn kill(self) -> bool {
        self.process.kill().0
    }

    /// Waits until it ends by itself.
    pub fn wait(self) -> Finished {
        self.process.wait()
    }

    /// Tells it to stop, as `systemctl stop` does, and waits for its end.
    #[track_caller]
    pub fn stop(self) -> Finished {
        self.process.terminate();
        self.process.wait().expect_code(0)
    }
}

#[test]
fn records_go_in_and_come_out() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    let topic = json!({"name": "t", "partitions": 2, "settings": {"retention_ms": null}});
    let created = server.post("/v1/topics", &topic).expect(201).json();
    assert_eq!(created["retention_ms"], Value::Null);
    server
        .post("/v1/topics", &topic)
        .expect_problem(409, "already-exists");
    let lines = "{\"partition\":0,\"key\":\"a\",\"value\":\"1\"}\n\n{\"partition\":1,\"value\":{\"base64\":\"/w==\"}}\n";
    let produced = server.post_lines("/v1/topics/t/records", lines);
    assert_eq!(produced.expect(200).json(), json!({"acknowledged": 2}));

    let fetched = server.get("/v1/topics/t/records").expect(200);
    assert_eq!(fetched.body.lines().count(), 2, "{}", fetched.body);
    let next = fetched.headers.get("millstream-next-offsets").unwrap();
    assert_eq!(next, "0:1,1:1");
    let again = server
        .get("/v1/topics/t/records?offsets=0:1,1:1")
        .expect(200);
    assert_eq!(again.body, "");
    // A line that is refused: those before it are stored.
    let lines = "{\"partition\":0,\"value\":\"2\"}\n{\"valeu\":\"3\"}\n{\"value\":\"4\"}\n";
    let refused = server.post_lines("/v1/topics/t/records", lines);
    let problem = refused.expect_problem(400, "invalid-record");
    assert_eq!(problem["acknowledged"], 1);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("line 2:"), "{detail}");
    let rest = server
        .get("/v1/topics/t/records?offsets=0:1,1:1")
        .expect(200);
    assert!(rest.body.contains("\"value\":\"2\""), "{}", rest.body);
    server
        .get("/v1/topics/t/records?offsets=0:7")
        .expect_problem(416, "offset-out-of-range");
    server
        .get("/v1/topics/u/records")
        .expect_problem(404, "unknown-topic");
    server
        .get("/v1/topics/t/records?from=yesterday")
        .expect_problem(400, "invalid-request");
    server.get("/v2").expect_problem(404, "unknown-path");
    server
        .send("PUT", "/v1/topics", "application/json", "")
        .expect_problem(405, "method-not-allowed");
    assert!(
        server
            .get("/errors/unknown-topic")
            .expect(200)
            .body
            .contains("POST /v1/topics")
    );
    server.stop();
}

#[test]
fn a_consumer_that_waits_is_woken_and_let_go() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["--max-waiting-consumers", "1"]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.get("/v1/topics/t/records?wait_ms=50000"));
        server.wait_for_consumers(1);
        // Only one may wait.
        let refused = server.get("/v1/topics/t/records?wait_ms=1");
        assert!(refused.headers.contains_key("retry-after"));
        refused.expect_problem(429, "busy");
        server
            .post_lines("/v1/topics/t/records", "{\"value\":\"x\"}\n")
            .expect(200);
        let woken = waiting.join().unwrap().expect(200);
        assert!(woken.body.contains("\"value\":\"x\""), "{}", woken.body);
    });
    // One that waits when the server goes down gets an answer.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.get("/v1/topics/t/records?from=latest&wait_ms=50000"));
        server.wait_for_consumers(1);
        server.process.interrupt();
        assert_eq!(waiting.join().unwrap().expect(200).body, "");
    });
    server.process.wait().expect_code(0);
}

#[test]
fn a_topic_can_be_followed_and_taken_up_again() {
    use std::io::{BufRead as _, BufReader, Read as _};

    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    let lines: String = (0..3)
        .map(|number| format!("{{\"value\":\"{number}\"}}\n"))
        .collect();
    server
        .post_lines("/v1/topics/t/records", &lines)
        .expect(200);
    let follow = |last: Option<&str>, count: usize| {
        let mut request = server
            .agent
            .get(format!("{}/v1/topics/t/stream", server.url));
        if let Some(id) = last {
            request = request.header("last-event-id", id);
        }
        let mut response = request.call().unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let reader = BufReader::new(response.body_mut().as_reader());
        let mut events = Vec::new();
        let mut id = String::new();
        for line in reader.lines() {
            let line = line.unwrap();
            if let Some(text) = line.strip_prefix("id: ") {
                text.clone_into(&mut id);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let record: Value = serde_json::from_str(data).unwrap();
                events.push((id.clone(), record["value"].as_str().unwrap().to_owned()));
            }
            if events.len() == count {
                break;
            }
        }
        events
    };
    // Whoever is cut off before the first record knows where to go on.
    let mut quiet = server
        .agent
        .get(format!("{}/v1/topics/t/stream?from=latest", server.url))
        .call()
        .unwrap();
    let mut first = [0; 9];
    let mut body = quiet.body_mut().as_reader();
    body.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"id: 0:3\n\n");
    let strange = server
        .agent
        .get(format!("{}/v1/topics/t/stream", server.url))
        .header(
            "last-event-id",
            ureq::http::HeaderValue::from_bytes(b"0:\xb2").unwrap(),
        );
    assert_eq!(strange.call().unwrap().status(), 400);
    let events = follow(None, 2);
    assert_eq!(events[1], ("0:2".to_owned(), "1".to_owned()));
    let rest = follow(Some("0:2"), 1);
    assert_eq!(rest, [("0:3".to_owned(), "2".to_owned())]);
    server.stop();
}

/// Fails when a list counts as the fields in the order in which the code has them.
#[test]
fn a_list_is_no_object() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    server.post("/v1/queues", &json!({"name": "q"})).expect(201);
    for (path, list) in [
        ("/v1/groups/g/reset", json!(["t", [], "earliest", false])),
        ("/v1/queues/q/lease", json!([])),
        ("/v1/topics", json!(["u"])),
    ] {
        let problem = server
            .post(path, &list)
            .expect_problem(400, "invalid-request");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("expected an object"), "{detail}");
    }
    for (path, body) in [
        ("/v1/topics", json!({"name": "u", "settings": ["compact"]})),
        ("/v1/queues", json!({"name": "r", "settings": [1]})),
        (
            "/v1/groups/g/offsets",
            json!({"topic": "t", "offsets": [[0, 0]]}),
        ),
    ] {
        let problem = server.post(path, &body);
        problem.expect_problem(400, "invalid-request");
    }
    let line = "[0,1,\"k\",\"v\",[],null,null]\n";
    let problem = server
        .post_lines("/v1/topics/t/records", line)
        .expect_problem(400, "invalid-record");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("found a list"), "{detail}");
    // What is wrong in an object is named as before.
    let problem = server.post("/v1/topics", &json!({"name": "u", "partitions": "x"}));
    let problem = problem.expect_problem(400, "invalid-request");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("partitions: invalid type"), "{detail}");
    server.stop();
}

/// Fails when an offset that is given twice counts, and when none counts as some.
#[test]
fn each_partition_has_one_offset_in_a_commit() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    let commit = |offsets: Value| {
        let offsets = json!({"topic": "t", "offsets": offsets});
        server.post("/v1/groups/g/offsets", &offsets)
    };
    let zero = json!({"partition": 0, "offset": 0});
    commit(json!([zero])).expect(204);
    commit(json!([])).expect_problem(400, "invalid-request");
    commit(json!([zero, zero])).expect_problem(400, "invalid-request");
    server.stop();
}

#[test]
fn messages_are_leased_and_settled() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server.post("/v1/queues", &json!({"name": "q"})).expect(201);
    let lines = "{\"value\":\"1\"}\n{\"value\":\"2\"}\n{\"value\":\"3\"}\n";
    let enqueued = server
        .post_lines("/v1/queues/q/messages", lines)
        .expect(200);
    assert_eq!(enqueued.json(), json!({"acknowledged": 3, "duplicates": 0}));
    let leased = server
        .post("/v1/queues/q/lease", &json!({"max_messages": 3}))
        .expect(200);
    let receipts: Vec<String> = leased
        .body
        .lines()
        .map(|line| {
            let message: Value = serde_json::from_str(line).unwrap();
            message["receipt"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(receipts.len(), 3);
    let settled = |verb: &str, body: &Value| {
        server
            .post(&format!("/v1/queues/q/{verb}"), body)
            .expect(200)
            .json()
    };
    assert_eq!(
        settled(
            "acknowledge",
            &json!({"receipts": [receipts[0], receipts[0]]})
        ),
        json!({"settled": 1, "stale": []})
    );
    assert_eq!(
        settled("acknowledge", &json!({"receipts": [receipts[0]]}))["stale"],
        json!([receipts[0]])
    );
    settled("release", &json!({"receipts": [receipts[1]]}));
    settled(
        "extend",
        &json!({"receipts": [receipts[2]], "visibility_timeout_ms": 60_000}),
    );
    let again = server.post("/v1/queues/q/lease", &json!({})).expect(200);
    assert_eq!(again.body.lines().count(), 1, "{}", again.body);
    assert!(
        again.body.contains("\"delivery_count\":2"),
        "{}",
        again.body
    );
    server
        .post("/v1/queues/q/acknowledge", &json!({"receipts": ["x"]}))
        .expect_problem(400, "invalid-request");
    server.stop();
}

#[test]
fn verbs_ask_the_server_that_holds_the_data_directory() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["topic", "create", "t", "--partitions", "2"]);
    let file = sandbox.write_lines("in.jsonl", (0..100).map(|n| format!("{{\"k\":{n}}}")));
    let file = file.to_str().unwrap();
    let produced = sandbox.json(&["produce", "topic:t", "--key-field", "k", "--file", file]);
    assert_eq!(produced["records"], 100);
    let consumed = sandbox.succeed(&["consume", "topic:t", "--group", "g", "--output", "json"]);
    assert_eq!(consumed.lines().count(), 100);
    assert_eq!(
        sandbox.json(&["group", "describe", "g"])["positions"][0]["lag_records"],
        0
    );
    assert_eq!(sandbox.succeed(&["consume", "topic:t", "--group", "g"]), "");
    sandbox.succeed(&["group", "reset", "g", "--topic", "t", "--to", "earliest"]);
    let again = sandbox.succeed(&["consume", "topic:t", "--group", "g", "--max", "30"]);
    assert_eq!(again.lines().count(), 30);
    sandbox.succeed(&["queue", "create", "q"]);
    sandbox.succeed(&["produce", "queue:q", "--file", file]);
    let taken = sandbox.succeed(&[
        "consume", "queue:q", "--ack", "--max", "7", "--output", "json",
    ]);
    assert_eq!(taken.lines().count(), 7);
    assert_eq!(sandbox.json(&["queue", "describe", "q"])["waiting"], 93);
    // From elsewhere, by its address.
    let elsewhere = Sandbox::new();
    let listed = elsewhere.json(&["topic", "list", "--server", &server.url]);
    assert_eq!(listed[0]["name"], "t");
    assert!(!elsewhere.data_dir().exists());
    let url = server.url.clone();
    server.stop();
    // The same without it.
    assert_eq!(sandbox.json(&["topic", "list"])[0]["records"], 100);
    elsewhere
        .run(&["topic", "list", "--server", &url])
        .expect_code(3);
}

#[test]
fn a_token_opens_what_its_roles_say() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["topic", "create", "t"]);
    let token = |name: &str, roles: &[&str]| {
        let mut arguments = vec!["token", "create", name];
        for role in roles {
            arguments.extend(["--role", role]);
        }
        let created = sandbox.json(&arguments);
        created["token"].as_str().unwrap().to_owned()
    };
    let (producer, reader) = (
        token("producer", &["produce"]),
        token("reader", &["read", "consume"]),
    );
    let mut server = Server::start(&sandbox, &[]);
    // There are tokens: nothing is reached without one, but, from this machine, what says how the server is.
    server.get("/livez").expect(200);
    server.get("/readyz").expect(200);
    for path in [
        "/v1/topics",
        "/v1/topics/t/records",
        "/v1/tokens",
        "/v1/nothing",
    ] {
        server.get(path).expect_problem(401, "unauthenticated");
    }
    server.token = Some("mst_wrong".to_owned());
    server
        .get("/v1/topics")
        .expect_problem(401, "unauthenticated");
    server.token = Some(producer);
    server
        .post_lines("/v1/topics/t/records", "{\"value\":\"x\"}\n")
        .expect(200);
    server
        .get("/v1/topics/t/records")
        .expect_problem(403, "forbidden");
    server
        .post("/v1/topics", &json!({"name": "u"}))
        .expect_problem(403, "forbidden");
    server.token = Some(reader.clone());
    server.get("/v1/topics/t/records").expect(200);
    // What is misspelt does not count as left out.
    let misspelt = server.get("/v1/topics/t/records?form=latest");
    let problem = misspelt.expect_problem(400, "invalid-request");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("`form`") && detail.contains("from"),
        "{detail}"
    );
    server
        .post_lines("/v1/topics/t/records", "{\"value\":\"x\"}\n")
        .expect_problem(403, "forbidden");
    // Whoever can read the data directory needs no token.
    sandbox.succeed(&["token", "revoke", "reader"]);
    server
        .get("/v1/topics")
        .expect_problem(401, "unauthenticated");
    token("other", &["read", "consume"]);
    sandbox.succeed(&["token", "revoke", "other"]);
    let names: Vec<Value> = sandbox.json(&["token", "list"]).as_array().unwrap().clone();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0]["name"], "producer");
    let log = |name| std::fs::read_to_string(sandbox.data_dir().join(name)).unwrap();
    let (audit, refused) = (log("audit.jsonl"), log("audit-refused.jsonl"));
    let made = "\"subject\":\"token other with read, consume\"";
    for part in ["\"token\":\"local\"", "/v1/tokens/reader", made] {
        assert!(audit.contains(part), "{audit}");
    }
    assert!(
        refused.contains("\"status\":403") && !refused.contains(&reader),
        "{refused}"
    );
    server.stop();
}

#[test]
fn nothing_listens_off_loopback_without_tls_and_a_token() {
    let sandbox = Sandbox::new();
    let serve = ["serve", "--listen", "0.0.0.0:0"];
    sandbox
        .run(&serve)
        .expect_failure()
        .expect_error(&["--tls-certificates", "token create"]);
    sandbox.succeed(&["token", "create", "t", "--role", "admin"]);
    sandbox
        .run(&serve)
        .expect_failure()
        .expect_error(&["there is no TLS"]);
    // On loopback a page in a browser is not let in.
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    let foreign = |name: &str, value: &str| {
        let request = server.agent.get(format!("{}/v1/topics", server.url));
        request
            .header(name, value)
            .call()
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(foreign("origin", "https://evil.example"), 403);
    assert_eq!(foreign("host", "evil.example"), 403);
    assert_eq!(foreign("origin", "http://localhost:3000"), 200);
    server.stop();
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["--max-body-bytes", "1KiB"]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    let line = format!("{{\"value\":\"{}\"}}\n", "x".repeat(2000));
    server
        .post_lines("/v1/topics/t/records", &line)
        .expect_problem(413, "too-large");
    server
        .send("POST", "/v1/topics", "text/plain", "{}")
        .expect_problem(415, "unsupported-media-type");
    server.stop();
}

/// Fails when the free space is not compared.
#[test]
fn a_server_without_room_on_its_disk_is_not_ready() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &["--min-free-disk", "1000000TiB"]);
    let readiness = server.get("/readyz").expect(503).json();
    assert_eq!(readiness["ready"], false);
    let [reason] = readiness["reasons"].as_array().unwrap().as_slice() else {
        panic!("{readiness}");
    };
    let reason = reason.as_str().unwrap();
    let free_bytes = readiness["free_disk_bytes"].as_u64().unwrap();
    let free = format!("has {free_bytes} bytes left");
    for part in [free.as_str(), "--min-free-disk"] {
        assert!(reason.contains(part), "{reason}");
    }
    // The process is well, and takes records: it is for others to send them elsewhere.
    server.get("/livez").expect(200);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    sandbox
        .start_command(sandbox.bare_command(&["health", server.url()]))
        .wait()
        .expect_code(1);
    server.stop();
    let server = Server::start(&sandbox, &["--min-free-disk", "1"]);
    server.get("/readyz").expect(200);
    server.stop();
}

/// Fails when the store's failure is not looked at, and when the server stays without ever writing again.
#[test]
fn a_server_whose_store_is_poisoned_is_not_ready_says_why_and_ends() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    command.env(
        "FAILPOINTS",
        "commit::before-write=20*off->1*return(no space left)",
    );
    let server = Server::of(sandbox.start_command(command));
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    server.get("/readyz").expect(200);
    let produce = || server.post_lines("/v1/topics/t/records", "{\"value\":\"x\"}\n");
    let acknowledged = std::iter::repeat_with(produce).take_while(|it| it.status == 200);
    let acknowledged = acknowledged.count();
    // The disk has room again, and that changes nothing.
    produce().expect_problem(503, "store-poisoned");
    let readiness = server.get("/readyz").expect(503).json();
    let reasons = readiness["reasons"].to_string();
    for part in ["the store takes no writes", "no space left"] {
        assert!(reasons.contains(part), "{reasons}");
    }
    server.get("/livez").expect(200);
    let read = server.get("/v1/topics/t/records").expect(200);
    assert_eq!(read.body.lines().count(), acknowledged);
    // Whoever starts it again, as a service manager does by itself, is ready.
    let ended = server.wait().expect_code(1);
    for part in ["takes no more writes", "no space left"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    let server = Server::start(&sandbox, &[]);
    server.get("/readyz").expect(200);
    server.stop();
}

#[test]
fn what_was_acknowledged_over_http_survives_a_kill() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    let mut acknowledged = 0;
    for number in 0..50 {
        let lines = format!("{{\"value\":\"{number}\"}}\n").repeat(10);
        let produced = server
            .post_lines("/v1/topics/t/records", &lines)
            .expect(200);
        acknowledged += produced.json()["acknowledged"].as_u64().unwrap();
    }
    server.process.kill();
    // A server that was killed leaves its address behind; whoever comes next is not misled by it.
    let topics = sandbox.json(&["topic", "list"]);
    assert_eq!(topics[0]["records"], acknowledged);
    let server = Server::start(&sandbox, &[]);
    assert_eq!(
        server.get("/v1/topics/t").expect(200).json()["records"],
        acknowledged
    );
    server.stop();
}
