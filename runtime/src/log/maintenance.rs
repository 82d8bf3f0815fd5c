//! The background work of the log: retention and cleaning, in a rhythm.

use std::time::Duration;

use super::{Error, Log};

/// How often topics are looked at; Kafka's `log.retention.check.interval.ms`.
const INTERVAL: Duration = Duration::from_secs(300);

/// A running maintenance task; it ends when this is dropped.
pub struct Maintenance {
    task: tokio::task::JoinHandle<()>,
}

impl Maintenance {
    /// Starts maintaining all topics of a log. Must be called within a tokio runtime.
    pub fn start(log: Log) -> Self {
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = log.maintain().await {
                    tracing::warn!(%error, "maintenance of topics failed; it is tried again");
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { task }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Log {
    /// Applies retention to all topics and cleans the compacted ones, once.
    pub async fn maintain(&self) -> Result<(), Error> {
        for topic in self.topics() {
            let freed_bytes = self.apply_retention(&topic).await?;
            if freed_bytes > 0 {
                tracing::info!(topic = %topic.name(), freed_bytes, "retention deleted old records");
            }
            let report = self.clean_if_dirty(&topic).await?;
            if report.records_removed > 0 {
                let (removed, freed_bytes) = (report.records_removed, report.freed_bytes);
                tracing::info!(topic = %topic.name(), removed, freed_bytes, "compacted");
            }
        }
        Ok(())
    }
}
