//! Runs another version of a plugin beside the one whose results count, and notes where the two differ.
//!
//! The shadow sees what the task's own instance sees: the same batches, after calls that succeeded. It reads
//! the task's state under what it has changed itself, which is kept in memory only. Its outputs, changes and
//! failures are thrown away. It runs in the task, one batch after the other, so that it never falls behind;
//! the task takes the longer for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::processor::SharedState;
use super::retry::ChangedState;
use super::runtime::PipelineRuntime;
use super::task_state::TaskState;
use crate::model::Target;
use crate::plugin::{
    Columns, Failure, Fault, Field, HeadersField, Instance, Output, RangeLimit, StateReader,
};

/// Differences that are kept; the others are counted.
const MAX_KEPT: usize = 20;
/// Bytes of its own changes of state that the shadow of a task keeps; beyond them it ends.
const MAX_STATE_BYTES: usize = 32 << 20;
/// What an entry costs besides its key and value.
const ENTRY_BYTES: usize = 64;
/// Bytes of a value that are shown.
const SHOWN_BYTES: usize = 100;

/// A record for which the two versions do different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowDifference {
    /// Where the record comes from; a timer has the pipeline's first input here.
    pub input: Option<Target>,
    /// Its partition.
    pub partition: u32,
    /// Its offset; of a timer its place in the batch.
    pub offset: u64,
    /// What is different.
    pub what: String,
}

/// What a shadow has found so far, in all tasks of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowFindings {
    /// Records and timers that both versions have run.
    pub records: u64,
    /// Those for which they did different things.
    pub different_records: u64,
    /// Calls of the new version that faulted; their records count as different.
    pub faults: u64,
    /// Time in the new version, in ns.
    pub time_ns: u64,
    /// The first differences.
    pub first: Vec<ShadowDifference>,
    /// Why the shadow, or that of a task, has ended early, if one has.
    pub ended_early: Option<String>,
}

/// The shadow of a pipeline.
#[derive(Debug)]
pub(super) struct Shadow {
    /// The pipeline with the other plugin, and metrics that nobody reads.
    pipeline: PipelineRuntime,
    findings: Mutex<ShadowFindings>,
}

/// The shadow of a task, or of one of its lanes.
pub(super) struct ShadowRun {
    shadow: Arc<Shadow>,
    task: u32,
    state: Arc<Mutex<TaskState>>,
    own: Arc<Mutex<OwnChanges>>,
    /// `None` after a fault, until the next batch.
    instance: Option<Instance>,
    has_ended: bool,
}

/// What a shadow has changed of its task's state.
#[derive(Default)]
struct OwnChanges {
    changes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

/// The task's state as its shadow reads it.
struct ShadowState {
    task: Arc<Mutex<TaskState>>,
    own: Arc<Mutex<OwnChanges>>,
}

impl StateReader for ShadowState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        if let Some(value) = self.own.lock().changes.get(key) {
            return Ok(value.clone());
        }
        SharedState(Arc::clone(&self.task)).get(key)
    }

    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        let changed = ChangedState {
            before: SharedState(Arc::clone(&self.task)),
            changes: self.own.lock().changes.clone(),
        };
        changed.range(from, to, limit)
    }
}

impl Shadow {
    pub(super) fn new(pipeline: PipelineRuntime) -> Arc<Self> {
        Arc::new(Self {
            pipeline,
            findings: Mutex::default(),
        })
    }

    pub(super) fn findings(&self) -> ShadowFindings {
        self.findings.lock().clone()
    }

    /// Notes why it sees no more, or less: what it has found is of a part of the time only.
    pub(super) fn end_early(&self, reason: String) {
        let mut findings = self.findings.lock();
        findings.ended_early.get_or_insert(reason);
    }
}

impl ShadowRun {
    pub(super) fn new(shadow: Arc<Shadow>, task: u32, state: Arc<Mutex<TaskState>>) -> Self {
        Self {
            shadow,
            task,
            state,
            own: Arc::default(),
            instance: None,
            has_ended: false,
        }
    }

    /// Runs a batch that the task's own instance has run with this output, before what that has changed
    /// is applied.
    pub(super) fn run(&mut self, batch: &Columns, output: &Output) {
        if self.has_ended {
            return;
        }
        let started = Instant::now();
        let ran = self.process(batch);
        let took = started.elapsed();
        let different = match &ran {
            Ok(own) => differences(batch, output, own),
            Err(fault) => {
                let text = format!("the new version faults: {fault}");
                (0..batch.len())
                    .map(|index| (index, text.clone()))
                    .collect()
            }
        };
        self.note(batch, &different, ran.is_err(), took);
    }

    fn process(&mut self, batch: &Columns) -> Result<Output, Fault> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.open()?,
        };
        let output = instance.process(batch)?;
        let mut own = self.own.lock();
        for (key, value) in instance.take_state_changes() {
            own.bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
            if let Some(replaced) = own.changes.insert(key.clone(), value) {
                let replaced = key.len() + replaced.map_or(0, |value| value.len()) + ENTRY_BYTES;
                own.bytes = own.bytes.saturating_sub(replaced);
            }
        }
        if own.bytes > MAX_STATE_BYTES {
            self.has_ended = true;
            self.shadow.end_early(format!(
                "the shadow of partition {} has changed more than {MAX_STATE_BYTES} bytes of state",
                self.task
            ));
        }
        drop(own);
        // Timers that it sets fire to nobody.
        drop(instance.take_timer_changes());
        self.instance = Some(instance);
        Ok(output)
    }

    fn open(&self) -> Result<Instance, Fault> {
        let pipeline = &self.shadow.pipeline;
        let state = ShadowState {
            task: Arc::clone(&self.state),
            own: Arc::clone(&self.own),
        };
        let context = pipeline.instance_context(self.task, &pipeline.metrics);
        let mut instance = pipeline.plugin.instantiate(
            context,
            &pipeline.grants,
            &pipeline.limits,
            Box::new(state),
        )?;
        // A panic is in the fault all the same.
        instance.mute_stderr(true);
        Ok(instance)
    }

    fn note(
        &self,
        batch: &Columns,
        different: &[(usize, String)],
        has_faulted: bool,
        took: Duration,
    ) {
        let inputs = &self.shadow.pipeline.spec.inputs;
        let mut findings = self.shadow.findings.lock();
        findings.records += batch.len() as u64;
        findings.different_records += different.len() as u64;
        findings.faults += u64::from(has_faulted);
        findings.time_ns += u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let room = MAX_KEPT.saturating_sub(findings.first.len());
        let kept = different.iter().take(if has_faulted { 1 } else { room });
        for (index, what) in kept.take(room) {
            findings.first.push(ShadowDifference {
                input: inputs.get(batch.input() as usize).cloned(),
                partition: batch.partition(),
                offset: match batch.are_timers() {
                    true => *index as u64,
                    false => batch.offset(*index),
                },
                what: what.clone(),
            });
        }
    }
}

/// One output record, with what it takes over from its source.
#[derive(PartialEq, Eq)]
struct Resolved<'a> {
    port: usize,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<(&'a str, Option<&'a [u8]>)>,
    timestamp_ms: Option<u64>,
}

fn resolved<'a>(output: &'a Output, index: usize, batch: &'a Columns) -> Resolved<'a> {
    let from = output.source(index);
    let field =
        |field: Field<'a>, of_source: fn(&'a Columns, usize) -> Option<&'a [u8]>| match field {
            Field::AsSource => from.and_then(|from| of_source(batch, from)),
            Field::Null => None,
            Field::Bytes(bytes) => Some(bytes),
        };
    let headers = match output.headers(index) {
        HeadersField::AsSource => from.map(|from| batch.headers(from)),
        HeadersField::Encoded(encoded) => Some(encoded),
    };
    Resolved {
        port: output.port(index),
        key: field(output.key(index), Columns::key),
        value: field(output.value(index), Columns::value),
        headers: headers.into_iter().flatten().collect(),
        timestamp_ms: output
            .timestamp_ms(index)
            .or_else(|| from.map(|from| batch.timestamp_ms(from))),
    }
}

/// The records of a batch for which two outputs differ, by index, and how.
fn differences(batch: &Columns, old: &Output, new: &Output) -> Vec<(usize, String)> {
    let (old_by_source, new_by_source) = (by_source(old), by_source(new));
    let mut different = Vec::new();
    // What derives from no record counts as of the first one.
    for source in 0..batch.len() {
        let of = |by_source: &BTreeMap<usize, Vec<usize>>| {
            by_source.get(&source).cloned().unwrap_or_default()
        };
        let (olds, news) = (of(&old_by_source), of(&new_by_source));
        let what = match (failure_of(old, source), failure_of(new, source)) {
            (None, None) => outputs_differ(batch, (old, &olds), (new, &news)),
            (Some(a), Some(b)) if a.kind == b.kind => None,
            (Some(_), Some(b)) => Some(format!("the new version fails it otherwise: {}", b.reason)),
            (None, Some(b)) => Some(format!("the new version fails it: {}", b.reason)),
            (Some(a), None) => Some(format!("only the old version fails it: {}", a.reason)),
        };
        different.extend(what.map(|what| (source, what)));
    }
    different
}

fn outputs_differ(
    batch: &Columns,
    (old, olds): (&Output, &[usize]),
    (new, news): (&Output, &[usize]),
) -> Option<String> {
    if olds.len() != news.len() {
        return Some(format!(
            "{} outputs, and {} with the new version",
            olds.len(),
            news.len()
        ));
    }
    olds.iter().zip(news).find_map(|(a, b)| {
        let (a, b) = (resolved(old, *a, batch), resolved(new, *b, batch));
        if a.port != b.port {
            Some(format!(
                "port {}, and {} with the new version",
                a.port, b.port
            ))
        } else if a.value != b.value {
            Some(both("value", a.value, b.value))
        } else if a.key != b.key {
            Some(both("key", a.key, b.key))
        } else if a != b {
            Some("other headers, or another timestamp".to_owned())
        } else {
            None
        }
    })
}

fn both(what: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> String {
    let shown = |bytes: Option<&[u8]>| match bytes {
        None => "null".to_owned(),
        Some(bytes) => {
            let start = bytes
                .get(..bytes.len().min(SHOWN_BYTES))
                .unwrap_or_default();
            format!("{:?}", String::from_utf8_lossy(start))
        }
    };
    format!(
        "{what} {}, and {} with the new version",
        shown(old),
        shown(new)
    )
}

fn by_source(output: &Output) -> BTreeMap<usize, Vec<usize>> {
    let mut by_source: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in 0..output.len() {
        let source = output.source(index).unwrap_or(0);
        by_source.entry(source).or_default().push(index);
    }
    by_source
}

fn failure_of(output: &Output, index: usize) -> Option<&Failure> {
    let failed = output.failed();
    let at = failed.binary_search_by_key(&index, |failure| failure.index);
    failed.get(at.ok()?)
}
