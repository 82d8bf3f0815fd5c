//! `millstream health`: asks a server whether it is ready, for health checks of containers.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::exit::Ending;
use super::output::Output;

/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Bytes of an answer that are shown.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// Arguments of `health`.
#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// The server
    #[arg(default_value = "http://127.0.0.1:8474", env = "MILLSTREAM_HEALTH_URL")]
    url: String,
}

#[derive(Debug, Serialize)]
struct HealthView {
    url: String,
    ready: bool,
    status: u16,
    answer: String,
}

/// Runs the verb: the exit code is 0 if the server is ready, else 1.
pub(super) async fn run(args: HealthArgs, output: &mut Output) -> anyhow::Result<Ending> {
    let asked = tokio::task::spawn_blocking(move || ask(&args.url));
    let view = asked.await.context("the question was not asked")??;
    output.result(&view, |output| {
        let word = if view.ready { "ready" } else { "not ready" };
        output.line(format_args!("{word} ({}): {}", view.status, view.answer))
    })?;
    Ok(match view.ready {
        true => Ending::Done,
        false => Ending::Failed,
    })
}

fn ask(server: &str) -> anyhow::Result<HealthView> {
    let url = format!("{}/readyz", server.trim_end_matches('/'));
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    let agent: Agent = Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .tls_config(tls)
        .build()
        .into();
    let mut response = agent
        .get(&url)
        .call()
        .with_context(|| format!("no answer from {url}"))?;
    let answer = response
        .body_mut()
        .with_config()
        .limit(MAX_ANSWER_BYTES)
        .read_to_string()
        .with_context(|| format!("the answer from {url} cannot be read"))?;
    Ok(HealthView {
        url,
        ready: response.status().is_success(),
        status: response.status().as_u16(),
        answer: answer.trim().to_owned(),
    })
}
