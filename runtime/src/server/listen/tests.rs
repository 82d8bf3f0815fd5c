//! Clients that take nothing, have gone, or ask for much.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use axum::middleware::from_fn_with_state;
use axum::routing::get;

use super::*;
use crate::model::limits::MAX_PARTITIONS;
use crate::server::outlet::{self, Outlet};

const ANSWER_BYTES: usize = 64 << 20;
const SHORT_BYTES: usize = 10_000;
/// Long enough for whoever is there, and short enough to wait for.
const SOON: Duration = Duration::from_secs(2);
/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(600);

/// A server that has patience with answers, and with nothing else, for this long; and a connection to it.
fn connected(patience: Duration) -> (Handle<SocketAddr>, TcpStream) {
    connected_to_one_that_waits(patience, SOON)
}

/// As [`connected`], and it waits so long for some of an answer to be taken.
fn connected_to_one_that_waits(
    patience: Duration,
    answer: Duration,
) -> (Handle<SocketAddr>, TcpStream) {
    let outlet = Outlet::with_patience(2 * ANSWER_BYTES, patience);
    let router = Router::new()
        .route("/", get(async || vec![0_u8; ANSWER_BYTES]))
        .route("/short", get(async || vec![0_u8; SHORT_BYTES]))
        .route("/go-on", get(lengths_of_what_goes_on))
        .layer(from_fn_with_state(outlet, outlet::bound));
    let (listener, address) = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let timeouts = Timeouts {
        answer,
        ping: SOON,
        pong: SOON,
        ..Timeouts::default()
    };
    let connections = Bounded::new(10, timeouts);
    let handle = Handle::new();
    serve(listener, router, handle.clone(), None, connections).unwrap();
    let client = TcpStream::connect(address).unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (handle, client)
}

/// Bytes that come until the server closes the connection.
fn read_to_end(mut client: TcpStream) -> usize {
    let mut bytes = vec![0; 1 << 20];
    let mut count = 0;
    loop {
        match client.read(&mut bytes) {
            Ok(0) => return count,
            Ok(read) => count += read,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return count,
            Err(error) => panic!("the server keeps the connection: {error}"),
        }
    }
}

/// Fails when nothing bounds how long an answer waits to be taken, and when a slow client is not let finish.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_its_answer_is_left() {
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let (server, mut stalled) = connected(LONG);
    let (_other, mut slow) = connected_to_one_that_waits(LONG, 4 * SOON);
    tokio::task::spawn_blocking(move || {
        stalled.write_all(request).unwrap();
        let has_connections = |count: usize| {
            let started = Instant::now();
            while server.connection_count() != count {
                assert!(started.elapsed() < LONG / 10, "not {count} connections");
                std::thread::sleep(SOON / 200);
            }
        };
        has_connections(1);
        has_connections(0);
        assert!(read_to_end(stalled) < ANSWER_BYTES);

        // All of it takes longer than the server waits for some of it.
        slow.write_all(request).unwrap();
        let mut some = vec![0; ANSWER_BYTES / 8];
        for _ in 0..7 {
            std::thread::sleep(3 * SOON / 4);
            slow.read_exact(&mut some).unwrap();
        }
        assert!(read_to_end(slow) >= ANSWER_BYTES / 8);
    })
    .await
    .unwrap();
}

// HTTP/2, RFC 9113, 3.4 and 6.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const ACKNOWLEDGED: u8 = 1;
const WHOLE: u8 = 0x5;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
/// The most that a frame may have.
const FRAME_BYTES: usize = 1 << 14;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length.to_vec();
    frame.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
    frame.extend_from_slice(payload);
    frame
}

/// Answers pings until the server closes the connection.
fn stay_until_closed(mut client: TcpStream) {
    loop {
        let mut head = [0; 9];
        if client.read_exact(&mut head).is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if client.read_exact(&mut payload).is_err() {
            return;
        }
        if head[3] == PING && head[4] & ACKNOWLEDGED == 0 {
            // An error is the end, which is noticed above.
            let _ = client.write_all(&frame(PING, ACKNOWLEDGED, 0, &payload));
        }
    }
}

/// Fails when only a write that waits is bounded: with HTTP/2 none does, since it is the client that says how much it
/// takes. Its library answers pings.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_2_that_opens_no_window_for_its_answer_is_left() {
    let (_server, mut client) = connected(SOON);
    client.set_read_timeout(Some(LONG / 10)).unwrap();
    let started = Instant::now();
    tokio::task::spawn_blocking(move || {
        client.write_all(PREFACE).unwrap();
        // An initial window of 0.
        let no_window = [0, 4, 0, 0, 0, 0];
        client
            .write_all(&frame(SETTINGS, 0, 0, &no_window))
            .unwrap();
        client
            .write_all(&frame(SETTINGS, ACKNOWLEDGED, 0, &[]))
            .unwrap();
        // `GET /short` of `http` at `a` (RFC 7541, 6.1 and 6.2.2).
        let headers = [&[0x82, 0x86, 0x04, 6][..], b"/short", &[0x01, 1, b'a']].concat();
        client
            .write_all(&frame(HEADERS, WHOLE, 1, &headers))
            .unwrap();
        stay_until_closed(client);
    })
    .await
    .unwrap();
    assert!(started.elapsed() < LONG / 20, "{:?}", started.elapsed());
}

/// Fails when a connection without a request stays for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_2_that_has_gone_is_left() {
    let (_server, mut gone) = connected(LONG);
    tokio::task::spawn_blocking(move || {
        gone.write_all(PREFACE).unwrap();
        gone.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        gone.write_all(&frame(SETTINGS, ACKNOWLEDGED, 0, &[]))
            .unwrap();
        read_to_end(gone);
    })
    .await
    .unwrap();
}

/// Where a consumer of a topic with all the partitions that there can be goes on, its offsets having so many digits.
fn places(digits: usize) -> String {
    let offset = "9".repeat(digits);
    let places = (0..MAX_PARTITIONS).map(|partition| format!("{partition}:{offset}"));
    places.collect::<Vec<_>>().join(",")
}

/// Bytes of the query, and of the header of a stream that goes on.
async fn lengths_of_what_goes_on(request: axum::extract::Request) -> String {
    let query = request.uri().query().unwrap_or_default();
    let id = request.headers().get("last-event-id");
    format!("{} and {}", query.len(), id.map_or(0, |id| id.len()))
}

/// Text as HPACK has it (RFC 7541, 5.1 and 5.2).
fn literal(text: &str) -> Vec<u8> {
    let mut literal = Vec::new();
    let Some(mut rest) = text.len().checked_sub(0x7f) else {
        literal.push(u8::try_from(text.len()).unwrap());
        literal.extend_from_slice(text.as_bytes());
        return literal;
    };
    literal.push(0x7f);
    while rest >= 0x80 {
        literal.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
        rest /= 0x80;
    }
    literal.push(u8::try_from(rest).unwrap());
    literal.extend_from_slice(text.as_bytes());
    literal
}

/// Fails when either of the protocols takes no more than its library does by itself.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_all_the_partitions_of_a_topic_can_go_on() {
    // A query has less room than a header: with its path 64 KiB.
    for (query, id) in [(places(10), String::new()), (String::new(), places(19))] {
        let all = format!("{} and {}", query.len(), id.len());
        let target = format!("/go-on?{query}");
        let (_server, mut first) = connected(LONG);
        let (_other, mut second) = connected(LONG);
        tokio::task::spawn_blocking(move || {
            let request = format!(
                "GET {target} HTTP/1.1\r\nhost: localhost\r\nlast-event-id: {id}\r\nconnection: close\r\n\r\n"
            );
            first.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            first.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with(&all), "{answer}");

            send_long_headers(&mut second, &target, &id);
            let body = read_body(&mut second);
            assert_eq!(String::from_utf8_lossy(&body), all);
        })
        .await
        .unwrap();
    }
}

/// `GET` over HTTP/2, with headers that are more than a frame takes.
fn send_long_headers(client: &mut TcpStream, target: &str, id: &str) {
    client.write_all(PREFACE).unwrap();
    client.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    client
        .write_all(&frame(SETTINGS, ACKNOWLEDGED, 0, &[]))
        .unwrap();
    // `http` at `a`, and a header that is not indexed (RFC 7541, 6.1 and 6.2.2).
    let headers = [
        &[0x82, 0x86, 0x04][..],
        &literal(target),
        &[0x01, 1, b'a', 0x00],
        &literal("last-event-id"),
        &literal(id),
    ];
    let headers = headers.concat();
    let mut chunks = headers.chunks(FRAME_BYTES).peekable();
    let mut kind = HEADERS;
    while let Some(chunk) = chunks.next() {
        let end = match chunks.peek() {
            Some(_) => 0,
            None => END_HEADERS,
        };
        let whole = match kind {
            HEADERS => END_STREAM,
            _ => 0,
        };
        client
            .write_all(&frame(kind, end | whole, 1, chunk))
            .unwrap();
        kind = CONTINUATION;
    }
}

/// The body of the only answer that comes over HTTP/2.
fn read_body(client: &mut TcpStream) -> Vec<u8> {
    const DATA: u8 = 0;
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        client.read_exact(&mut payload).unwrap();
        let (kind, flags, stream) = (head[3], head[4], head[8]);
        if kind == DATA {
            body.extend_from_slice(&payload);
        }
        if stream == 1 && flags & END_STREAM != 0 {
            return body;
        }
    }
}
