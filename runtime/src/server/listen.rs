//! Listens for connections, and goes down in good order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use tokio::task::JoinHandle;

use super::access::{
    Announced, Audit, Entrance, LocalServer, TlsError, TlsFiles, TokenError, Tokens, random_token,
};
use super::connections::{Bounded, Timeouts};
use super::router::router;
use super::state::{Data, Limits, State, Stopping};
use crate::deploy::Deployments;
use crate::storage::Store;

/// Requests at a time on a connection that speaks HTTP/2; what they hold in memory grows with it.
const MAX_STREAMS: u32 = 100;

/// Where and how a server listens.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// TLS; off loopback there is no listening without it.
    pub tls: Option<TlsFiles>,
    /// What is taken at most.
    pub limits: Limits,
    /// How long requests under way may take when the server goes down.
    pub grace: Duration,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It would be reachable from elsewhere, unprotected.
    #[error(
        "{address} can be reached from other machines: that needs TLS (--tls-certificates and --tls-key) and at least one token (`millstream token create NAME --role admin`), and {missing}; to be reached from this machine only, listen on 127.0.0.1"
    )]
    Unprotected {
        /// Where it was to listen.
        address: SocketAddr,
        /// What is missing.
        missing: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's message.
        reason: String,
    },
    /// A file of the data directory cannot be written.
    #[error("cannot write to {path}: {reason}")]
    File {
        /// The data directory.
        path: String,
        /// The system's message.
        reason: String,
    },
    /// The files for TLS are no good.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokenError),
}

/// A server that listens.
pub struct Server {
    state: State,
    stopping: Stopping,
    handle: Handle<SocketAddr>,
    listener: JoinHandle<std::io::Result<()>>,
    address: SocketAddr,
    url: String,
    grace: Duration,
    _announced: Announced,
}

impl Server {
    /// Starts listening. Until [`started`](Self::started) is called the server is not ready. Needs a multi-threaded
    /// tokio runtime.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn start(
        data: Data,
        deployments: Deployments,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let store = data.log.store().clone();
        let tokens = Tokens::open(store.clone())?;
        check_protected(&options, &tokens)?;
        let tls = options.tls.as_ref().map(TlsFiles::config).transpose()?;
        let (listener, address) = bind(options.listen)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let local_token = random_token()?;
        let (announced, audit) = announce(&store, &local_url(scheme, address), &local_token)
            .map_err(|error| ServerError::File {
                path: store.path().display().to_string(),
                reason: error.to_string(),
            })?;
        audit.summarize();
        let entrance = Entrance::Door {
            local_token,
            is_open: options.listen.ip().is_loopback(),
            audit,
        };
        let stopping = Stopping::new();
        let state = State::new(
            data,
            tokens,
            Some(deployments),
            options.limits,
            stopping.clone(),
        );
        let router = router(state.clone(), entrance);
        let handle = Handle::new();
        let connections = Bounded::new(options.limits.connections, Timeouts::default());
        let listener = serve(listener, router, handle.clone(), tls, connections)
            .map_err(cannot_listen(address))?;
        tracing::info!(%url, "listening");
        Ok(Self {
            state,
            stopping,
            handle,
            listener,
            address,
            url,
            grace: options.grace,
            _announced: announced,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was applied has been started: from now on `/readyz` says so.
    pub fn started(&self) {
        self.state.started();
    }

    /// Takes no new connections, lets those who wait for records go, and waits for the requests under way, but not for
    /// longer than [`ServerOptions::grace`].
    pub async fn stop(self) {
        let started = Instant::now();
        self.stopping.begin();
        self.handle.graceful_shutdown(Some(self.grace));
        // What it ends with makes no difference any more.
        let _ = self.listener.await;
        let left = self.grace.saturating_sub(started.elapsed());
        self.state.requests_done(left).await;
    }
}

/// Off loopback there is no listening without TLS and a token.
fn check_protected(options: &ServerOptions, tokens: &Tokens) -> Result<(), ServerError> {
    let missing = match (&options.tls, tokens.is_empty()) {
        _ if options.listen.ip().is_loopback() => return Ok(()),
        (Some(_), false) => return Ok(()),
        (None, true) => "there is neither",
        (None, false) => "there is no TLS",
        (Some(_), true) => "there is no token",
    };
    Err(ServerError::Unprotected {
        address: options.listen,
        missing,
    })
}

fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let bound = TcpListener::bind(listen).and_then(|listener| {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(cannot_listen(listen))
}

fn cannot_listen(address: SocketAddr) -> impl Fn(std::io::Error) -> ServerError {
    move |error| ServerError::Listen {
        address,
        reason: error.to_string(),
    }
}

/// Where the server is reached on its own machine.
fn local_url(scheme: &str, mut address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("{scheme}://{address}")
}

/// Writes where the server listens, and opens the audit log.
fn announce(store: &Store, url: &str, token: &str) -> std::io::Result<(Announced, Audit)> {
    let local = LocalServer {
        url: url.to_owned(),
        token: token.to_owned(),
    };
    let announced = local.announce(store.path())?;
    Ok((announced, Audit::open(store.path())?))
}

/// Answers connections.
fn serve(
    listener: TcpListener,
    router: Router,
    handle: Handle<SocketAddr>,
    tls: Option<Arc<ServerConfig>>,
    connections: Bounded,
) -> std::io::Result<JoinHandle<std::io::Result<()>>> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let timeouts = connections.timeouts();
    let mut server = axum_server::from_tcp(listener)?
        .handle(handle)
        .first_request_timeout(timeouts.headers)
        .acceptor(connections);
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.headers)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(timeouts.ping)
        .keep_alive_timeout(timeouts.pong)
        .max_concurrent_streams(MAX_STREAMS);
    Ok(match tls {
        None => tokio::spawn(server.serve(service)),
        Some(config) => {
            let config = RustlsConfig::from_config(config);
            let server = server.map(|bounded| RustlsAcceptor::new(config).acceptor(bounded));
            tokio::spawn(server.serve(service))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use axum::middleware::from_fn_with_state;
    use axum::routing::get;

    use super::super::outlet::{self, Outlet};
    use super::*;

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
    const ACKNOWLEDGED: u8 = 1;
    const WHOLE: u8 = 0x5;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
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
}
