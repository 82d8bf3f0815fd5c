//! Listens for connections, and goes down in good order.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use tokio::task::JoinHandle;

use super::access::{
    Announced, Audit, Entrance, LocalServer, TlsError, TlsFiles, TokenError, Tokens, random_token,
};
use super::connections::Bounded;
use super::router::router;
use super::state::{Data, Limits, State, Stopping};
use crate::deploy::Deployments;

/// How long the headers of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// Starts listening. Needs a multi-threaded tokio runtime.
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
        let is_loopback = options.listen.ip().is_loopback();
        let missing = match (&options.tls, tokens.is_empty()) {
            (None, true) => Some("there is neither"),
            (None, false) => Some("there is no TLS"),
            (Some(_), true) => Some("there is no token"),
            (Some(_), false) => None,
        };
        if let (false, Some(missing)) = (is_loopback, missing) {
            return Err(ServerError::Unprotected {
                address: options.listen,
                missing,
            });
        }
        let tls = options.tls.as_ref().map(TlsFiles::config).transpose()?;
        let cannot_listen = |error: std::io::Error| ServerError::Listen {
            address: options.listen,
            reason: error.to_string(),
        };
        let listener = TcpListener::bind(options.listen).map_err(cannot_listen)?;
        listener.set_nonblocking(true).map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");

        let cannot_write = |error: std::io::Error| ServerError::File {
            path: store.path().display().to_string(),
            reason: error.to_string(),
        };
        let local_token = random_token()?;
        let local = LocalServer {
            url: url.clone(),
            token: local_token.clone(),
            certificates: options.tls.as_ref().map(|files| files.certificates.clone()),
        };
        let announced = local.announce(store.path()).map_err(cannot_write)?;
        let entrance = Entrance::Door {
            local_token,
            is_open: is_loopback,
            audit: Audit::open(store.path()).map_err(cannot_write)?,
        };
        let stopping = Stopping::new();
        let state = State::new(
            data,
            tokens,
            Some(deployments),
            options.limits,
            stopping.clone(),
        );
        let service =
            router(state.clone(), entrance).into_make_service_with_connect_info::<SocketAddr>();
        let handle = Handle::new();
        let bounded = Bounded::new(options.limits.connections);
        let mut server = axum_server::from_tcp(listener)
            .map_err(cannot_listen)?
            .handle(handle.clone())
            .first_request_timeout(HEADER_TIMEOUT)
            .acceptor(bounded);
        server
            .http_builder()
            .http1()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT);
        let listener = match tls {
            None => tokio::spawn(server.serve(service)),
            Some(config) => {
                let config = RustlsConfig::from_config(config);
                let server = server.map(|bounded| RustlsAcceptor::new(config).acceptor(bounded));
                tokio::spawn(server.serve(service))
            }
        };
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

    /// Takes no new connections, lets those who wait for records go, and waits for the requests under way, but not for
    /// longer than [`ServerOptions::grace`].
    pub async fn stop(self) {
        self.stopping.begin();
        self.handle.graceful_shutdown(Some(self.grace));
        // What it ends with makes no difference any more.
        let _ = self.listener.await;
        self.state.requests_done(self.grace).await;
    }
}
