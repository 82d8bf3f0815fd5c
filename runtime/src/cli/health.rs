//! `millstream health`: asks a server whether it is ready, for health checks of containers.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::http::Request;
use bytes::Bytes;
use serde::Serialize;

use super::GlobalArgs;
use super::client::Remote;
use super::exit::Ending;
use super::output::Output;
use crate::server::LocalServer;

/// How long a server may take to answer: less than a health check of a container has, so that it can say so.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Where a server says whether it is ready.
const READY: &str = "/readyz";
const DEFAULT_URL: &str = "http://127.0.0.1:8474";

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// The server [default: `--server`, else the one that holds the data directory, else http://127.0.0.1:8474]
    #[arg(env = "MILLSTREAM_HEALTH_URL")]
    url: Option<String>,
}

#[derive(Debug, Serialize)]
struct HealthView {
    url: String,
    ready: bool,
    status: u16,
    answer: String,
}

/// Runs the verb: the exit code is 0 if the server is ready, else 1.
pub(super) async fn run(
    args: HealthArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let server = server(args, global)?;
    let url = format!("{}{READY}", server.url());
    let request = Request::get(READY).body(Bytes::new())?;
    let answered = tokio::time::timeout(TIMEOUT, server.send(request))
        .await
        .with_context(|| format!("no answer from {url} within {TIMEOUT:?}"))?;
    // For a health check that is an answer, and not the exit code of a server that cannot be asked.
    let (status, answer) = answered.map_err(|error| anyhow!("no answer from {url}: {error:#}"))?;
    let answer = String::from_utf8_lossy(&answer.body);
    let view = HealthView {
        url,
        ready: status.is_success(),
        status: status.as_u16(),
        answer: answer.trim().to_owned(),
    };
    output.result(&view, |output| {
        let word = if view.ready { "ready" } else { "not ready" };
        output.line(format_args!("{word} ({}): {}", view.status, view.answer))
    })?;
    Ok(match view.ready {
        true => Ending::Done,
        false => Ending::Failed,
    })
}

fn server(args: HealthArgs, global: &GlobalArgs) -> anyhow::Result<Remote> {
    let url = args.url.as_ref().or(global.server.as_ref());
    match (url, LocalServer::read(&global.data_dir)) {
        (Some(url), _) => Remote::named(url, global),
        (None, Some(server)) => Remote::local(server),
        (None, None) => Remote::named(DEFAULT_URL, global),
    }
}
