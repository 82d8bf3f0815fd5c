//! A task's checkpoints: outputs, state, timers, parked records, dead letters and progress in one commit,
//! at most one under way.

use hashbrown::HashSet;

use crate::plugin::TimerChange;
use crate::storage::{self, Commit, PendingCommit, Store};

use super::status::{Counts, TaskStatus};

/// A checkpoint that is being put together.
#[derive(Default)]
pub(super) struct Checkpoint {
    pub(super) commit: Commit,
    pub(super) counts: Counts,
    /// Indexes of the records of a batch of parked ones that stay parked.
    pub(super) still_parked: HashSet<usize>,
    /// What was set and cancelled; it goes into the commit after the removal of timers that have fired.
    pub(super) timer_changes: Vec<TimerChange>,
}

impl Checkpoint {
    /// Adds the commit of another one, and what it counts.
    pub(super) fn add(&mut self, other: Checkpoint) {
        self.commit.extend(other.commit);
        self.counts.add(other.counts);
    }
}

/// Hands a task's checkpoints to the store. The next batch may run while a checkpoint becomes
/// durable, and never further ahead, so that memory is bounded whatever the backlog.
pub(super) struct Checkpoints {
    store: Store,
    under_way: Option<(PendingCommit, Counts)>,
}

impl Checkpoints {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            under_way: None,
        }
    }

    /// Submits a checkpoint, once the one before it is durable.
    pub(super) async fn submit(
        &mut self,
        commit: Commit,
        counts: Counts,
        status: &TaskStatus,
    ) -> Result<(), storage::Error> {
        self.settle(status).await?;
        if commit.is_empty() {
            status.count(counts);
            return Ok(());
        }
        fail::fail_point!("checkpoint::before-submit");
        let pending = self.store.submit(commit).await?;
        self.under_way = Some((pending, counts));
        Ok(())
    }

    /// Waits until the checkpoint under way is durable.
    pub(super) async fn settle(&mut self, status: &TaskStatus) -> Result<(), storage::Error> {
        // Whoever drops this future can ask again.
        if let Some((pending, counts)) = &mut self.under_way {
            let acknowledged = pending.acknowledged().await;
            let counts = *counts;
            self.under_way = None;
            acknowledged?;
            fail::fail_point!("checkpoint::acknowledged");
            status.count(counts);
        }
        Ok(())
    }
}
