//! The timers of one task, or of one of its lanes: when the next one is due, which are, and what a checkpoint
//! changes of them.
//!
//! All of them lie in the store, in the order in which they fire. Memory holds the place before which
//! there is none, however many there are. Reading starts at that place: what lies before it has been
//! removed, and would have to be read over.
//!
//! A timer that fires is removed by the checkpoint of its outcome, whatever that is: one that is to be
//! tried again is parked by it, like a record.

use bytes::Bytes;

use super::batch_run::{Batch, Origin};
use super::retry::timer_offset;
use super::runtime::PipelineRuntime;
use crate::model::{HeadersRef, RecordRef, TIMERS_INPUT};
use crate::plugin::{Columns, TimerChange};
use crate::storage::schema::{KeyKind, prefix_end, timer};
use crate::storage::{Commit, Error, Scan, Store};

/// The timers of a task, or of one of its lanes.
pub(super) struct TaskTimers {
    store: Store,
    pipeline_id: u32,
    /// The number of the task, or the one under which a lane keeps its state.
    slot: u32,
    /// Due time and key before which there is no timer; `None` if there is none at all. It may be that of
    /// a timer that has been cancelled.
    first: Option<(u64, Bytes)>,
}

/// A timer that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DueTimer {
    pub(super) due_ms: u64,
    pub(super) key: Bytes,
    pub(super) payload: Bytes,
}

/// How many timers a pipeline has, all its tasks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PendingTimers {
    /// Those that have not fired.
    pub count: u64,
    /// When the first of them is due, in ms since the epoch.
    pub next_due_ms: Option<u64>,
}

impl TaskTimers {
    /// Finds the first timer.
    pub(super) fn open(store: Store, pipeline_id: u32, slot: u32) -> Result<Self, Error> {
        let mut opened = Self {
            store,
            pipeline_id,
            slot,
            first: Some((0, Bytes::new())),
        };
        opened.take_due(0, 0, 0)?;
        Ok(opened)
    }

    /// When the next timer may be due, in ms since the epoch; none is before.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.first.as_ref().map(|(due_ms, _)| *due_ms)
    }

    /// Adds what a batch has set and cancelled to its checkpoint.
    pub(super) fn apply(&mut self, changes: Vec<TimerChange>, commit: &mut Commit) {
        for change in changes {
            let TimerChange {
                due_ms,
                key,
                payload,
            } = change;
            let Some(payload) = payload else {
                self.remove(due_ms, &key, commit);
                continue;
            };
            commit.set_timer(self.pipeline_id, self.slot, due_ms, &key, &payload);
            let is_first = self
                .first
                .as_ref()
                .is_none_or(|(first_ms, first)| (due_ms, &key) < (*first_ms, first));
            if is_first {
                self.first = Some((due_ms, key));
            }
        }
    }

    /// Removes a timer.
    pub(super) fn remove(&self, due_ms: u64, key: &[u8], commit: &mut Commit) {
        commit.remove_timer(self.pipeline_id, self.slot, due_ms, key);
    }

    /// The first timers that are due, in their order. They are gone for the next call, and still in the
    /// store: whoever takes them removes them. What was set must be in the store: no checkpoint may be
    /// under way.
    pub(super) fn take_due(
        &mut self,
        now_ms: u64,
        max_timers: usize,
        max_bytes: usize,
    ) -> Result<Vec<DueTimer>, Error> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut first_left = None;
        let Some((due_ms, key)) = &self.first else {
            return Ok(taken);
        };
        let from = timer::key(self.pipeline_id, self.slot, *due_ms, key);
        let to = prefix_end(&timer::task_prefix(self.pipeline_id, self.slot));
        self.store
            .scan(KeyKind::Timer, &from, to.as_deref(), |key, value| {
                let (_, _, due_ms, key) = timer::parse_key(key).ok_or_else(damaged)?;
                let key = Bytes::copy_from_slice(key);
                let is_full = taken.len() >= max_timers || bytes >= max_bytes;
                if is_full || due_ms > now_ms {
                    first_left = Some((due_ms, key));
                    return Ok(Scan::Stop);
                }
                let payload = timer::parse_value(value).ok_or_else(damaged)?;
                bytes += key.len() + payload.len();
                taken.push(DueTimer {
                    due_ms,
                    key,
                    payload: Bytes::copy_from_slice(payload),
                });
                Ok(Scan::Continue)
            })?;
        self.first = first_left;
        Ok(taken)
    }
}

/// Whether a pipeline has timers.
pub(super) fn exist(store: &Store, pipeline_id: u32) -> Result<bool, Error> {
    let mut is_found = false;
    let from = timer::pipeline_prefix(pipeline_id);
    let to = prefix_end(&from);
    store.scan(KeyKind::Timer, &from, to.as_deref(), |_, _| {
        is_found = true;
        Ok(Scan::Stop)
    })?;
    Ok(is_found)
}

/// Counts the timers of a pipeline. Reads all of them.
pub(super) fn pending(store: &Store, pipeline_id: u32) -> Result<PendingTimers, Error> {
    let mut pending = PendingTimers::default();
    let from = timer::pipeline_prefix(pipeline_id);
    let to = prefix_end(&from);
    store.scan(KeyKind::Timer, &from, to.as_deref(), |key, _| {
        let (_, _, due_ms, _) = timer::parse_key(key).ok_or_else(damaged)?;
        let first_ms = pending.next_due_ms.unwrap_or(due_ms).min(due_ms);
        pending.next_due_ms = Some(first_ms);
        pending.count += 1;
        Ok(Scan::Continue)
    })?;
    Ok(pending)
}

fn damaged() -> Error {
    Error::Damaged {
        what: "a timer".to_owned(),
        reason: "malformed".to_owned(),
    }
}

/// The time by which timers fire, in ms since the epoch.
fn now_ms(pipeline: &PipelineRuntime) -> u64 {
    // Tests do not wait for it.
    fail::fail_point!("timers::now", |ms| ms
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(u64::MAX));
    pipeline.log.store().clock().now_ms()
}

/// Milliseconds until the next timer may fire; `None` if there is none, or nobody to tell.
pub(super) fn pause_ms(pipeline: &PipelineRuntime, timers: &TaskTimers) -> Option<u64> {
    let next_ms = timers.next_due_ms()?;
    let fires = pipeline.plugin.handles_timers() && pipeline.native.is_none();
    fires.then(|| next_ms.saturating_sub(now_ms(pipeline)))
}

/// The timers that are due, as a batch; `None` if none is. As for [`TaskTimers::take_due`], no checkpoint may
/// be under way.
pub(super) fn due_batch(
    pipeline: &PipelineRuntime,
    task: u32,
    timers: &mut TaskTimers,
    max_timers: usize,
) -> Result<Option<Batch>, Error> {
    if pause_ms(pipeline, timers) != Some(0) {
        return Ok(None);
    }
    let max_bytes = pipeline.spec.batch.max_bytes;
    let due = timers.take_due(now_ms(pipeline), max_timers, max_bytes)?;
    if due.is_empty() {
        return Ok(None);
    }
    let mut columns = Columns::new();
    columns.start(TIMERS_INPUT, task);
    for timer in &due {
        columns.push(&RecordRef {
            offset: timer_offset(timer.due_ms, &timer.key),
            timestamp_ms: timer.due_ms,
            key: Some(&timer.key),
            value: Some(&timer.payload),
            headers: HeadersRef::EMPTY,
        });
    }
    Ok(Some(Batch {
        columns,
        origin: Origin::Timers,
        reserved: None,
    }))
}

#[cfg(test)]
mod tests;
