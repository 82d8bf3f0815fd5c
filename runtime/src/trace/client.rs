//! Sends what OpenTelemetry's exporter has encoded, with the HTTP client that everything else here uses.

use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

/// Most bytes of an answer that are read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The client. It blocks the thread that asks.
#[derive(Debug)]
pub(super) struct ExportClient(Agent);

impl ExportClient {
    /// A client of which each request takes at most this long.
    pub(super) fn new(timeout: Duration) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_global(Some(timeout))
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(config.into())
    }
}

#[async_trait::async_trait]
impl HttpClient for ExportClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, body.to_vec());
        let (head, body) = self.0.run(request)?.into_parts();
        let body = body.into_with_config().limit(MAX_ANSWER_BYTES);
        Ok(Response::from_parts(head, body.read_to_vec()?.into()))
    }
}
