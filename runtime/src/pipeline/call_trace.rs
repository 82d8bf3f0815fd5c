//! What of a call of a plugin is traced: which spans its records come from, and what its outputs say they come from.
//!
//! A call is one span, which links to those that its records come from. If they are all of one trace it is a part of
//! that. Otherwise it begins a trace of its own, and appears in each of the others besides, under the same id: so that
//! what a record leads to belongs to the trace of the record, and to a span that is there.

use std::time::SystemTime;

use super::runtime::PipelineRuntime;
use crate::plugin::{Columns, Fault, Output};
use crate::trace::{
    self, AttributeValue, FinishedSpan, SpanKind, TRACE_PARENT, TRACE_STATE, TraceContext, Tracer,
};

/// Most links of a span, and most traces in which a call appears.
const MAX_LINKS: usize = 128;
/// In `by_record`, a record whose trace the call does not appear in.
const NONE: u8 = u8::MAX;
const _: () = assert!(MAX_LINKS < NONE as usize);

/// A call that is traced.
#[derive(Debug)]
pub(super) struct CallTrace {
    began: SystemTime,
    /// The call's span.
    own: TraceContext,
    /// The traces of its records.
    traces: Vec<RecordTrace>,
    /// By record, the place of its trace in `traces`; empty if no record has one.
    by_record: Vec<u8>,
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
            by_record: Vec::new(),
            links: Vec::new(),
            dropped_links: 0,
        };
        let mut are_all_traced = columns.has_headers();
        if are_all_traced {
            for index in 0..columns.len() {
                let parent = columns.headers(index).value_of(TRACE_PARENT).flatten();
                let parent = parent.and_then(TraceContext::parse);
                are_all_traced &= parent.is_some();
                if let Some(parent) = parent.filter(|parent| tracer.samples(parent)) {
                    found.add(columns, index, parent);
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
            by_record: Vec::new(),
            links: Vec::new(),
            dropped_links: 0,
        })
    }

    fn add(&mut self, columns: &Columns, index: usize, parent: TraceContext) {
        if self.links.last() != Some(&parent) {
            match self.links.len() < MAX_LINKS {
                true => self.links.push(parent),
                false => self.dropped_links = self.dropped_links.saturating_add(1),
            }
        }
        let same = |known: &RecordTrace| known.parent.trace_id() == parent.trace_id();
        // Records of a trace often lie together.
        let place = match self.traces.iter_mut().rposition(|known| same(known)) {
            Some(place) => place,
            None if self.traces.len() < MAX_LINKS => {
                let state = columns.headers(index).value_of(TRACE_STATE).flatten();
                self.traces.push(RecordTrace {
                    parent,
                    state: state.and_then(|state| String::from_utf8(state.to_vec()).ok()),
                    record_count: 0,
                });
                self.traces.len() - 1
            }
            None => return,
        };
        if let Some(of) = self.traces.get_mut(place) {
            of.record_count += 1;
        }
        self.by_record.resize(columns.len(), NONE);
        if let Some(of_record) = self.by_record.get_mut(index) {
            // Below `MAX_LINKS`.
            *of_record = place as u8;
        }
    }

    /// The span that an output comes from that derives from this record; `None` if there is nothing to say.
    pub(super) fn of_output(&self, source: Option<usize>) -> Option<TraceContext> {
        let Some(source) = source.filter(|_| !self.by_record.is_empty()) else {
            return Some(self.own);
        };
        let place = self.by_record.get(source).copied().unwrap_or(NONE);
        let of_record = self.traces.get(usize::from(place))?;
        Some(of_record.parent.sibling(self.own.span_id()))
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
        let mut attributes = span.attributes.clone();
        let count = AttributeValue::from(of_record.record_count);
        attributes.push(("messaging.batch.message_count", count));
        FinishedSpan {
            context: of_record.parent.sibling(self.own.span_id()),
            parent: Some(of_record.parent),
            state: of_record.state.clone(),
            attributes,
            links: vec![self.own],
            dropped_links: 0,
            ..span.clone()
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
            name: format!("{operation} {destination}"),
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
    span.error = Some(fault.to_string());
}
