//! A server elsewhere, or the one that holds the data directory.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{HeaderValue, Request, StatusCode, header};
use bytes::Bytes;
use tokio::task::spawn_blocking;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::{Answer, Unreachable};
use crate::cli::GlobalArgs;
use crate::cli::exit::Usage;
use crate::server::LocalServer;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than a deploy of many tasks, or a compaction, takes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Whose certificates are good.
#[derive(Debug, Clone, Copy)]
enum Trust<'a> {
    /// Those that the system trusts.
    System,
    /// Those that lead to one in this file, in PEM.
    Certificates(&'a Path),
    /// Any: the process that holds the data directory has said where it listens on this machine, and its certificate
    /// is made out to the name by which others know it.
    OwnMachine,
}

/// A server.
#[derive(Clone)]
pub(in crate::cli) struct Remote {
    agent: Agent,
    url: String,
    authorization: Option<HeaderValue>,
}

impl Remote {
    /// A server that the user has named, with the token and the certificates that are to be used for it.
    pub(in crate::cli) fn named(url: &str, global: &GlobalArgs) -> anyhow::Result<Self> {
        let trust = match &global.server_ca {
            Some(file) => Trust::Certificates(file),
            None => Trust::System,
        };
        Self::new(url, global.token.clone(), trust)
    }

    /// The server that holds a data directory of this machine.
    pub(in crate::cli) fn local(server: LocalServer) -> anyhow::Result<Self> {
        Self::new(&server.url, Some(server.token), Trust::OwnMachine)
    }

    fn new(url: &str, token: Option<String>, trust: Trust<'_>) -> anyhow::Result<Self> {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(Usage(format!(
                "the server is `{url}`; expected a URL such as http://127.0.0.1:8474"
            ))
            .into());
        }
        let tls = TlsConfig::builder();
        let tls = match trust {
            Trust::System => tls.root_certs(RootCerts::PlatformVerifier),
            Trust::Certificates(path) => {
                tls.root_certs(RootCerts::new_with_certs(&read_certificates(path)?))
            }
            Trust::OwnMachine => tls.disable_verification(true),
        };
        let mut config = Agent::config_builder();
        if matches!(trust, Trust::OwnMachine) {
            // What is on this machine is not asked through another one, which would see the token.
            config = config.proxy(None);
        }
        let config = config
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .tls_config(tls.build())
            .build();
        let authorization = match token {
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                    .map_err(|_| Usage("the token has characters that no token has".to_owned()))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self {
            agent: config.new_agent(),
            url: url.trim_end_matches('/').to_owned(),
            authorization,
        })
    }

    /// Where it is, without a slash at the end.
    pub(in crate::cli) fn url(&self) -> &str {
        &self.url
    }

    /// Asks, and waits for the answer on another thread.
    pub(in crate::cli) async fn send(
        &self,
        request: Request<Bytes>,
    ) -> anyhow::Result<(StatusCode, Answer)> {
        let (mut parts, body) = request.into_parts();
        parts.uri = format!("{}{}", self.url, parts.uri)
            .parse()
            .with_context(|| format!("{} is no URL of a server", self.url))?;
        if let Some(value) = &self.authorization {
            parts.headers.insert(header::AUTHORIZATION, value.clone());
        }
        let request = Request::from_parts(parts, body.to_vec());
        let (agent, url) = (self.agent.clone(), self.url.clone());
        spawn_blocking(move || {
            let unreachable = |error: ureq::Error| Unreachable::new(&url, &error);
            let response = agent.run(request).map_err(unreachable)?;
            let (parts, mut body) = response.into_parts();
            let bytes = body
                .with_config()
                .limit(u64::MAX)
                .read_to_vec()
                .map_err(unreachable)?;
            let answer = Answer {
                body: bytes.into(),
                headers: parts.headers,
            };
            Ok((parts.status, answer))
        })
        .await
        .context("the request was given up")?
    }
}

fn read_certificates(path: &Path) -> anyhow::Result<Vec<ureq::tls::Certificate<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        let item = item.with_context(|| format!("{} holds no PEM", path.display()))?;
        if let PemItem::Certificate(certificate) = item {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        let path = path.display();
        return Err(Usage(format!(
            "{path} holds no certificate; expected PEM with one at least"
        ))
        .into());
    }
    Ok(certificates)
}
