//! What a task does about the messages of a queue beside running them: they are claimed before a call, so
//! that nobody else gets them while their outcome is on its way, and given back if there is none.

use std::ops::Range;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;

use super::TaskError;
use super::batch_run::{Batch, Origin, Progress};
use super::batch_runner::BatchRunner;
use crate::queue::{self, Queue, Receipt};
use crate::storage::Commit;

/// The first pause of a task whose output takes nothing; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The messages of a part of a batch, held for the part's outcome.
#[derive(Default)]
pub(super) struct Claim {
    /// Acknowledges them; what it holds is leased as before if it is dropped.
    pub(super) commit: Commit,
    /// Indexes of messages that this task has no right to any more, and of timers that have been cancelled
    /// or set again; ascending.
    pub(super) lost: Vec<usize>,
}

impl BatchRunner {
    /// Claims the messages of a part of a batch, and says which of its timers are not to fire any more.
    pub(super) fn claim(
        &mut self,
        batch: &Batch,
        range: &Range<usize>,
    ) -> Result<Claim, TaskError> {
        let mut claim = Claim::default();
        if matches!(batch.origin, Origin::Timers) {
            claim.lost = range
                .clone()
                .filter(|index| self.is_changed_timer(batch, *index))
                .collect();
        }
        let Origin::Queue(leased) = &batch.origin else {
            return Ok(claim);
        };
        self.keep_leases(batch, range.start)?;
        let receipts = leased.receipts.get(range.clone()).unwrap_or_default();
        let queue = &leased.queue;
        let settled = block_in_place(|| queue.acknowledge_in(receipts, &mut claim.commit))?;
        if !settled.stale.is_empty() {
            let (queue, lost) = (queue.name(), settled.stale.len());
            tracing::warn!(pipeline = %self.pipeline.spec.name, %queue, lost, "messages were purged or leased by another before they were processed");
            let is_stale = |index: &usize| settled.stale.contains(&leased.receipts[*index]);
            claim.lost = range.clone().filter(is_stale).collect();
        }
        Ok(claim)
    }

    /// Extends the leases of what is left of a batch that takes long: what is claimed is not handed out, and what is not
    /// should last until it is its turn, or it is clear that it has to wait.
    fn keep_leases(&mut self, batch: &Batch, from: usize) -> Result<(), TaskError> {
        let Origin::Queue(leased) = &batch.origin else {
            return Ok(());
        };
        let timeout_ms = leased.queue.config().visibility_timeout_ms;
        // A record on which the plugin faults may run a second time, for its recording.
        let until_next = self.pipeline.spec.limits.deadline * 2 + LONGEST_PAUSE;
        let until_next_ms = u64::try_from(until_next.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.now_ms();
        let needed_ms = until_next_ms.saturating_add(timeout_ms / 2);
        if self.leased_until_ms < now_ms.saturating_add(needed_ms) {
            let rest = leased.receipts.get(from..).unwrap_or_default();
            let lease_ms = until_next_ms.saturating_add(timeout_ms);
            block_in_place(|| leased.queue.extend(rest, lease_ms))?;
            self.leased_until_ms = now_ms.saturating_add(lease_ms);
        }
        Ok(())
    }

    /// Commits the progress of a batch before it runs. Returns the indexes of the records that are to run.
    pub(super) async fn commit_progress(&mut self, batch: &Batch) -> Result<Vec<usize>, TaskError> {
        let all = 0..batch.columns.len();
        self.leased_until_ms = batch.leased_until_ms();
        let claim = self.claim(batch, &all)?;
        match &batch.origin {
            Origin::Input { turn, next_offset } => self.gathered_to = Some((*turn, *next_offset)),
            Origin::Offsets { turn } => {
                if let Some(lane) = &mut self.lane {
                    lane.finished(*turn, batch.columns.offsets().iter().copied());
                }
            }
            Origin::Parked(waiting) => {
                let mut parked = self.parked.lock();
                for done in waiting {
                    parked.remove(done, &mut self.gathered.commit);
                }
                self.has_parked = true;
            }
            Origin::Queue(_) | Origin::Timers => {}
        }
        self.gathered.commit.extend(claim.commit);
        if matches!(batch.origin, Origin::Timers) {
            let mut removed = Commit::new();
            for index in all.clone() {
                self.remove_timer(batch, index, &mut removed);
            }
            self.gathered.commit.extend(removed);
        }
        self.submit_gathered().await?;
        self.settle_checkpoint().await?;
        Ok(all
            .filter(|index| claim.lost.binary_search(index).is_err())
            .collect())
    }

    /// Waits a while for an output to take something again, when all that is done so far is committed: it may
    /// be that which it waits for.
    pub(super) async fn wait_for_room(
        &mut self,
        reason: &str,
        stop: &watch::Receiver<bool>,
    ) -> Result<Progress, TaskError> {
        self.submit_gathered().await?;
        self.settle_checkpoint().await?;
        let mut stop = stop.clone();
        // What it does not come to is done the next time: meanwhile the leases of a batch are extended.
        let has_made = tokio::select! {
            made = self.outputs.make_room() => made?,
            () = tokio::time::sleep(LONGEST_PAUSE) => true,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        if !has_made {
            let pause = self.blocked_pause.unwrap_or_else(|| {
                tracing::info!(pipeline = %self.pipeline.spec.name, reason, "waiting for an output");
                FIRST_PAUSE
            });
            self.blocked_pause = Some((pause * 2).min(LONGEST_PAUSE));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        Ok(match *stop.borrow() {
            true => Progress::Stopped,
            false => Progress::Whole,
        })
    }
}

/// Gives those messages of a batch back that have no outcome.
pub(super) async fn give_back(batch: &Batch) -> Result<(), TaskError> {
    if let Origin::Queue(leased) = &batch.origin {
        give_messages_back(&leased.queue, &leased.receipts).await?;
    }
    Ok(())
}

/// Gives messages back, so that the delivery does not count: that a task ends says nothing about them.
pub(super) async fn give_messages_back(
    queue: &Queue,
    receipts: &[Receipt],
) -> Result<(), queue::Error> {
    match queue.give_back(receipts).await {
        Ok(_) | Err(queue::Error::Deleted { .. }) => return Ok(()),
        Err(error) => {
            let (queue, messages) = (queue.name(), receipts.len());
            tracing::warn!(%queue, messages, %error, "messages are given back, and the delivery counts: that it does not could not be stored");
        }
    }
    block_in_place(|| queue.release_unchanged(receipts))?;
    Ok(())
}

impl Batch {
    /// When the first lease of its messages ends, in ms since the epoch.
    pub(super) fn leased_until_ms(&self) -> u64 {
        match &self.origin {
            Origin::Queue(leased) => leased.until_ms,
            Origin::Input { .. } | Origin::Offsets { .. } | Origin::Parked(_) | Origin::Timers => {
                u64::MAX
            }
        }
    }
}
