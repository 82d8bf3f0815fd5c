//! What a manifest declares, in the data directory: all of it is checked before any of it is stored, so that a
//! manifest that is refused changes nothing. A shorter retention, for one, would delete records.

use super::Error;
use super::queues::plan_queues;
use super::topics::plan_topics;
use crate::log::{Log, PlannedTopics};
use crate::manifest::ResolvedManifest;
use crate::model::QueueName;
use crate::queue::{PlannedQueues, Queues};
use crate::storage::{Commit, Store};

/// Creates the manifest's topics and queues, and gives those that exist what it says of them.
///
/// # Errors
/// [`Error::Manifest`] if it does not go with what exists, [`Error::Log`], [`Error::Queue`]; then nothing has changed.
pub async fn declare(log: &Log, queues: &Queues, manifest: &ResolvedManifest) -> Result<(), Error> {
    let declared = Declared::plan(log, queues, manifest, Vec::new()).await?;
    declared.store().await
}

/// A manifest's topics and queues, checked and not stored yet. Nobody else changes any as long as this exists.
pub(super) struct Declared {
    store: Store,
    topics: PlannedTopics,
    queues: PlannedQueues,
}

impl Declared {
    /// Checks what the manifest declares against what exists. Queues of `needed` are created with the default settings
    /// if there are none.
    ///
    /// # Errors
    /// As [`declare`].
    pub(super) async fn plan(
        log: &Log,
        queues: &Queues,
        manifest: &ResolvedManifest,
        needed: Vec<QueueName>,
    ) -> Result<Self, Error> {
        Ok(Self {
            store: log.store().clone(),
            // Whoever plans both does so in this order, so that no two wait for each other.
            topics: plan_topics(log, manifest).await?,
            queues: plan_queues(queues, manifest, needed).await?,
        })
    }

    /// Stores all of it, in one commit.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub(super) async fn store(self) -> Result<(), Error> {
        let mut commit = Commit::new();
        let topics = self.topics.put_in(&mut commit)?;
        let queues = self.queues.put_in(&mut commit)?;
        if !commit.is_empty() {
            self.store.commit(commit).await?;
        }
        topics.publish();
        queues.publish();
        Ok(())
    }
}
