//! Where traces go: `--otlp-endpoint` and OpenTelemetry's environment variables.

use std::time::Duration;

use super::progress;
use crate::trace::{self, Sampler, TraceOptions};

/// How long spans that wait may take to be exported when the process ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// What the program is called in traces unless the environment says otherwise.
const SERVICE_NAME: &str = "millstream";

/// Where traces go.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TraceArgs {
    /// Export OpenTelemetry traces to the collector at this URL, as OTLP over HTTP
    ///
    /// Such as http://localhost:4318, to which `/v1/traces` is added. OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
    /// OTEL_TRACES_SAMPLER with OTEL_TRACES_SAMPLER_ARG, OTEL_EXPORTER_OTLP_HEADERS and OTEL_SDK_DISABLED are
    /// heeded.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

/// Exports what is left when it is dropped.
#[derive(Debug)]
pub(super) struct Traces(());

impl TraceArgs {
    /// Turns tracing on, if it is asked for.
    pub(super) fn start(&self) -> anyhow::Result<Option<Traces>> {
        let endpoint = self.otlp_endpoint.as_ref().filter(|it| !it.is_empty());
        let is_disabled = variable("OTEL_SDK_DISABLED")
            .is_some_and(|disabled| disabled.eq_ignore_ascii_case("true"));
        let Some(endpoint) = endpoint.filter(|_| !is_disabled) else {
            return Ok(None);
        };
        let argument = variable("OTEL_TRACES_SAMPLER_ARG");
        let sampler = match variable("OTEL_TRACES_SAMPLER") {
            Some(name) => Sampler::named(&name, argument.as_deref())?,
            None => Sampler::default(),
        };
        trace::start(&TraceOptions {
            endpoint: endpoint.clone(),
            service_name: variable("OTEL_SERVICE_NAME").unwrap_or_else(|| SERVICE_NAME.to_owned()),
            sampler,
        })?;
        Ok(Some(Traces(())))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if !trace::flush(FLUSH_LIMIT) {
            progress::note("warning: some traces were not exported in time");
        }
    }
}

/// A variable of the environment that is not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
