//! The background work of queues: messages that nobody asks for expire, space is given back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Error, Queue, Queues};
use crate::storage::{self, Commit};

/// How often queues are looked at.
const INTERVAL: Duration = Duration::from_secs(30);
/// Bytes of removed messages after which their space is given back to the file system at once, and not
/// when RocksDB comes across them.
const COMPACT_BYTES: u64 = 256 << 20;

/// A running maintenance task; it ends when this is dropped.
pub struct Maintenance {
    task: JoinHandle<()>,
    last_pass: Arc<Notify>,
}

impl Maintenance {
    /// Starts maintaining all queues. Must be called within a tokio runtime.
    pub fn start(queues: Queues) -> Self {
        let last_pass = Arc::new(Notify::new());
        let asked = Arc::clone(&last_pass);
        let task = tokio::spawn(async move {
            loop {
                let is_last = tokio::select! {
                    () = asked.notified() => true,
                    () = tokio::time::sleep(INTERVAL) => false,
                };
                maintain_all(&queues).await;
                if is_last {
                    return;
                }
            }
        });
        Self { task, last_pass }
    }

    /// Maintains all queues once more as they are now, and ends. If this is dropped meanwhile, that ends, too.
    pub async fn finish(mut self) {
        self.last_pass.notify_one();
        // What it has to tell it has logged.
        let _ = (&mut self.task).await;
    }
}

async fn maintain_all(queues: &Queues) {
    for queue in queues.queues() {
        match queue.maintain().await {
            Ok(()) | Err(Error::Deleted { .. }) => {}
            Err(error) => {
                tracing::warn!(queue = %queue.name(), %error, "maintenance of a queue failed; it is tried again");
            }
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Queue {
    /// Gives up on expired messages, removes what is done with from the store, and gives its space back
    /// if it is much. A queue that nobody has used since the data directory was opened stays as it is.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`]
    pub async fn maintain(&self) -> Result<(), Error> {
        if self.partition().is_deleted() || !self.is_taken_in() {
            return Ok(());
        }
        self.drop_expired().await?;
        if self.state.index.lock().counts().live == 0 {
            self.state.reader.lock().clear();
        }
        let guard = self.trimming().await;
        let trim = self.state.index.lock().trim();
        match trim {
            Some(trim) => {
                let mut commit = Commit::new();
                self.trim_in(trim, guard, &mut commit);
                self.commit(commit).await?;
            }
            None => drop(guard),
        }
        self.make_holes().await?;
        if self.state.freed_bytes.load(Ordering::Relaxed) < COMPACT_BYTES {
            return Ok(());
        }
        self.state.freed_bytes.store(0, Ordering::Relaxed);
        let (store, partition) = (self.store.clone(), self.partition().clone());
        let Some(freed) = self.state.freed_range.lock().take() else {
            return Ok(());
        };
        let compacted = tokio::task::spawn_blocking(move || {
            store.compact_partition(&partition, freed);
        });
        Ok(compacted.await.map_err(|_| storage::Error::Closed)?)
    }

    /// Removes what is done with behind messages that stay.
    async fn make_holes(&self) -> Result<(), Error> {
        let mut from = 0;
        loop {
            let guard = self.trimming().await;
            let Some(hole) = self.state.index.lock().hole(from) else {
                return Ok(());
            };
            let mut commit = Commit::new();
            self.hollow_in(hole, guard, &mut commit);
            self.commit(commit).await?;
            from = hole.to;
        }
    }
}
