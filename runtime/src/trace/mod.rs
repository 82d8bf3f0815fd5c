//! OpenTelemetry traces, exported as OTLP over HTTP: the only module that names OpenTelemetry.
//!
//! [`start`] turns tracing on, once in a process; without it [`active`] is `None`, and nobody does anything. Records
//! carry the context of the span that they come from in their headers, as W3C defines it ([`TraceContext`]). Whoever
//! processes them asks the [`Tracer`] whether to, and hands over a [`FinishedSpan`] in the end; a thread exports
//! those (`export.rs`).

mod client;
mod context;
mod export;
mod sampler;
mod span;

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;

pub use context::{
    MAX_TRACE_STATE_BYTES, TRACE_HEADERS_BYTES, TRACE_PARENT, TRACE_STATE, TraceContext,
};
pub use export::SpanCounts;
pub use sampler::Sampler;
pub use span::{AttributeValue, FinishedSpan, SpanKind};

use self::client::ExportClient;
use self::export::ExportQueue;

/// How long the collector may take to answer, and how long after the first attempt an export is tried again.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a collector takes traces, below its endpoint.
const TRACES_PATH: &str = "v1/traces";

/// Why tracing cannot be turned on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The endpoint is no URL.
    #[error(
        "the OTLP endpoint is `{endpoint}`; expected the URL of a collector, such as http://localhost:4318"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// The sampler is none of OpenTelemetry's.
    #[error("{what}")]
    Sampler {
        /// What is wrong, and what was expected.
        what: String,
    },
    /// OpenTelemetry's exporter refuses its settings.
    #[error("spans cannot be exported: {0}")]
    Exporter(String),
    /// The thread that exports cannot be started.
    #[error("cannot start a thread that exports spans: {0}")]
    Thread(String),
    /// It is on already.
    #[error("tracing has been turned on before in this process")]
    Started,
}

/// How to trace.
#[derive(Clone, Debug)]
pub struct TraceOptions {
    /// The collector's URL, to which `/v1/traces` is added.
    pub endpoint: String,
    /// What this program is called in traces.
    pub service_name: String,
    /// What is exported.
    pub sampler: Sampler,
}

/// Exports spans.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    queue: ExportQueue,
}

static ACTIVE: OnceLock<Tracer> = OnceLock::new();

/// Turns tracing on.
///
/// # Errors
/// See [`Error`].
pub fn start(options: &TraceOptions) -> Result<(), Error> {
    let tracer = Tracer::new(options)?;
    ACTIVE.set(tracer).map_err(|_| Error::Started)
}

/// What exports spans; `None` if tracing is off.
#[inline]
pub fn active() -> Option<&'static Tracer> {
    ACTIVE.get()
}

/// Exports what waits to be exported, and returns whether that was done within `limit`. Blocks.
pub fn flush(limit: Duration) -> bool {
    active().is_none_or(|tracer| tracer.queue.flush(limit))
}

/// Spans since tracing was turned on.
pub fn span_counts() -> SpanCounts {
    active().map_or_else(SpanCounts::default, |tracer| tracer.queue.counts())
}

impl Tracer {
    pub(crate) fn new(options: &TraceOptions) -> Result<Self, Error> {
        let endpoint = options.endpoint.trim_end_matches('/');
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(Error::Endpoint {
                endpoint: options.endpoint.clone(),
            });
        }
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(ExportClient::new(EXPORT_TIMEOUT))
            .with_timeout(EXPORT_TIMEOUT)
            .with_endpoint(format!("{endpoint}/{TRACES_PATH}"))
            .build()
            .map_err(|error| Error::Exporter(error.to_string()))?;
        let resource = Resource::builder()
            .with_service_name(options.service_name.clone())
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        exporter.set_resource(&resource);
        Ok(Self {
            sampler: options.sampler,
            queue: ExportQueue::start(exporter)?,
        })
    }

    /// Whether to export what continues the trace of this span.
    pub fn samples(&self, parent: &TraceContext) -> bool {
        self.sampler.samples(parent)
    }

    /// A span that begins a trace, if that is to be exported.
    pub fn root(&self) -> Option<TraceContext> {
        let trace_id = fastrand::u128(1..).to_be_bytes();
        let is_sampled = self.sampler.samples_root(trace_id);
        is_sampled.then(|| TraceContext::root(trace_id, new_span_id()))
    }

    /// A span of a new trace, to be exported whatever the sampler says of new ones.
    pub fn sampled_root(&self, span_id: [u8; 8]) -> TraceContext {
        TraceContext::root(fastrand::u128(1..).to_be_bytes(), span_id)
    }

    /// Exports a span.
    pub fn export(&self, span: FinishedSpan) {
        self.queue.push(span);
    }
}

/// An id for a span.
pub fn new_span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

#[cfg(test)]
mod tests;
