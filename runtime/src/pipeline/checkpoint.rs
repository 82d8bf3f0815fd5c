//! A task's checkpoints: outputs, state and progress in one commit, at most one under way.

use crate::storage::{self, Commit, PendingCommit, Store};

use super::status::TaskStatus;

/// Hands a task's checkpoints to the store. The next batch may run while a checkpoint becomes
/// durable, and never further ahead, so that memory is bounded whatever the backlog.
pub(super) struct Checkpoints {
    store: Store,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    pending: PendingCommit,
    records_in: u64,
    records_out: u64,
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
        records_in: u64,
        records_out: u64,
        status: &TaskStatus,
    ) -> Result<(), storage::Error> {
        self.settle(status).await?;
        if commit.is_empty() {
            status.count(records_in, records_out);
            return Ok(());
        }
        fail::fail_point!("checkpoint::before-submit");
        let pending = self.store.submit(commit).await?;
        self.under_way = Some(UnderWay {
            pending,
            records_in,
            records_out,
        });
        Ok(())
    }

    /// Waits until the checkpoint under way is durable.
    pub(super) async fn settle(&mut self, status: &TaskStatus) -> Result<(), storage::Error> {
        if let Some(UnderWay {
            pending,
            records_in,
            records_out,
        }) = self.under_way.take()
        {
            pending.wait().await?;
            fail::fail_point!("checkpoint::acknowledged");
            status.count(records_in, records_out);
        }
        Ok(())
    }
}
