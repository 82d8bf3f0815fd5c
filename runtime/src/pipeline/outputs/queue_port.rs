//! A port that leads to a queue.

use super::{OutputError, OutputRecord};
use crate::model::PortName;
use crate::queue::{self, MessageBatch, Queue};
use crate::storage::Commit;

/// Collects messages.
pub(super) struct QueuePort {
    name: PortName,
    queue: Queue,
    /// Made when first needed, kept between batches.
    batch: Option<MessageBatch>,
}

impl QueuePort {
    pub(super) fn new(name: PortName, queue: Queue) -> Self {
        Self {
            name,
            queue,
            batch: None,
        }
    }

    /// Adds a message; its attributes are headers of the record. One whose deduplication id is known is
    /// dropped, as the queue is asked to.
    pub(super) fn add(&mut self, record: &OutputRecord<'_>) -> Result<(), OutputError> {
        let batch = self.batch.get_or_insert_with(|| self.queue.batch());
        let pushed = batch.push(
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        );
        pushed.map(|_| ()).map_err(|error| self.failed(&error))
    }

    /// Forgets what is not in a commit yet.
    pub(super) fn discard(&mut self) {
        self.batch = None;
    }

    /// Adds the messages to the commit.
    pub(super) fn finish(&mut self, commit: &mut Commit) -> Result<(), OutputError> {
        let Some(batch) = self.batch.as_mut().filter(|batch| !batch.is_empty()) else {
            return Ok(());
        };
        let added = batch.add_to(commit);
        added.map(|_| ()).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &queue::Error) -> OutputError {
        let reason = self.reason(&error.to_string());
        match error {
            // Another commit is to decide on a deduplication id.
            queue::Error::Undecided => OutputError::Blocked { reason },
            queue::Error::Full { added, limit, .. } if added <= limit => {
                OutputError::Blocked { reason }
            }
            _ => OutputError::record(reason),
        }
    }

    pub(super) fn reason(&self, reason: &str) -> String {
        format!(
            "port `{}`, queue `{}`: {reason}",
            self.name,
            self.queue.name()
        )
    }
}
