//! The background work of the log: retention and cleaning, in a rhythm.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

use super::{Error, Log, Topic};
use crate::storage::{self, Commit, Store};

/// How often topics are looked at; Kafka's `log.retention.check.interval.ms`.
const INTERVAL: Duration = Duration::from_secs(300);

/// A running maintenance task; it ends when this is dropped.
pub struct Maintenance {
    task: JoinHandle<()>,
    last_pass: Arc<Notify>,
}

impl Maintenance {
    /// Starts maintaining all topics of a log, at once for the first time. Must be called within a tokio runtime.
    pub fn start(log: Log) -> Self {
        let last_pass = Arc::new(Notify::new());
        let asked = Arc::clone(&last_pass);
        let task = tokio::spawn(async move {
            loop {
                maintain_or_warn(&log).await;
                tokio::select! {
                    () = asked.notified() => break,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
            }
            maintain_or_warn(&log).await;
        });
        Self { task, last_pass }
    }

    /// Maintains all topics once more as they are now, and ends. If this is dropped meanwhile, that ends, too.
    pub async fn finish(mut self) {
        self.last_pass.notify_one();
        // What it has to tell it has logged.
        let _ = (&mut self.task).await;
    }
}

async fn maintain_or_warn(log: &Log) {
    if let Err(error) = log.maintain().await {
        tracing::warn!(%error, "maintenance of topics failed; it is tried again");
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Log {
    /// Applies retention to all topics, cleans the compacted ones, and frees what they have left, once.
    ///
    /// # Errors
    /// The first failure; the other topics have been maintained all the same.
    pub async fn maintain(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for topic in self.topics() {
            let maintained = self.maintain_topic(&topic).await;
            result = result.and(maintained);
        }
        let store = self.store().clone();
        match blocking(move || store.reclaim_blobs()).await? {
            Ok(0) => {}
            Ok(freed_bytes) => tracing::info!(freed_bytes, "rewrote blob files"),
            Err(error) => result = result.and(Err(error.into())),
        }
        result
    }

    async fn maintain_topic(&self, topic: &Topic) -> Result<(), Error> {
        let freed_bytes = self.apply_retention(topic).await?;
        if freed_bytes > 0 {
            tracing::info!(topic = %topic.name(), freed_bytes, "retention deleted old records");
        }
        let report = self.clean_if_dirty(topic).await?;
        if report.records_removed > 0 {
            let (removed, freed_bytes) = (report.records_removed, report.freed_bytes);
            tracing::info!(topic = %topic.name(), removed, freed_bytes, "compacted");
        }
        Ok(())
    }
}

/// Lets retention and cleaning happen one after the other: both reckon from what is stored what
/// they then commit, so that nobody else may change it in between.
#[derive(Clone, Default)]
pub(super) struct Upkeep {
    /// Whether the work before this one came to no end.
    interrupted: Arc<Mutex<bool>>,
}

impl Upkeep {
    /// Does the work when it is its turn. A topic that is deleted meanwhile needs no upkeep.
    pub(super) async fn run<T: Default>(
        &self,
        store: &Store,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut interrupted = self.interrupted.lock().await;
        if *interrupted {
            // Who was dropped while waiting for a commit has left it in the queue: wait for it.
            store.commit(Commit::new()).await?;
        }
        *interrupted = true;
        let result = work.await;
        *interrupted = false;
        match result {
            Err(Error::Storage(storage::Error::PartitionDeleted { .. })) => Ok(T::default()),
            result => result,
        }
    }
}

/// Runs what reads or compacts a lot on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(run).await;
    Ok(result.map_err(|_| storage::Error::Closed)?)
}
