//! Where a server listens, and what a client is told that does not reach it there.

use std::net::{IpAddr, UdpSocket};

use serde_json::{Value, json};

use crate::server::Server;
use crate::server_access::token;
use crate::support::{Finished, Sandbox, note};

const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/e2e/tls/ca.pem");
const CERTIFICATE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/e2e/tls/localhost.pem"
);
const KEY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/e2e/tls/localhost.key"
);

/// A server with TLS at this address.
fn secured(sandbox: &Sandbox, address: &str) -> Server {
    let files = ["--tls-certificates", CERTIFICATE, "--tls-key", KEY];
    Server::of(sandbox.start(&[&["serve", "--listen", address][..], &files].concat()))
}

fn list(sandbox: &Sandbox, url: &str, options: &[&str]) -> Finished {
    sandbox.run(&[&["topic", "list", "--server", url], options].concat())
}

/// Fails when the message is that of the TLS library alone.
#[test]
fn who_cannot_reach_a_server_over_tls_is_told_what_to_do() {
    let trusting = ["--server-ca", AUTHORITY];
    let sandbox = Sandbox::new();
    let server = secured(&sandbox, "127.0.0.1:0");
    list(&sandbox, server.url(), &trusting).expect_code(0);
    let refused = list(&sandbox, server.url(), &[])
        .expect_code(3)
        .expect_error(&["certificate authority", "--server-ca FILE"]);
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    let plain = server.url().replace("https", "http");
    list(&sandbox, &plain, &trusting)
        .expect_code(3)
        .expect_error(&["does not speak HTTP", server.url()]);
    server.stop();
    // An address that the certificate has not.
    let server = secured(&sandbox, "127.0.0.2:0");
    list(&sandbox, server.url(), &trusting)
        .expect_code(3)
        .expect_error(&["127.0.0.2", "by a name that its certificate has"]);
    server.stop();
}

#[test]
fn who_speaks_tls_to_a_server_without_it_is_told_so() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    let url = server.url().replace("http", "https");
    list(&sandbox, &url, &[])
        .expect_code(3)
        .expect_error(&["does not speak TLS", server.url()]);
    server.stop();
}

/// Fails when only an address can be listened on.
#[test]
fn a_server_listens_on_the_address_of_a_name() {
    let sandbox = Sandbox::new();
    let server = Server::of(sandbox.start(&["serve", "--listen", "localhost:0"]));
    assert!(
        server.url().starts_with("http://127.0.0.1:"),
        "{}",
        server.url()
    );
    server.get("/readyz").expect(200);
    server.stop();
    sandbox
        .run(&["serve", "--listen", "no such host:0"])
        .expect_code(2)
        .expect_error(&["--listen", "host `no such host`"]);
}

/// An address of this machine that is not of the loopback interface; none where there is no network.
fn address_in_the_network() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // This sends nothing; it chooses the address from which would be sent.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

/// Asks for every operation without a token that is good. `is_here`: over the loopback interface, where health is told.
fn all_are_refused(server: &Server, document: &Value, is_here: bool) {
    let mut refused = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method = method.to_uppercase();
            let answered = server.send(&method, path, "application/json", "{}");
            if is_here && operation["security"][0] == json!({}) {
                assert!(["/livez", "/readyz"].contains(&path.as_str()), "{path}");
                answered.expect(200);
            } else {
                answered.expect_problem(401, "unauthenticated");
                refused += 1;
            }
        }
    }
    assert!(refused > 50, "only {refused} operations");
}

/// A server with TLS, and a token of it.
fn secured_with_token(sandbox: &Sandbox, address: &str) -> (Server, String) {
    let admin = token(sandbox, &["t", "--role", "admin"]);
    (secured(sandbox, address), admin)
}

#[test]
fn off_loopback_no_operation_is_reached_without_a_token() {
    let sandbox = Sandbox::new();
    let (mut server, admin) = secured_with_token(&sandbox, "0.0.0.0:0");
    server.call_it("localhost");
    let document = server.get("/openapi.json").expect(200).json();
    all_are_refused(&server, &document, true);
    // Revoking the last token opens nothing.
    server.log_in(&admin);
    let revoke = server.send("DELETE", "/v1/tokens/t", "application/json", "");
    let revoked = revoke.expect(200).json();
    assert_eq!(revoked, json!({"name": "t", "tokens_left": 0}));
    all_are_refused(&server, &document, true);
    server.log_out();
    all_are_refused(&server, &document, true);
    // Whoever can read the data directory is still let in, by whatever name the certificate knows the server.
    assert_eq!(sandbox.json(&["token", "list"]), json!([]));
    server.stop();
}

/// Fails when the server is open as soon as there are no tokens.
#[test]
fn a_server_that_had_a_token_stays_closed_when_the_last_one_is_revoked() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    server.post("/v1/topics", &json!({"name": "t"})).expect(201);
    // It is open, and what it lets in so ends with the first token, however soon that goes again.
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| server.get("/v1/topics/t/stream"));
        server.wait_for_consumers(1);
        token(&sandbox, &["ops", "--role", "admin"]);
        revoke_last(&sandbox, "ops", "lets nobody in but");
        assert!(
            stream
                .join()
                .unwrap()
                .expect(200)
                .body
                .contains("event: error")
        );
    });
    let closed = |server: &Server| {
        let refused = server
            .get("/v1/topics")
            .expect_problem(401, "unauthenticated");
        let detail = refused["detail"].as_str().unwrap().to_owned();
        for part in [
            "no tokens any more",
            "token create",
            "restart without tokens",
        ] {
            assert!(detail.contains(part), "{detail}");
        }
        let more = json!({"name": "mine", "roles": ["admin"]});
        server
            .post("/v1/tokens", &more)
            .expect_problem(401, "unauthenticated");
    };
    closed(&server);
    // Whoever can read the data directory makes another one.
    let ops = token(&sandbox, &["ops", "--role", "admin"]);
    server.stop();

    // One that was there when it started counts as one that was made since.
    let mut server = Server::start(&sandbox, &[]);
    server.log_in(&ops);
    let revoke = server.send("DELETE", "/v1/tokens/ops", "application/json", "");
    assert_eq!(revoke.expect(200).json()["tokens_left"], 0);
    server.log_out();
    closed(&server);
    server.stop();

    let server = Server::start(&sandbox, &[]);
    server.get("/v1/topics").expect(200);
    server.stop();
    token(&sandbox, &["one", "--role", "read"]);
    token(&sandbox, &["two", "--role", "read"]);
    let revoked = sandbox.run(&["token", "revoke", "one"]).expect_code(0);
    assert!(
        !revoked.stderr.contains("no token is left"),
        "{}",
        revoked.stderr
    );
    revoke_last(&sandbox, "two", "a server that is started without any");
}

/// Revokes the last token, and is told so.
#[track_caller]
fn revoke_last(sandbox: &Sandbox, name: &str, meaning: &str) {
    let revoke = ["token", "revoke", name, "--output", "json"];
    let revoked = sandbox.run(&revoke).expect_code(0);
    let json: Value = serde_json::from_str(&revoked.stdout).unwrap();
    assert_eq!(json, json!({"name": name, "tokens_left": 0}));
    for part in ["no token is left", meaning] {
        assert!(revoked.stderr.contains(part), "{}", revoked.stderr);
    }
}

/// Fails when the server takes what comes over the network for its own machine's, and when `health` sends no token.
/// `server/access/tests.rs` has the first for machines without a network.
#[test]
fn over_the_network_health_is_told_to_those_with_a_token() {
    let Some(address) = address_in_the_network() else {
        note("there is no network: nothing was asked over one");
        return;
    };
    let sandbox = Sandbox::new();
    let address = address.to_string();
    let (mut server, admin) = secured_with_token(&sandbox, &format!("{address}:0"));
    server.call_it(&address);
    let paths = ["/readyz", "/livez", "/openapi.json", "/errors/internal"];
    for path in paths {
        server.get(path).expect_problem(401, "unauthenticated");
    }
    server.log_in(&admin);
    for path in paths {
        server.get(path).expect(200);
    }
    let document = server.get("/openapi.json").expect(200).json();
    server.log_out();
    all_are_refused(&server, &document, false);
    // With the token that the data directory has.
    sandbox.run(&["health"]).expect_code(0);
    server.stop();
}
