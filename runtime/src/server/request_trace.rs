//! A request that brings records, as a span; and the trace that its records belong to.

use std::time::SystemTime;

use axum::http::HeaderMap;

use super::problem::Problem;
use crate::model::HeadersBuf;
use crate::trace::{self, FinishedSpan, SpanKind, TRACE_PARENT, TRACE_STATE, TraceContext, Tracer};

/// The trace of a request.
#[derive(Debug)]
pub(super) struct RequestTrace {
    /// What records that do not say where they come from come from.
    context: TraceContext,
    state: Option<String>,
    span: Option<ServerSpan>,
}

/// The span of a request that is exported.
#[derive(Debug)]
struct ServerSpan {
    tracer: &'static Tracer,
    parent: Option<TraceContext>,
    began: SystemTime,
}

impl RequestTrace {
    /// The trace that a request names, or one that begins with it; `None` if tracing is off, or it is in none.
    pub(super) fn begin(headers: &HeaderMap) -> Option<Self> {
        let tracer = trace::active()?;
        let parent = headers.get(TRACE_PARENT);
        let parent = parent.and_then(|header| TraceContext::parse(header.as_bytes()));
        let state = headers.get(TRACE_STATE).filter(|_| parent.is_some());
        let state = state
            .and_then(|header| header.to_str().ok())
            .map(str::to_owned);
        let span = ServerSpan {
            tracer,
            parent,
            began: SystemTime::now(),
        };
        let (context, span) = match parent {
            Some(parent) if tracer.samples(&parent) => {
                (parent.sibling(trace::new_span_id()), Some(span))
            }
            // It is not ours to export, and goes on all the same.
            Some(parent) => (parent, None),
            None => (tracer.root()?, Some(span)),
        };
        Some(Self {
            context,
            state,
            span,
        })
    }

    /// Adds to a record's headers where it comes from, unless they say that already, or there is no room.
    pub(super) fn add_to(&self, headers: &mut HeadersBuf) {
        let is_said = |(name, _): (&str, _)| name == TRACE_PARENT;
        if headers.as_headers().iter().any(is_said) {
            return;
        }
        let added = headers.push(TRACE_PARENT, Some(&self.context.to_header()));
        if let (Ok(()), Some(state)) = (added, &self.state) {
            // Without it the trace is the same.
            let _ = headers.push(TRACE_STATE, Some(state.as_bytes()));
        }
    }

    /// Exports the span, if it is to be.
    pub(super) fn end<T>(self, route: &'static str, target: &str, result: &Result<T, Problem>) {
        let Some(span) = self.span else { return };
        let status = match result {
            Ok(_) => 200,
            Err(problem) => problem.status,
        };
        let error = match result {
            // What the client did wrong is no error of the server.
            Err(problem) if status >= 500 => Some(problem.detail.clone()),
            _ => None,
        };
        let mut attributes = vec![
            ("http.request.method", "POST".into()),
            ("http.route", route.into()),
            ("http.response.status_code", u64::from(status).into()),
            ("messaging.system", "millstream".into()),
            ("messaging.operation.type", "send".into()),
            ("messaging.operation.name", "send".into()),
            ("messaging.destination.name", target.into()),
        ];
        if status >= 400 {
            attributes.push(("error.type", status.to_string().into()));
        }
        span.tracer.export(FinishedSpan {
            context: self.context,
            parent: span.parent,
            state: self.state,
            kind: SpanKind::Server,
            name: format!("POST {route}"),
            began: span.began,
            ended: SystemTime::now(),
            attributes,
            links: Vec::new(),
            dropped_links: 0,
            error,
        });
    }
}
