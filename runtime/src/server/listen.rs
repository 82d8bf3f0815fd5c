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

/// Bytes that the names and values of a request's headers may have together with HTTP/2, 32 more for each counted in. Where a
/// stream of a topic goes on is one header, and has up to 25 for each of up to 4,096 partitions. (HTTP/1.1 takes 408 KiB.)
const MAX_HEADER_BYTES: u32 = 128 << 10;

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
        .max_header_list_size(MAX_HEADER_BYTES)
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
mod tests;
