//! Runs a task's plugin on a batch, whatever the plugin does.
//!
//! What succeeds is committed. A record that the plugin fails is parked to be tried again, or becomes
//! a dead letter. When the plugin faults (traps, runs past its deadline, …) nobody knows on which
//! record, so the batch is halved until the poison record stands alone (`parts.rs`); what the parts that go
//! through lead to is gathered in one checkpoint. A poison record among n costs at most 2·log2(n) + 2 calls more, whatever
//! the plugin says of where it faults.

use std::ops::Range;

use tokio::sync::watch;
use tokio::task::block_in_place;

use super::TaskError;
use super::batch_call::{Called, max_part_bytes, too_large};
use super::batch_runner::BatchRunner;
use super::checkpoint::Checkpoint;
use super::claim::give_back;
use super::parts::Parts;
use super::processor::Changes;
use super::retry::{Cause, GroupId, Waiting};
use crate::log;
use crate::plugin::{Columns, Fault};
use crate::queue::{Queue, Receipt};

/// Records to run together, and where they come from.
pub(super) struct Batch {
    pub(super) columns: Columns,
    pub(super) origin: Origin,
    /// The first of the places that are reserved for its records among the parked ones; `None` if they are
    /// parked behind all others.
    pub(super) reserved: Option<u64>,
}

/// Where the records of a batch come from.
pub(super) enum Origin {
    /// The log: the task's input of this number, which is `next_offset` after the batch.
    Input { turn: usize, next_offset: u64 },
    /// The log: some records of the task's input of this number, while others of it run elsewhere.
    Offsets { turn: usize },
    /// They were parked; one for each record.
    Parked(Vec<Waiting>),
    /// A queue.
    Queue(Leased),
    /// They are no records, but timers that are due: payloads as values, due times as timestamps.
    Timers,
}

/// The messages of a batch from a queue.
pub(super) struct Leased {
    pub(super) queue: Queue,
    /// One for each record.
    pub(super) receipts: Vec<Receipt>,
    /// Who waits for whom, for each record.
    pub(super) groups: Vec<GroupId>,
    /// When the first lease ends, in ms since the epoch.
    pub(super) until_ms: u64,
}

impl Batch {
    /// Parked records of one input, to be tried again. `input` is its index in the manifest's `from`.
    pub(super) fn of_parked(
        waiting: Vec<Waiting>,
        input: u32,
        partition: u32,
    ) -> Result<Self, TaskError> {
        let mut columns = Columns::new();
        columns.start(input, partition);
        for Waiting { parked, .. } in &waiting {
            let delivery_count = parked.attempt_count.saturating_add(1);
            let records = parked.record.records().map_err(log::Error::from)?;
            for record in &records {
                columns.push_delivery(&record.map_err(log::Error::from)?, delivery_count);
            }
        }
        Ok(Self {
            columns,
            origin: Origin::Parked(waiting),
            reserved: None,
        })
    }
}

/// A record that failed: its index in the batch, and why.
pub(super) type Failed = (usize, Cause);

/// How far a batch was run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// To its end.
    Whole,
    /// To the end of a part, since the task is to stop.
    Stopped,
}

/// What running a part led to.
enum Outcome {
    /// It is fine, or nothing of it has run since all of it waits behind others.
    Done {
        checkpoint: Box<Checkpoint>,
        has_run: bool,
    },
    Faulted(Fault, Option<usize>),
    /// The record with this index stops the pipeline; those before it can go through first.
    Stops(usize),
    /// An output takes nothing now: later again.
    Blocked(String),
}

impl BatchRunner {
    /// Runs a batch to its end, part by part, or to the end of a part if it is told to stop. What goes
    /// through is committed, also if a later part ends the task.
    pub(super) async fn run_batch(
        &mut self,
        batch: &Batch,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let ran = self.gather_batch(batch, stop).await;
        self.submit_gathered().await?;
        match ran {
            Ok(Progress::Whole) => Ok(()),
            Ok(Progress::Stopped) => give_back(batch).await,
            Err(error) => {
                give_back(batch).await?;
                Err(error)
            }
        }
    }

    /// As [`run_batch`](Self::run_batch), but what goes through is only gathered: the next checkpoint is to commit
    /// it. For batches that have nothing to give back.
    pub(super) async fn gather_batch(
        &mut self,
        batch: &Batch,
        stop: &watch::Receiver<bool>,
    ) -> Result<Progress, TaskError> {
        self.leased_until_ms = batch.leased_until_ms();
        self.changed_timers.clear();
        self.held_groups.clear();
        self.groups.clear();
        self.run_parts(batch, stop).await
    }

    async fn run_parts(
        &mut self,
        batch: &Batch,
        stop: &watch::Receiver<bool>,
    ) -> Result<Progress, TaskError> {
        let mut parts = Parts::of_batch(batch.columns.len());
        while let Some(range) = parts.pop() {
            if range.start > 0 && *stop.borrow() {
                return Ok(Progress::Stopped);
            }
            self.swap_if_asked().await;
            self.processor.mute_stderr(parts.has_faulted());
            let claim = self.claim(batch, &range)?;
            let outcome = {
                let _running = self.pipeline.calls.start().await;
                block_in_place(|| self.run_part(batch, &range, &claim.lost))?
            };
            let mut checkpoint = match outcome {
                Outcome::Done {
                    checkpoint,
                    has_run,
                } => {
                    if has_run {
                        parts.note_fine(&range);
                    }
                    *checkpoint
                }
                Outcome::Stops(index) => {
                    parts.isolate(range, index);
                    continue;
                }
                Outcome::Blocked(reason) => {
                    parts.push_back(range);
                    drop(claim);
                    if self.wait_for_room(&reason, stop).await? == Progress::Stopped {
                        return Ok(Progress::Stopped);
                    }
                    continue;
                }
                Outcome::Faulted(fault, said) if range.len() > 1 => {
                    let records = range.len();
                    parts.note_fault(&range);
                    match parts.split(range, said) {
                        Some(index) => {
                            tracing::debug!(%fault, index, "the plugin faulted on a record of a batch");
                        }
                        None => {
                            tracing::debug!(%fault, records, "the plugin faulted; halving the batch");
                        }
                    }
                    continue;
                }
                Outcome::Faulted(fault, _) => {
                    parts.note_fault(&range);
                    self.settle_fault(batch, range.start, fault).await?
                }
            };
            checkpoint.commit.extend(claim.commit);
            self.finish_part(batch, range, checkpoint, &claim.lost)
                .await?;
        }
        Ok(Progress::Whole)
    }

    /// What becomes of a record that stands alone and on which the plugin faults.
    async fn settle_fault(
        &mut self,
        batch: &Batch,
        index: usize,
        fault: Fault,
    ) -> Result<Checkpoint, TaskError> {
        let mut checkpoint = Checkpoint::default();
        let failed = [(index, Cause::Fault(fault))];
        // If it is given up on it runs once more.
        let _running = self.pipeline.calls.start().await;
        self.settle_failed(batch, &failed, &[], &mut checkpoint)?;
        Ok(checkpoint)
    }

    /// Runs a batch once, for at-most-once: its progress is committed first, so that after a crash nothing
    /// of it is seen again; and what fails is given up on.
    pub(super) async fn run_batch_once(
        &mut self,
        batch: &Batch,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        self.groups.clear();
        let all = self.commit_progress(batch).await?;
        let (called, mut checkpoint) = self.call_once(batch, &all, stop).await?;
        let mut changed = Changes::default();
        let failed: Vec<Failed> = match called {
            // Nothing waits for what is not tried again.
            Called::Mixed(_) => Vec::new(),
            Called::Blocked(reason) => self.not_taken(batch, &all, &reason),
            Called::Succeeded {
                failed,
                changes,
                output,
                ..
            } => {
                self.run_shadow(batch, &all, &output);
                changed = changes;
                let give_up = |cause| match cause {
                    Cause::Retry { reason, .. } => Cause::Reject { reason },
                    cause => cause,
                };
                let failed = failed.into_iter();
                failed
                    .map(|(index, cause)| (index, give_up(cause)))
                    .collect()
            }
            Called::Faulted(fault, _) => {
                checkpoint = Checkpoint::default();
                let all = all.iter().copied();
                all.map(|index| (index, Cause::Fault(fault.clone())))
                    .collect()
            }
        };
        let mut given_up = Checkpoint::default();
        {
            let _running = self.pipeline.calls.start().await;
            self.settle_failed(batch, &failed, &all, &mut given_up)?;
        }
        self.state
            .lock()
            .apply(changed.state, &mut checkpoint.commit);
        self.apply_timers(changed.timers, &mut checkpoint.commit);
        checkpoint.counts.add_input(batch, all.len() as u64);
        let bytes = checkpoint.commit.len_bytes() + given_up.commit.len_bytes();
        if bytes <= max_part_bytes() {
            checkpoint.add(given_up);
            return self.submit(checkpoint).await;
        }
        // More than one commit takes, and the records have run already.
        self.submit(checkpoint).await?;
        self.submit(given_up).await
    }

    /// Makes the one call of a batch, when there is room for its outputs; [`Called::Blocked`] if the task stops before.
    async fn call_once(
        &mut self,
        batch: &Batch,
        all: &[usize],
        stop: &watch::Receiver<bool>,
    ) -> Result<(Called, Checkpoint), TaskError> {
        loop {
            let mut checkpoint = Checkpoint::default();
            let called = {
                let _running = self.pipeline.calls.start().await;
                block_in_place(|| self.call(batch, all, &mut checkpoint))?
            };
            let Called::Blocked(reason) = &called else {
                return Ok((called, checkpoint));
            };
            // What it was to take out of an output is there again, to make room.
            drop(checkpoint);
            match self.wait_for_room(reason, stop).await {
                Ok(Progress::Stopped) => return Ok((called, Checkpoint::default())),
                Ok(Progress::Whole) => {}
                Err(error) => {
                    let (name, records) = (&self.pipeline.spec.name, all.len());
                    tracing::warn!(pipeline = %name, records, %error, "what these records led to is lost, since at-most-once had committed their progress");
                    return Err(error);
                }
            }
            // The call has not counted: another version may make it.
            self.swap_if_asked().await;
        }
    }

    /// What becomes of the records of a batch whose progress is committed, if the task stops before an output takes
    /// what they lead to: they do not come again by themselves, and none of it counts.
    fn not_taken(&self, batch: &Batch, all: &[usize], reason: &str) -> Vec<Failed> {
        let Some(first) = all.first() else {
            return Vec::new();
        };
        let (name, records) = (&self.pipeline.spec.name, all.len());
        let partition = batch.columns.partition();
        let first = self.origin(&batch.columns, *first);
        if self.pipeline.dead_letters.is_none() {
            tracing::warn!(pipeline = %name, partition, %first, records, reason, "stopped while an output took nothing: what these records led to is lost, since at-most-once had committed their progress and the pipeline has no dead-letter queue");
            return Vec::new();
        }
        tracing::warn!(pipeline = %name, partition, %first, records, reason, "stopped while an output took nothing: these records become dead letters, since at-most-once had committed their progress");
        let cause = || Cause::NotTaken {
            reason: format!("the pipeline was stopped while an output took nothing: {reason}"),
        };
        all.iter().map(|index| (*index, cause())).collect()
    }

    /// Runs those records of a part that need not wait for others.
    fn run_part(
        &mut self,
        batch: &Batch,
        range: &Range<usize>,
        lost: &[usize],
    ) -> Result<Outcome, TaskError> {
        let mut behind = Vec::new();
        let mut selection = self.select(batch, range, &mut behind);
        if !lost.is_empty() {
            selection.retain(|index| lost.binary_search(index).is_err());
            behind.retain(|index| lost.binary_search(index).is_err());
        }
        self.run_selection(batch, selection, behind)
    }

    /// The indexes of a part's records that may run; those whose group waits go to `behind`.
    fn select(
        &mut self,
        batch: &Batch,
        range: &Range<usize>,
        behind: &mut Vec<usize>,
    ) -> Vec<usize> {
        // What a lane is given waits for none but those of its own batch. Its timers were not chosen so.
        let is_chosen = self.lane.is_some() && !batch.columns.are_timers();
        let is_own = batch.is_parked() || is_chosen;
        let waits_for_nobody = match is_own {
            true => self.held_groups.is_empty(),
            false => self.parked.lock().is_empty(),
        };
        if waits_for_nobody {
            return range.clone().collect();
        }
        self.know_groups(batch);
        let parked = self.parked.lock();
        let mut selection = Vec::with_capacity(range.len());
        for index in range.clone() {
            let group = self.group(batch, index);
            let waits = match is_own {
                true => self.held_groups.contains(&group),
                false => parked.contains(group),
            };
            if waits {
                behind.push(index);
            } else {
                selection.push(index);
            }
        }
        selection
    }

    /// Runs the selected records, and parks those that wait `behind` others. If the plugin fails a record and not
    /// a later one of its group, the order would be broken: then the later one waits, too, and if that takes it
    /// everything runs again without it.
    fn run_selection(
        &mut self,
        batch: &Batch,
        mut selection: Vec<usize>,
        mut behind: Vec<usize>,
    ) -> Result<Outcome, TaskError> {
        let mut checkpoint = Checkpoint::default();
        let has_run = !selection.is_empty();
        while !selection.is_empty() {
            let called = self.call(batch, &selection, &mut checkpoint)?;
            let (failed, overtaken, changes) = match called {
                Called::Succeeded {
                    failed,
                    overtaken,
                    changes,
                    output,
                } => {
                    self.run_shadow(batch, &selection, &output);
                    (failed, overtaken, changes)
                }
                Called::Mixed(overtaken) => {
                    selection.retain(|index| overtaken.binary_search(index).is_err());
                    behind.extend(overtaken);
                    continue;
                }
                Called::Faulted(fault, index) => return Ok(Outcome::Faulted(fault, index)),
                Called::Blocked(reason) => return Ok(Outcome::Blocked(reason)),
            };
            if let Some(index) = self.stops_at(batch, &failed)
                && selection.len() > 1
            {
                self.reopen()?;
                return Ok(Outcome::Stops(index));
            }
            behind.extend(overtaken);
            let kept = failed.iter().map(|(index, _)| index).chain(&behind);
            let kept_bytes: usize = kept.map(|index| batch.kept_bytes(*index)).sum();
            let bytes = checkpoint.commit.len_bytes() + changes.len_bytes() + kept_bytes;
            if bytes > max_part_bytes() {
                self.reopen()?;
                let fault = too_large(bytes);
                self.status.note_fault(&fault);
                return Ok(Outcome::Faulted(fault, None));
            }
            self.settle_failed(batch, &failed, &selection, &mut checkpoint)?;
            self.state
                .lock()
                .apply(changes.state, &mut checkpoint.commit);
            checkpoint.timer_changes = changes.timers;
            break;
        }
        // Only now: a part that faults is selected again in its halves.
        behind.sort_unstable();
        for index in behind {
            let group = self.group(batch, index);
            self.park_behind(batch, index, group, &mut checkpoint)?;
        }
        Ok(Outcome::Done {
            checkpoint: Box::new(checkpoint),
            has_run,
        })
    }
}
