//! What is different about a batch of timers: it is read when it is due, its timers are removed by the
//! checkpoint that holds their outcome, and one may cancel or set another.

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::block_in_place;

use super::TaskError;
use super::batch_run::Batch;
use super::batch_runner::BatchRunner;
use super::retry::{GroupId, group_at, group_of};
use super::timers;
use crate::manifest::Delivery;
use crate::plugin::TimerChange;
use crate::storage::Commit;

impl BatchRunner {
    /// Tells the plugin of timers that are due, of one batch at most.
    pub(super) async fn fire_due(&mut self, stop: &watch::Receiver<bool>) -> Result<(), TaskError> {
        if timers::pause_ms(&self.pipeline, &self.timers.lock()) != Some(0) {
            return Ok(());
        }
        // They are read from the store.
        self.submit_gathered().await?;
        self.settle_checkpoint().await?;
        let max_timers = self.pipeline.spec.batch.max_records as usize;
        let (pipeline, timers) = (&self.pipeline, &self.timers);
        let batch = block_in_place(|| {
            timers::due_batch(pipeline, self.task, &mut timers.lock(), max_timers)
        })?;
        match batch {
            None => Ok(()),
            Some(batch) if self.pipeline.spec.delivery == Delivery::AtMostOnce => {
                self.run_batch_once(&batch, stop).await
            }
            Some(batch) => self.run_batch(&batch, stop).await,
        }
    }

    /// Adds what was set and cancelled to a checkpoint.
    pub(super) fn apply_timers(&mut self, changes: Vec<TimerChange>, commit: &mut Commit) {
        if !changes.is_empty() {
            self.timers.lock().apply(changes, commit);
            self.has_parked = true;
        }
    }

    /// Adds to a commit that a timer of a batch has an outcome.
    pub(super) fn remove_timer(&mut self, batch: &Batch, index: usize, commit: &mut Commit) {
        let (due_ms, key) = timer_of(batch, index);
        self.timers.lock().remove(due_ms, key, commit);
        self.has_parked = true;
    }

    /// Remembers what a part of a batch of timers has set and cancelled: if that is a timer of a later
    /// part, it is not to fire with it.
    pub(super) fn note_changed_timers(&mut self, changes: &[TimerChange]) {
        let changes = changes.iter();
        self.changed_timers
            .extend(changes.map(|change| (change.due_ms, change.key.clone())));
    }

    /// Whether an earlier part of a batch of timers has set or cancelled this one of it.
    pub(super) fn is_changed_timer(&self, batch: &Batch, index: usize) -> bool {
        if self.changed_timers.is_empty() {
            return false;
        }
        let (due_ms, key) = timer_of(batch, index);
        let timer = (due_ms, Bytes::copy_from_slice(key));
        self.changed_timers.contains(&timer)
    }

    /// The group of a timer: that of the records of its key. If it is tried again that must be by the lane that
    /// has its state, also if records of its key go to another one.
    pub(super) fn timer_group(&self, batch: &Batch, index: usize) -> GroupId {
        let group = group_of(self.pipeline.spec.retry.order, &batch.columns, index);
        match &self.lane {
            Some(lane) => group_at(group, lane.number(), self.pipeline.spec.concurrency),
            None => group,
        }
    }
}

/// Due time in ms and key.
fn timer_of(batch: &Batch, index: usize) -> (u64, &[u8]) {
    let key = batch.columns.key(index).unwrap_or_default();
    (batch.columns.timestamp_ms(index), key)
}
