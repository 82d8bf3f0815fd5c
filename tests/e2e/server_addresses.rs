//! Where a server listens, and what a client is told that does not reach it there.

use crate::server::Server;
use crate::support::{Finished, Sandbox};

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
