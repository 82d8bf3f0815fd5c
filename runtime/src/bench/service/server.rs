//! The service that is called: it answers each request after a while, however many there are.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running service on this machine. It ends when this is dropped.
pub(super) struct Server {
    address: SocketAddr,
    running: JoinHandle<()>,
}

impl Server {
    /// Starts a service that takes `pause` for each request, and then answers with the request's body.
    pub(super) async fn start(pause: Duration) -> anyhow::Result<Self> {
        let answer = move |body: Bytes| async move {
            tokio::time::sleep(pause).await;
            body
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("no port for the service that is to be called")?;
        let address = listener.local_addr()?;
        let routes = Router::new().route("/", post(answer));
        let running = tokio::spawn(async move {
            // It ends with the benchmark, and says nothing then.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { address, running })
    }

    /// Host and port.
    pub(super) fn authority(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}
