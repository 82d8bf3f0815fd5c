//! What of a call of a plugin is traced: which spans its records come from, and what its outputs say they come from.
//!
//! A call is one span, which links to those that its records come from. If they are all of one trace it is a part of
//! that. Otherwise it begins a trace of its own, and appears in the others besides, under the same id: so that what a
//! record leads to belongs to the trace of the record, and to a span that is there. It does so in a few of them only, as
//! each of these is one more span; what the records of further traces lead to belongs to the call's own.

use std::sync::Arc;
use std::time::SystemTime;

use super::runtime::PipelineRuntime;
use crate::plugin::{Columns, Fault, Output};
use crate::trace::{
    self, AttributeValue, FinishedSpan, MAX_TRACE_STATE_BYTES, SpanKind, TRACE_PARENT, TRACE_STATE,
    TraceContext, Tracer,
};

/// Most links of a span.
const MAX_LINKS: usize = 128;
/// Most traces of its records in which a call appears.
const MAX_TRACES: usize = 16;

/// What a record says of where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Nothing.
    Unknown,
    /// A span that is not exported.
    NotSampled,
    /// A span of a trace in which the call appears, by its place in `traces`.
    Trace(u8),
    /// A span of a trace for which there was no room in `traces`.
    FurtherTrace,
}
const _: () = assert!(MAX_TRACES <= u8::MAX as usize);

/// A call that is traced.
#[derive(Debug)]
pub(super) struct CallTrace {
    began: SystemTime,
    /// The call's span.
    own: TraceContext,
    /// The traces of its records, as far as the call appears in them.
    traces: Vec<RecordTrace>,
    /// By record; empty if nothing is known of any.
    origins: Vec<Origin>,
    /// The spans that its records come from.
    links: Vec<TraceContext>,
    dropped_links: u32,
}

/// A trace that records of a call belong to.
#[derive(Debug)]
struct RecordTrace {
    /// The span that the first of them comes from.
    parent: TraceContext,
    state: Option<String>,
    record_count: u64,
}

impl CallTrace {
    /// Begins a call on records; `None` if it is not to be traced.
    pub(super) fn begin(tracer: &Tracer, columns: &Columns) -> Option<Self> {
        let mut found = Self {
            began: SystemTime::UNIX_EPOCH,
            own: TraceContext::NONE,
            traces: Vec::new(),
            origins: Vec::new(),
            links: Vec::new(),
            dropped_links: 0,
        };
        let mut are_all_traced = columns.has_headers();
        if are_all_traced {
            for index in 0..columns.len() {
                let parent = columns.headers(index).value_of(TRACE_PARENT).flatten();
                let parent = parent.and_then(TraceContext::parse);
                are_all_traced &= parent.is_some();
                let origin = match parent {
                    None => continue,
                    Some(parent) if tracer.samples(&parent) => found.add(columns, index, parent),
                    Some(_) => Origin::NotSampled,
                };
                found.origins.resize(columns.len(), Origin::Unknown);
                if let Some(of_record) = found.origins.get_mut(index) {
                    *of_record = origin;
                }
            }
        }
        found.own = match found.traces.as_slice() {
            // What others have decided not to export stays so.
            [] if are_all_traced => return None,
            [] => tracer.root()?,
            [only] => only.parent.sibling(trace::new_span_id()),
            _ => tracer.sampled_root(trace::new_span_id()),
        };
        found.began = SystemTime::now();
        Some(found)
    }

    /// Begins a call that makes records; `None` if it is not to be traced.
    pub(super) fn begin_producing(tracer: &Tracer) -> Option<Self> {
        Some(Self {
            began: SystemTime::now(),
            own: tracer.root()?,
            traces: Vec::new(),
            origins: Vec::new(),
            links: Vec::new(),
            dropped_links: 0,
        })
    }

    /// Adds the span that a record comes from.
    fn add(&mut self, columns: &Columns, index: usize, parent: TraceContext) -> Origin {
        if self.links.last() != Some(&parent) {
            match self.links.len() < MAX_LINKS {
                true => self.links.push(parent),
                false => self.dropped_links = self.dropped_links.saturating_add(1),
            }
        }
        let same = |known: &RecordTrace| known.parent.trace_id() == parent.trace_id();
        // Records of a trace often lie together.
        let place = match self.traces.iter().rposition(same) {
            Some(place) => place,
            None if self.traces.len() < MAX_TRACES => {
                let state = columns.headers(index).value_of(TRACE_STATE).flatten();
                let state = state.filter(|state| state.len() <= MAX_TRACE_STATE_BYTES);
                self.traces.push(RecordTrace {
                    parent,
                    state: state.and_then(|state| String::from_utf8(state.to_vec()).ok()),
                    record_count: 0,
                });
                self.traces.len() - 1
            }
            None => return Origin::FurtherTrace,
        };
        if let Some(of) = self.traces.get_mut(place) {
            of.record_count += 1;
        }
        // Below `MAX_TRACES`.
        Origin::Trace(place as u8)
    }

    /// The span that an output comes from that derives from this record; `None` if there is nothing to say.
    pub(super) fn of_output(&self, source: Option<usize>) -> Option<TraceContext> {
        let origin = source.and_then(|source| self.origins.get(source));
        match origin {
            None | Some(Origin::FurtherTrace) => Some(self.own),
            // It has no part in the traces of others, and begins one if the call does.
            Some(Origin::Unknown) => self.traces.is_empty().then_some(self.own),
            Some(Origin::NotSampled) => None,
            Some(Origin::Trace(place)) => {
                let of_record = self.traces.get(usize::from(*place))?;
                Some(of_record.parent.sibling(self.own.span_id()))
            }
        }
    }

    /// Exports the spans of a call on records.
    pub(super) fn end(
        &self,
        tracer: &Tracer,
        pipeline: &PipelineRuntime,
        columns: &Columns,
        result: Result<usize, &Fault>,
    ) {
        let input = pipeline.spec.inputs.get(columns.input() as usize);
        let destination = match input {
            Some(input) => input.name().to_owned(),
            None => "timers".to_owned(),
        };
        let mut span = self.span(pipeline, "process", SpanKind::Consumer, &destination);
        let partition = columns.partition().to_string();
        span.attributes.extend([
            (
                "messaging.consumer.group.name",
                AttributeValue::from(pipeline.spec.group.as_str()),
            ),
            ("messaging.destination.partition.id", partition.into()),
        ]);
        match result {
            Ok(0) => {}
            Ok(failed) => {
                let failed = AttributeValue::from(failed as u64);
                let name = "millstream.batch.failed_count";
                span.attributes.push((name, failed));
            }
            Err(fault) => fail(&mut span, fault),
        }
        let (only, records) = match self.traces.as_slice() {
            [only] if only.parent.trace_id() == self.own.trace_id() => {
                (Some(only), self.links.len())
            }
            _ => (None, usize::MAX),
        };
        if let Some(only) = only {
            span.parent = Some(only.parent);
            span.state.clone_from(&only.state);
        }
        // The parent needs no link besides.
        if records > 1 {
            span.links.clone_from(&self.links);
            span.dropped_links = self.dropped_links;
        }
        if only.is_none() {
            for of_record in &self.traces {
                tracer.export(self.span_in(of_record, &span));
            }
        }
        let count = AttributeValue::from(columns.len() as u64);
        span.attributes
            .push(("messaging.batch.message_count", count));
        tracer.export(span);
    }

    /// The call's span as it appears in the trace of some of its records.
    fn span_in(&self, of_record: &RecordTrace, span: &FinishedSpan) -> FinishedSpan {
        let mut attributes = Vec::with_capacity(span.attributes.len() + 1);
        attributes.extend_from_slice(&span.attributes);
        let count = AttributeValue::from(of_record.record_count);
        attributes.push(("messaging.batch.message_count", count));
        FinishedSpan {
            context: of_record.parent.sibling(self.own.span_id()),
            parent: Some(of_record.parent),
            state: of_record.state.clone(),
            kind: span.kind,
            name: Arc::clone(&span.name),
            began: span.began,
            ended: span.ended,
            attributes,
            links: vec![self.own],
            dropped_links: 0,
            error: span.error.clone(),
        }
    }

    /// Exports the span of a call that has made records.
    pub(super) fn end_producing(
        &self,
        tracer: &Tracer,
        pipeline: &PipelineRuntime,
        result: Result<&Output, &Fault>,
    ) {
        let destination = match pipeline.spec.ports.as_slice() {
            [only] => only.target.name().to_owned(),
            _ => pipeline.spec.name.to_string(),
        };
        let mut span = self.span(pipeline, "send", SpanKind::Producer, &destination);
        match result {
            Ok(output) => span.attributes.push((
                "messaging.batch.message_count",
                AttributeValue::from(output.len() as u64),
            )),
            Err(fault) => fail(&mut span, fault),
        }
        tracer.export(span);
    }

    fn span(
        &self,
        pipeline: &PipelineRuntime,
        operation: &'static str,
        kind: SpanKind,
        destination: &str,
    ) -> FinishedSpan {
        let plugin = &pipeline.spec.plugin;
        FinishedSpan {
            context: self.own,
            parent: None,
            state: None,
            kind,
            name: format!("{operation} {destination}").into(),
            began: self.began,
            ended: SystemTime::now(),
            attributes: vec![
                ("messaging.system", "millstream".into()),
                ("messaging.operation.name", operation.into()),
                ("messaging.operation.type", operation.into()),
                ("messaging.destination.name", destination.into()),
                ("millstream.pipeline", pipeline.spec.name.as_str().into()),
                ("millstream.plugin", plugin.as_str().into()),
            ],
            links: Vec::new(),
            dropped_links: 0,
            error: None,
        }
    }
}

fn fail(span: &mut FinishedSpan, fault: &Fault) {
    span.attributes.push(("error.type", fault.kind().into()));
    span.error = Some(fault.to_string().into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeadersBuf, RecordRef};
    use crate::trace::{Sampler, TraceOptions};

    /// Exports nothing in these tests.
    fn tracer() -> Tracer {
        Tracer::new(&TraceOptions {
            endpoint: "http://127.0.0.1:9".to_owned(),
            service_name: "test".to_owned(),
            sampler: Sampler::default(),
        })
        .unwrap()
    }

    fn parent(trace: usize, flags: u8) -> String {
        format!("00-{trace:032x}-00f067aa0ba902b7-{flags:02}")
    }

    /// A batch of which each record has such a `traceparent`, and this `tracestate`.
    fn columns(parents: &[Option<String>], state: &str) -> Columns {
        let mut columns = Columns::new();
        for (offset, parent) in (0..).zip(parents) {
            let mut headers = HeadersBuf::new();
            headers.push("a", None).unwrap();
            if let Some(parent) = parent {
                headers.push(TRACE_PARENT, Some(parent.as_bytes())).unwrap();
                headers.push(TRACE_STATE, Some(state.as_bytes())).unwrap();
            }
            columns.push(&RecordRef {
                offset,
                timestamp_ms: 0,
                key: None,
                value: None,
                headers: headers.as_headers(),
            });
        }
        columns
    }

    fn begin(parents: &[Option<String>]) -> Option<CallTrace> {
        CallTrace::begin(&tracer(), &columns(parents, "v=1"))
    }

    #[test]
    fn what_is_not_sampled_gets_no_trace_from_a_record_without_one() {
        let call = begin(&[Some(parent(7, 0)), None]).unwrap();
        assert_eq!(call.of_output(Some(0)), None);
        assert_eq!(call.of_output(Some(1)), Some(call.own));
        assert_eq!(call.of_output(None), Some(call.own));
        assert!(begin(&[Some(parent(7, 0)), Some(parent(8, 0))]).is_none());
        let call = begin(&[Some(parent(7, 1)), None, Some(parent(8, 0))]).unwrap();
        let of_first = call.of_output(Some(0)).unwrap();
        assert_eq!(of_first, call.own);
        assert_eq!(of_first.trace_id(), 7_u128.to_be_bytes());
        assert_eq!(call.of_output(Some(1)), None);
        assert_eq!(call.of_output(Some(2)), None);
    }

    #[test]
    fn outputs_of_more_traces_than_a_call_appears_in_are_of_its_own() {
        let parents: Vec<_> = (1..=MAX_TRACES + 2)
            .map(|trace| Some(parent(trace, 1)))
            .collect();
        let call = begin(&parents).unwrap();
        assert_eq!(call.traces.len(), MAX_TRACES);
        assert_eq!(call.links.len(), MAX_TRACES + 2);
        for index in 0..parents.len() {
            let context = call.of_output(Some(index)).unwrap();
            assert_eq!(context.span_id(), call.own.span_id());
            let trace_id = match index < MAX_TRACES {
                true => (index as u128 + 1).to_be_bytes(),
                false => call.own.trace_id(),
            };
            assert_eq!(context.trace_id(), trace_id, "{index}");
        }
    }

    #[test]
    fn a_state_that_is_too_long_is_left_out() {
        for (length, is_kept) in [
            (MAX_TRACE_STATE_BYTES, true),
            (MAX_TRACE_STATE_BYTES + 1, false),
        ] {
            let columns = columns(&[Some(parent(7, 1))], &"v".repeat(length));
            let call = CallTrace::begin(&tracer(), &columns).unwrap();
            assert_eq!(call.traces[0].state.is_some(), is_kept, "{length}");
        }
    }
}
