//! A server that answers as ours does, and keeps nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::NEXT_OFFSETS;
use super::clients::{Batches, TOPIC};

/// A running server on this machine. It ends when this is dropped.
pub(super) struct Plain {
    url: String,
    running: JoinHandle<()>,
}

/// What a fetch is answered with.
struct Ready {
    lines: Bytes,
    records_a_body: u64,
    records_a_connection: u64,
}

impl Plain {
    /// Starts the server.
    pub(super) async fn start(batches: &Batches) -> anyhow::Result<Self> {
        let ready = Ready {
            lines: received(batches.body(0)).into(),
            records_a_body: batches.records_a_body(),
            records_a_connection: batches.records_a_connection(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("no port for the plain server")?;
        let address: SocketAddr = listener.local_addr()?;
        let path = format!("/v1/topics/{TOPIC}/records");
        let routes = Router::new()
            .route(&path, post(count))
            .route(&path, get(answer))
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::new(ready));
        let running = tokio::spawn(async move {
            // It ends with the benchmark, and says nothing then.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self {
            url: format!("http://{address}"),
            running,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Lines as they are answered, with what a record has besides key and value.
fn received(body: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (offset, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let (Some(fields), false) = (line.strip_prefix(b"{"), line.is_empty()) else {
            continue;
        };
        let start = format!(
            "{{\"topic\":\"{TOPIC}\",\"partition\":0,\"offset\":{offset},\"timestamp\":1700000000000,"
        );
        lines.extend_from_slice(start.as_bytes());
        lines.extend_from_slice(fields.strip_suffix(b"}").unwrap_or(fields));
        lines.extend_from_slice(b",\"headers\":[]}\n");
    }
    lines
}

async fn count(body: Bytes) -> Response {
    let acknowledged = memchr::memchr_iter(b'\n', &body).count();
    axum::Json(serde_json::json!({ "acknowledged": acknowledged })).into_response()
}

#[derive(Deserialize)]
struct Position {
    offsets: String,
}

async fn answer(
    State(ready): State<Arc<Ready>>,
    Query(position): Query<Position>,
) -> impl IntoResponse {
    let (partition, offset) = position.offsets.split_once(':').unwrap_or(("0", "0"));
    let offset: u64 = offset.parse().unwrap_or_default();
    let is_over = offset >= ready.records_a_connection;
    let (lines, next) = match is_over {
        true => (Bytes::new(), offset),
        false => (ready.lines.clone(), offset + ready.records_a_body),
    };
    ([(NEXT_OFFSETS, format!("{partition}:{next}"))], lines)
}
