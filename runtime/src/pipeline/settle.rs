//! What a task's checkpoint says of the records of a batch: done, parked, or given up on.

use std::ops::Range;

use bytes::Bytes;

use super::batch_run::{Batch, Failed, Origin};
use super::batch_runner::BatchRunner;
use super::checkpoint::Checkpoint;
use super::processor::Processor;
use super::retry::{
    Cause, DeadLetters, FailedCall, GroupId, Letter, Waiting, backoff_ms, group_of,
};
use super::runtime::PipelineRuntime;
use super::{PositionAfterFailure, TaskError};
use crate::log;
use crate::manifest::Delivery;
use crate::model::{BatchBuilder, HeadersBuf, RecordBatch, Target, TimerId};
use crate::plugin::Columns;
use crate::queue::letter;
use crate::storage::schema::parked::ParkedRecord;

/// Bytes of parts that go into one commit together, if each of them fits.
const MAX_COMMIT_BYTES: usize = 64 << 20;
/// Bytes of a batch's checkpoint after which it is not gathered any further.
const MAX_GATHERED_BYTES: usize = 16 << 20;

impl BatchRunner {
    /// Puts a new instance in the place of one that faulted, or whose changes must not count.
    pub(super) fn reopen(&mut self) -> Result<(), TaskError> {
        self.processor = Processor::open(
            &self.pipeline,
            self.task,
            &self.state,
            &self.pipeline.metrics,
        )
        .map_err(TaskError::Open)?;
        self.memory.note(&self.processor);
        Ok(())
    }

    /// Finds out the groups of all of a batch's records.
    pub(super) fn know_groups(&mut self, batch: &Batch) {
        if self.groups.is_empty() {
            let mut groups = std::mem::take(&mut self.groups);
            groups.extend((0..batch.columns.len()).map(|index| self.group(batch, index)));
            self.groups = groups;
        }
    }

    pub(super) fn group(&self, batch: &Batch, index: usize) -> GroupId {
        if let Some(group) = self.groups.get(index) {
            return *group;
        }
        match &batch.origin {
            Origin::Parked(waiting) => waiting.get(index).map_or(0, |waiting| waiting.group),
            Origin::Queue(leased) => leased.groups.get(index).copied().unwrap_or_default(),
            Origin::Input { .. } | Origin::Offsets { .. } => {
                group_of(self.pipeline.spec.retry.order, &batch.columns, index)
            }
            Origin::Timers => self.timer_group(batch, index),
        }
    }

    /// Whether a record that fails now is not tried again.
    pub(super) fn is_given_up(&self, batch: &Batch, index: usize, cause: &Cause) -> bool {
        let attempt_count = batch.attempt_count(index).saturating_add(1);
        matches!(cause, Cause::Reject { .. })
            || attempt_count >= self.pipeline.spec.retry.max_attempts
            || self.pipeline.spec.delivery == Delivery::AtMostOnce
    }

    /// Whether what is given up on is held for the version that comes after a trial. At most once means that
    /// nothing is tried again.
    fn holds(&self) -> bool {
        self.pipeline.trial.is_some() && self.pipeline.spec.delivery != Delivery::AtMostOnce
    }

    /// The first of these failed records that stops the pipeline.
    pub(super) fn stops_at(&self, batch: &Batch, failed: &[Failed]) -> Option<usize> {
        if self.pipeline.dead_letters.is_some() || self.holds() {
            return None;
        }
        let mut failed = failed.iter();
        let stops = failed.find(|(index, cause)| self.is_given_up(batch, *index, cause));
        stops.map(|(index, _)| *index)
    }

    /// Parks the failed records of a call, or gives up on them. `ran` are the records of the call that
    /// returned these failures, in order; nothing that it changed is applied yet.
    pub(super) fn settle_failed(
        &mut self,
        batch: &Batch,
        failed: &[Failed],
        ran: &[usize],
        checkpoint: &mut Checkpoint,
    ) -> Result<(), TaskError> {
        let now_ms = self.now_ms();
        let mut letters: Option<DeadLetters> = None;
        for (index, cause) in failed {
            if !self.is_given_up(batch, *index, cause) || self.holds() {
                self.park_failed(batch, *index, cause, now_ms, checkpoint)?;
                continue;
            }
            let Some(queue) = self.pipeline.dead_letters.clone() else {
                return Err(self.stopped_at(batch, *index, cause));
            };
            let letters = letters.get_or_insert_with(|| {
                let spec = &self.pipeline.spec;
                let plugin = format!("{}@{}", spec.plugin, self.pipeline.plugin.digest());
                DeadLetters::new(&queue, spec.name.as_str(), &plugin)
            });
            let mut letter = self.letter(batch, *index, cause, now_ms);
            let call = FailedCall {
                batch: &batch.columns,
                index: *index,
                earlier: &ran[..ran.partition_point(|ran| ran < index)],
                cause,
            };
            if !matches!(cause, Cause::NotTaken { .. }) {
                letter.recording = self.recorder.record(&self.pipeline, &self.state, &call);
            }
            letters.push(&letter)?;
            checkpoint.counts.dead_letters += 1;
            if let Some(log) = &self.pipeline.give_up_log {
                log.note(&letter);
            }
        }
        if let Some(letters) = &mut letters {
            letters.add_to(&mut checkpoint.commit)?;
        }
        Ok(())
    }

    /// Parks a record that failed; one that was parked stays in its place.
    fn park_failed(
        &mut self,
        batch: &Batch,
        index: usize,
        cause: &Cause,
        now_ms: u64,
        checkpoint: &mut Checkpoint,
    ) -> Result<(), TaskError> {
        let attempt_count = batch.attempt_count(index).saturating_add(1);
        let asked_ms = match cause {
            Cause::Retry { delay_ms, .. } => delay_ms.map(u64::from),
            Cause::Reject { .. } | Cause::Fault(_) | Cause::NotTaken { .. } => None,
        };
        let pause_ms = asked_ms.unwrap_or_else(|| {
            backoff_ms(&self.pipeline.spec.retry, attempt_count, fastrand::f64())
        });
        let group = self.group(batch, index);
        let mut parked = match batch.waiting(index) {
            Some(waiting) => waiting.parked.clone(),
            None => fresh(&self.pipeline, &batch.columns, index, now_ms)?,
        };
        parked.attempt_count = attempt_count;
        parked.has_faulted |= cause.is_fault();
        parked.due_ms = now_ms.saturating_add(pause_ms);
        parked.last_failed_ms = now_ms;
        if parked.first_failed_ms == 0 {
            parked.first_failed_ms = now_ms;
        }
        parked.reason = cause.text();
        if let Some(trial) = &self.pipeline.trial
            && self.is_given_up(batch, index, cause)
        {
            // It has not failed the version that comes next.
            parked.attempt_count = 0;
            parked.has_faulted = false;
            parked.due_ms = trial.held_until_ms;
            trial.note_held();
        }
        tracing::debug!(pipeline = %self.pipeline.spec.name, offset = batch.columns.offset(index), attempt_count, pause_ms, reason = parked.reason, "a record is tried again later");
        checkpoint.counts.retries += 1;
        match batch.waiting(index) {
            Some(waiting) => {
                let again = Waiting {
                    parked,
                    ..waiting.clone()
                };
                let mut waiting = self.parked.lock();
                waiting.park_again(&again, &mut checkpoint.commit);
                self.held_groups.insert(group);
                checkpoint.still_parked.insert(index);
            }
            None => self.park_fresh(batch, index, group, &parked, checkpoint),
        }
        self.has_parked = true;
        Ok(())
    }

    /// Parks a record behind those of its group; one that was parked stays in its place.
    pub(super) fn park_behind(
        &mut self,
        batch: &Batch,
        index: usize,
        group: GroupId,
        checkpoint: &mut Checkpoint,
    ) -> Result<(), TaskError> {
        if batch.is_parked() {
            checkpoint.still_parked.insert(index);
            return Ok(());
        }
        let parked = fresh(&self.pipeline, &batch.columns, index, self.now_ms())?;
        self.park_fresh(batch, index, group, &parked, checkpoint);
        self.has_parked = true;
        Ok(())
    }

    /// Parks a record that was not parked before.
    fn park_fresh(
        &mut self,
        batch: &Batch,
        index: usize,
        group: GroupId,
        record: &ParkedRecord,
        checkpoint: &mut Checkpoint,
    ) {
        let mut parked = self.parked.lock();
        match batch.reserved {
            Some(first) => {
                let sequence = first + index as u64;
                parked.park_at(sequence, group, record, &mut checkpoint.commit);
                self.held_groups.insert(group);
            }
            None => parked.park(group, record, &mut checkpoint.commit),
        }
    }

    /// Adds a part's checkpoint, with its progress, to that of the batch.
    pub(super) async fn finish_part(
        &mut self,
        batch: &Batch,
        range: Range<usize>,
        mut checkpoint: Checkpoint,
        lost: &[usize],
    ) -> Result<(), TaskError> {
        let bytes = self.gathered.commit.len_bytes() + checkpoint.commit.len_bytes();
        if bytes >= MAX_COMMIT_BYTES {
            // Together they may be more than one commit takes.
            self.submit_gathered().await?;
        }
        let count = (range.len() - lost.len()) as u64;
        checkpoint.counts.add_input(batch, count);
        match &batch.origin {
            Origin::Offsets { turn } => {
                if let Some(lane) = &mut self.lane {
                    lane.finished(*turn, range.map(|index| batch.columns.offset(index)));
                }
            }
            Origin::Queue(_) => {}
            Origin::Input { turn, next_offset } => {
                let offset = if range.end == batch.columns.len() {
                    *next_offset
                } else {
                    batch.columns.offset(range.end.saturating_sub(1)) + 1
                };
                self.gathered_to = Some((*turn, offset));
            }
            Origin::Parked(waiting) => {
                for index in range {
                    if let Some(done) = waiting.get(index)
                        && !checkpoint.still_parked.contains(&index)
                    {
                        let mut parked = self.parked.lock();
                        parked.remove(done, &mut checkpoint.commit);
                        self.has_parked = true;
                    }
                }
            }
            Origin::Timers => {
                for index in range.filter(|index| lost.binary_search(index).is_err()) {
                    self.remove_timer(batch, index, &mut checkpoint.commit);
                }
                self.note_changed_timers(&checkpoint.timer_changes);
            }
        }
        // After the removal: a timer that fires may have been set again.
        self.apply_timers(checkpoint.timer_changes, &mut checkpoint.commit);
        self.gathered.commit.extend(checkpoint.commit);
        self.gathered.counts.add(checkpoint.counts);
        if self.gathered.commit.len_bytes() >= MAX_GATHERED_BYTES {
            self.submit_gathered().await?;
        }
        Ok(())
    }

    /// Hands what the parts of a batch have led to so far to the store.
    pub(super) async fn submit_gathered(&mut self) -> Result<(), TaskError> {
        let mut checkpoint = std::mem::take(&mut self.gathered);
        if self.lane.is_some() {
            return self.submit_of_lane(checkpoint).await;
        }
        let Some((turn, offset)) = self.gathered_to.take() else {
            return self.submit(checkpoint).await;
        };
        self.commit_offset(turn, offset, &mut checkpoint.commit);
        self.submit(checkpoint).await?;
        self.show_offset(turn, offset);
        Ok(())
    }

    /// As [`submit`](Self::submit), with what a lane has finished. The commits of lanes reach the store in the
    /// order in which their progress was put together, so that none takes back what another has said.
    async fn submit_of_lane(&mut self, mut checkpoint: Checkpoint) -> Result<(), TaskError> {
        let has_parked = self.has_parked;
        self.settle_checkpoint().await?;
        self.has_parked = has_parked;
        let now_ms = self.now_ms();
        let Some(lane) = &mut self.lane else {
            return Ok(());
        };
        let shared = lane.shared();
        let mut progress = shared.lock().await;
        lane.add_to(&mut progress, now_ms, &mut checkpoint.commit);
        let submitted = self.submit(checkpoint).await;
        drop(progress);
        submitted
    }

    pub(super) async fn submit(&mut self, checkpoint: Checkpoint) -> Result<(), TaskError> {
        let Checkpoint {
            mut commit, counts, ..
        } = checkpoint;
        {
            let mut parked = self.parked.lock();
            parked.complete(&mut commit);
            self.status.set_parked(parked.len(), parked.group_count());
        }
        Ok(self
            .checkpoints
            .submit(commit, counts, &self.status)
            .await?)
    }

    fn letter<'a>(
        &self,
        batch: &'a Batch,
        index: usize,
        cause: &'a Cause,
        now_ms: u64,
    ) -> Letter<'a> {
        let columns = &batch.columns;
        let earlier = batch.waiting(index);
        Letter {
            timestamp_ms: columns.timestamp_ms(index),
            key: columns.key(index),
            value: columns.value(index),
            headers: columns.headers(index),
            origin: self.origin(columns, index).to_string(),
            cause,
            attempt_count: batch.attempt_count(index).saturating_add(1),
            first_failed_ms: earlier
                .map(|waiting| waiting.parked.first_failed_ms)
                .filter(|first_ms| *first_ms > 0)
                .unwrap_or(now_ms),
            now_ms,
            recording: None,
        }
    }

    /// The error of a pipeline that stops at a record instead of giving up on it.
    fn stopped_at(&self, batch: &Batch, index: usize, cause: &Cause) -> TaskError {
        let place = self.origin(&batch.columns, index);
        let position = match self.pipeline.spec.delivery {
            Delivery::AtMostOnce => PositionAfterFailure::BehindBatch,
            _ if batch.is_parked() => PositionAfterFailure::Parked,
            _ if batch.columns.are_timers() => PositionAfterFailure::Set,
            Delivery::ExactlyOnce | Delivery::AtLeastOnce => PositionAfterFailure::Kept,
        };
        let (verdict, reason) = match cause {
            Cause::Fault(fault) => {
                return TaskError::Fault {
                    place,
                    fault: fault.clone(),
                    position,
                };
            }
            Cause::Retry { reason, .. } => ("asks to retry", reason.clone()),
            Cause::Reject { reason } => ("rejected", reason.clone()),
            Cause::NotTaken { reason } => ("had processed", reason.clone()),
        };
        TaskError::Record {
            place,
            verdict,
            reason,
            position,
        }
    }

    /// Where a record of a batch comes from.
    pub(super) fn origin(&self, columns: &Columns, index: usize) -> letter::Origin {
        if columns.are_timers() {
            return letter::Origin::Timer(TimerId {
                pipeline: self.pipeline.spec.name.clone(),
                task: self.task,
                key: Bytes::copy_from_slice(columns.key(index).unwrap_or_default()),
                due_ms: columns.timestamp_ms(index),
            });
        }
        let offset = columns.offset(index);
        match self.pipeline.spec.inputs[columns.input() as usize].clone() {
            Target::Queue(queue) => letter::Origin::Queue { queue, offset },
            Target::Topic(topic) => letter::Origin::Topic {
                topic,
                partition: columns.partition(),
                offset,
            },
        }
    }
}

impl Batch {
    pub(super) fn is_parked(&self) -> bool {
        matches!(self.origin, Origin::Parked(_))
    }

    fn waiting(&self, index: usize) -> Option<&Waiting> {
        match &self.origin {
            Origin::Parked(waiting) => waiting.get(index),
            Origin::Input { .. } | Origin::Offsets { .. } | Origin::Queue(_) | Origin::Timers => {
                None
            }
        }
    }

    /// How often a record has failed before.
    fn attempt_count(&self, index: usize) -> u32 {
        self.waiting(index)
            .map_or(0, |waiting| waiting.parked.attempt_count)
    }
}

/// A record that has not failed yet, due at once.
pub(super) fn fresh(
    pipeline: &PipelineRuntime,
    columns: &Columns,
    index: usize,
    now_ms: u64,
) -> Result<ParkedRecord, TaskError> {
    Ok(ParkedRecord {
        input: pipeline.input_number(columns.input()),
        attempt_count: 0,
        has_faulted: false,
        due_ms: now_ms,
        first_failed_ms: 0,
        last_failed_ms: 0,
        reason: String::new(),
        record: record_of(columns, index).map_err(log::Error::from)?,
    })
}

/// A record of a batch as a batch of one, with its own offset.
fn record_of(columns: &Columns, index: usize) -> Result<RecordBatch, crate::model::batch::Error> {
    let mut headers = HeadersBuf::new();
    columns.headers(index).write_to(&mut headers)?;
    let batch = BatchBuilder::single(
        columns.timestamp_ms(index),
        columns.key(index),
        columns.value(index),
        headers.as_headers(),
    )?;
    Ok(batch.assign(columns.offset(index)))
}
