//! A span that has ended, and what OpenTelemetry's exporter makes of it.

use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind as OtelKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::TraceContext;

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that was answered.
    Server,
    /// Records that were processed.
    Consumer,
    /// Records that were made.
    Producer,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    /// Text.
    Text(Arc<str>),
    /// A number.
    Number(i64),
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for AttributeValue {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A span that has ended.
#[derive(Debug)]
pub struct FinishedSpan {
    /// How it is named to others.
    pub context: TraceContext,
    /// The span that caused it.
    pub parent: Option<TraceContext>,
    /// What tracing systems keep in its trace.
    pub state: Option<String>,
    /// What it is about.
    pub kind: SpanKind,
    /// Its name.
    pub name: Arc<str>,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else there is to say.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// Spans that it has to do with.
    pub links: Vec<TraceContext>,
    /// Links that there would be besides.
    pub dropped_links: u32,
    /// What went wrong.
    pub error: Option<Arc<str>>,
}

impl FinishedSpan {
    pub(super) fn into_data(self) -> SpanData {
        let state = self.state.as_deref().map(|state| state.parse());
        let state = state.and_then(Result::ok).unwrap_or_default();
        let mut links = SpanLinks::default();
        let linked = self.links.iter();
        let linked =
            linked.map(|link| Link::with_context(span_context(link, TraceState::NONE, true)));
        links.links = linked.collect();
        links.dropped_count = self.dropped_links;
        let attributes = self.attributes.into_iter();
        let attributes = attributes.map(|(name, value)| {
            let value = match value {
                AttributeValue::Text(text) => Value::from(text),
                AttributeValue::Number(number) => Value::from(number),
            };
            KeyValue::new(name, value)
        });
        SpanData {
            span_context: span_context(&self.context, state, false),
            parent_span_id: self.parent.map_or(SpanId::INVALID, |parent| {
                SpanId::from_bytes(parent.span_id())
            }),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: match self.kind {
                SpanKind::Server => OtelKind::Server,
                SpanKind::Consumer => OtelKind::Consumer,
                SpanKind::Producer => OtelKind::Producer,
            },
            name: self.name.to_string().into(),
            start_time: self.began,
            end_time: self.ended.max(self.began),
            attributes: attributes.collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: self
                .error
                .map_or(Status::Unset, |error| Status::error(error.to_string())),
            instrumentation_scope: InstrumentationScope::builder("millstream")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }
}

fn span_context(context: &TraceContext, state: TraceState, is_remote: bool) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id()),
        SpanId::from_bytes(context.span_id()),
        TraceFlags::new(context.flags()),
        is_remote,
        state,
    )
}
