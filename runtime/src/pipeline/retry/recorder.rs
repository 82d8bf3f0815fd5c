//! Keeps with a dead letter what the plugin saw when it failed, so that `dead-letter replay` can show the
//! failure again elsewhere.
//!
//! The instance that failed cannot tell: what it read in earlier batches it holds in its own memory, and the
//! record was one among others. So the record runs once more, alone in a fresh instance that is thrown away,
//! at the time and with the random numbers of the call that failed, and what that instance sees is kept.
//! Whether it fails again in the same way is kept, too.
//!
//! Such a run costs far more than a record in a batch, and what it saw takes room. A stream of records that
//! all fail must not become much slower by it, so it may take a twentieth of a task's time, and the letters
//! beyond that say that nothing was kept.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::block_in_place;

use super::Cause;
use crate::pipeline::processor::{Processor, SharedState};
use crate::pipeline::runtime::PipelineRuntime;
use crate::pipeline::task_state::TaskState;
use crate::plugin::{
    Allowance, Columns, Fault, InstanceContext, Moment, NotKept, Place, RangeLimit, Readings,
    RecordedCall, Recording, Seen, StateReader,
};
use crate::queue::letter;

/// Time that is there at the start, and at most.
const BURST: Duration = Duration::from_millis(100);
/// One part in so many of the time goes to recordings.
const SHARE: u32 = 20;
/// What a byte that is kept counts, in ns: about 2 MB a second can be kept in the long run.
const BYTE_NS: u64 = 25;

/// Records what a task's plugin saw.
pub(in crate::pipeline) struct Recorder {
    context: InstanceContext,
    budget: Budget,
    /// What is the same for all records of the task, and when the last call was.
    recording: Recording,
    /// What the last call's clocks said.
    readings: Readings,
}

/// A record that failed, and the call in which it did.
pub(in crate::pipeline) struct FailedCall<'a> {
    pub(in crate::pipeline) batch: &'a Columns,
    pub(in crate::pipeline) index: usize,
    /// The records that ran before it in the same call, by their index in the batch.
    pub(in crate::pipeline) earlier: &'a [usize],
    pub(in crate::pipeline) cause: &'a Cause,
}

impl Recorder {
    pub(in crate::pipeline) fn new(pipeline: &PipelineRuntime, task: u32) -> Self {
        // Not the pipeline's metrics: they have counted the record already.
        let context = pipeline.instance_context(task, &Arc::default());
        Self {
            recording: Recording {
                partition: context.partition,
                inputs: context.inputs.clone(),
                ports: context.ports.clone(),
                config: context.config.clone(),
                allowance: Allowance::new(&pipeline.grants, &pipeline.limits),
                place: Place::default(),
                moment: Moment::default(),
                seen: Err(NotKept::TooMany),
            },
            context,
            budget: Budget::new(Instant::now()),
            readings: Readings::default(),
        }
    }

    /// Notes when the processor's last call was.
    pub(in crate::pipeline) fn note_call(&mut self, processor: &mut Processor) {
        self.recording.moment = processor.last_call(&mut self.readings);
    }

    /// What the plugin saw in the last call, encoded; none if a native function runs in its place, or if
    /// already the pipeline's configuration is too large. `state` must be what it was before the call.
    pub(in crate::pipeline) fn record(
        &mut self,
        pipeline: &PipelineRuntime,
        state: &Arc<Mutex<TaskState>>,
        failed: &FailedCall<'_>,
    ) -> Option<Vec<u8>> {
        if pipeline.native.is_some() {
            return None;
        }
        let started = Instant::now();
        self.recording.seen = if pipeline.plugin.calls_services() {
            Err(NotKept::CallsServices)
        } else if self.budget.is_left(started) {
            block_in_place(|| self.run_again(pipeline, state, failed))
        } else {
            Err(NotKept::TooMany)
        };
        let mut headers = failed.batch.headers(failed.index);
        let hides_headers = headers.any(|(name, _)| letter::is_replaced(name));
        self.recording.place = Place::of(failed.batch, failed.index, hides_headers);
        let encoded = self.recording.encode();
        if self.recording.seen != Err(NotKept::TooMany) {
            let bytes = encoded.as_ref().map_or(0, Vec::len) as u64;
            let taken = started.elapsed() + Duration::from_nanos(bytes.saturating_mul(BYTE_NS));
            self.budget.spend(taken);
        }
        encoded
    }

    /// Runs the record alone. If it does not fail as it did then, it may be for what records before it in
    /// the call have changed: then those run first.
    fn run_again(
        &self,
        pipeline: &PipelineRuntime,
        state: &Arc<Mutex<TaskState>>,
        failed: &FailedCall<'_>,
    ) -> Result<Seen, NotKept> {
        let before = || SharedState(Arc::clone(state));
        let alone = selected(failed.batch, &[failed.index]);
        let mut call = self.run(pipeline, Box::new(before()), &alone);
        if !is_same(&call, failed.cause) && !failed.earlier.is_empty() {
            let earlier = selected(failed.batch, failed.earlier);
            let changes = self.run(pipeline, Box::new(before()), &earlier).changes;
            if !changes.is_empty() {
                let changed = ChangedState {
                    before: before(),
                    changes: changes.into_iter().collect(),
                };
                call = self.run(pipeline, Box::new(changed), &alone);
            }
        }
        if let Err(Fault::Instantiate { .. }) = &call.result {
            return Err(NotKept::NoInstance);
        }
        let outcome = Cause::of_single(&call.result);
        let word = outcome.as_ref().map_or(Cause::SUCCESS, Cause::word);
        let other = (!is_same(&call, failed.cause)).then(|| {
            let text = outcome.as_ref().map(Cause::text).unwrap_or_default();
            (word.to_owned(), text)
        });
        Ok(Seen {
            readings: call.readings,
            state: call.state,
            other_outcome: other,
        })
    }

    fn run(
        &self,
        pipeline: &PipelineRuntime,
        state: Box<dyn StateReader>,
        batch: &Columns,
    ) -> RecordedCall {
        let (context, grants, limits) = (self.context.clone(), &pipeline.grants, &pipeline.limits);
        let plugin = &pipeline.plugin;
        let moment = (self.recording.moment, &self.readings);
        plugin.record(context, grants, limits, state, moment, batch)
    }
}

fn is_same(call: &RecordedCall, cause: &Cause) -> bool {
    Cause::of_single(&call.result).is_some_and(|again| again.is_same(cause.word(), &cause.text()))
}

/// Some records of a batch.
fn selected(batch: &Columns, indexes: &[usize]) -> Columns {
    let mut selected = Columns::new();
    selected.start(batch.input(), batch.partition());
    for index in indexes {
        selected.push_from(batch, *index);
    }
    selected
}

/// A task's state with changes that are not made.
pub(in crate::pipeline) struct ChangedState {
    pub(in crate::pipeline) before: SharedState,
    pub(in crate::pipeline) changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl StateReader for ChangedState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        match self.changes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.before.get(key),
        }
    }

    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let within_changes = RangeLimit {
            // Each change can hide an entry.
            entries: limit.entries.saturating_add(self.changes.len()),
            bytes: limit.bytes,
        };
        let stored = self.before.range(from, to, within_changes)?;
        let bytes: usize = stored.iter().map(|(k, v)| k.len() + v.len()).sum();
        let end = match stored.last() {
            // What comes after it was not read.
            Some((last, _)) if bytes > limit.bytes => Bound::Included(last.clone()),
            _ => to.map_or(Bound::Unbounded, |to| {
                Bound::Excluded(Bytes::copy_from_slice(to))
            }),
        };
        let mut entries: BTreeMap<Bytes, Bytes> = stored.into_iter().collect();
        let from = Bound::Included(Bytes::copy_from_slice(from));
        for (key, value) in self.changes.range((from, end)) {
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        Ok(entries.into_iter().take(limit.entries).collect())
    }
}

/// How much time recordings may still take.
#[derive(Debug)]
struct Budget {
    left: Duration,
    /// What was spent beyond what was left.
    owed: Duration,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            owed: Duration::ZERO,
            at: now,
        }
    }

    /// Whether there is any.
    fn is_left(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at) / SHARE;
        self.at = now;
        self.left = (self.left + earned.saturating_sub(self.owed)).min(BURST);
        self.owed = self.owed.saturating_sub(earned);
        self.left > Duration::ZERO
    }

    fn spend(&mut self, taken: Duration) {
        self.owed += taken.saturating_sub(self.left);
        self.left = self.left.saturating_sub(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_take_a_twentieth_of_the_time() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut recordings = 0;
        // One that takes 10 ms whenever it may, for a minute, asked every ms.
        let mut now = start;
        while now < start + Duration::from_secs(60) {
            if budget.is_left(now) {
                budget.spend(Duration::from_millis(10));
                now += Duration::from_millis(10);
                recordings += 1;
            }
            now += Duration::from_millis(1);
        }
        // 100 ms at the start and 3 s after that.
        assert!((305..=315).contains(&recordings), "{recordings}");
    }

    #[test]
    fn one_that_takes_long_is_paid_for() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        assert!(budget.is_left(start));
        budget.spend(Duration::from_secs(2));
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!budget.is_left(after(37)));
        assert!(budget.is_left(after(39)));
        // However long nothing happens, no more than the burst comes together.
        assert!(budget.is_left(after(1_000_000)));
        budget.spend(BURST);
        assert!(!budget.is_left(after(1_000_000)));
    }
}
