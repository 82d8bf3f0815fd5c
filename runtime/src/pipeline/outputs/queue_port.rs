//! A port that leads to a queue.

use std::time::{Duration, Instant};

use super::{OutputError, OutputRecord};
use crate::model::{PortName, QueueName};
use crate::queue::{self, MessageBatch, Queue};
use crate::storage::Commit;

/// How often it is told how many messages the queue has dropped as duplicates: they may be all that there are.
const PAUSE: Duration = Duration::from_secs(10);

/// Collects messages.
pub(super) struct QueuePort {
    name: PortName,
    queue: Queue,
    /// Made when first needed, kept between batches.
    batch: Option<MessageBatch>,
    /// Messages for which the queue has to make room first: those of a batch that is tried again.
    room_for: Option<u64>,
    /// What the queue has dropped as duplicates and nobody was told of.
    duplicates: Duplicates,
}

/// Counts the messages of a port that the queue drops as duplicates, and tells of them in the log.
struct Duplicates {
    port: PortName,
    queue: QueueName,
    count: u64,
    told_at: Option<Instant>,
}

impl QueuePort {
    pub(super) fn new(name: PortName, queue: Queue) -> Self {
        Self {
            duplicates: Duplicates {
                port: name.clone(),
                queue: queue.name().clone(),
                count: 0,
                told_at: None,
            },
            name,
            queue,
            batch: None,
            room_for: None,
        }
    }

    /// Adds a message; its attributes are headers of the record. One whose deduplication id is known is
    /// dropped, as the queue is asked to, and counted.
    pub(super) fn add(&mut self, record: &OutputRecord<'_>) -> Result<(), OutputError> {
        let batch = self.batch.get_or_insert_with(|| self.queue.batch());
        let pushed = batch.push_output(
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

    /// Adds the messages to the commit; returns how many dead letters a full queue has added with them.
    pub(super) fn finish(&mut self, commit: &mut Commit) -> Result<u64, OutputError> {
        let Some(batch) = self.batch.as_mut().filter(|batch| !batch.is_empty()) else {
            return Ok(0);
        };
        let count_before = commit.record_count();
        match batch.add_to(commit) {
            Ok(added) => {
                self.duplicates.note(added.duplicates.len() as u64);
                Ok(commit.record_count() - count_before - added.stored_count)
            }
            Err(error) => {
                if let queue::Error::RoomFirst { added, .. } = &error {
                    self.room_for = Some(*added);
                }
                Err(self.failed(&error))
            }
        }
    }

    /// Lets the queue make room if that is what the last batch was blocked for; whether it has.
    pub(super) async fn make_room(&mut self) -> Result<bool, queue::Error> {
        let Some(added) = self.room_for.take() else {
            return Ok(false);
        };
        match self.queue.make_room(added).await {
            Ok(()) => Ok(true),
            // Others have filled it meanwhile, and there is room when there is.
            Err(queue::Error::Full { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn failed(&self, error: &queue::Error) -> OutputError {
        let reason = self.reason(&error.to_string());
        match error {
            // Another commit is to decide on a deduplication id, or to make room.
            queue::Error::Undecided | queue::Error::RoomFirst { .. } => {
                OutputError::Blocked { reason }
            }
            // A purge has made the room meanwhile.
            error if error.is_overtaken() => OutputError::Blocked { reason },
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

impl Duplicates {
    fn note(&mut self, count: u64) {
        self.count += count;
        if self.told_at.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.tell();
        }
    }

    fn tell(&mut self) {
        if self.count > 0 {
            let messages = std::mem::take(&mut self.count);
            self.told_at = Some(Instant::now());
            tracing::info!(port = %self.port, queue = %self.queue, messages, "the queue dropped outputs whose deduplication ids it knows");
        }
    }
}

impl Drop for Duplicates {
    fn drop(&mut self) {
        self.tell();
    }
}
