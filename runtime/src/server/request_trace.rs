//! A request that brings records, as a span; and the trace that its records belong to.

use std::time::SystemTime;

use axum::http::HeaderMap;

use super::problem::Problem;
use crate::model::{HeadersBuf, limits};
use crate::trace::{
    self, FinishedSpan, MAX_TRACE_STATE_BYTES, SpanKind, TRACE_HEADERS_BYTES, TRACE_PARENT,
    TRACE_STATE, TraceContext, Tracer,
};

/// Headers of a record to which both of a trace can be added, and the two that a queue may add: when a message is due,
/// and when it expires.
const MAX_OWN_HEADERS: usize = limits::MAX_HEADERS as usize - 4;

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
            .filter(|state| state.len() <= MAX_TRACE_STATE_BYTES)
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

    /// Adds to a record's headers where it comes from, unless they say that already, or there is no room: its key and
    /// its value have `size_bytes`, and its target takes records of `max_bytes`.
    pub(super) fn add_to(&self, headers: &mut HeadersBuf, size_bytes: usize, max_bytes: usize) {
        let own = headers.as_headers();
        let has = |header: &str| own.iter().any(|(name, _)| name == header);
        let size_bytes = size_bytes + own.as_encoded().len();
        if has(TRACE_PARENT)
            || size_bytes + TRACE_HEADERS_BYTES > max_bytes
            || own.len() > MAX_OWN_HEADERS
        {
            return;
        }
        let has_state = has(TRACE_STATE);
        let added = headers.push(TRACE_PARENT, Some(&self.context.to_header()));
        if let (Ok(()), Some(state), false) = (added, &self.state, has_state) {
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
            Err(problem) if status >= 500 => Some(problem.detail.as_str().into()),
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
            name: format!("POST {route}").into(),
            began: span.began,
            ended: SystemTime::now(),
            attributes,
            links: Vec::new(),
            dropped_links: 0,
            error,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1 << 16;

    /// What a record with these headers and a value of `size_bytes` gets, in a target that takes `LIMIT`.
    fn names_of(own: &[&str], size_bytes: usize) -> Vec<String> {
        let parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = RequestTrace {
            context: TraceContext::parse(parent).unwrap(),
            state: Some("v=1".to_owned()),
            span: None,
        };
        let mut headers = HeadersBuf::new();
        for name in own {
            headers.push(name, Some(b"own")).unwrap();
        }
        trace.add_to(&mut headers, size_bytes, LIMIT);
        let names = headers.as_headers();
        names.iter().map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn a_record_gets_what_it_does_not_say_itself() {
        assert_eq!(names_of(&["a"], 0), ["a", "traceparent", "tracestate"]);
        assert_eq!(names_of(&["traceparent"], 0), ["traceparent"]);
        assert_eq!(names_of(&["tracestate"], 0), ["tracestate", "traceparent"]);
    }

    #[test]
    fn a_record_without_room_stays_as_it_is() {
        let room = LIMIT - TRACE_HEADERS_BYTES;
        assert_eq!(names_of(&[], room).len(), 2);
        assert!(names_of(&[], room + 1).is_empty());
        assert_eq!(names_of(&["a"], room), ["a"]);
        for (own, added) in [(MAX_OWN_HEADERS, 2), (MAX_OWN_HEADERS + 1, 0)] {
            assert_eq!(names_of(&vec!["a"; own], 0).len(), own + added);
        }
    }
}
