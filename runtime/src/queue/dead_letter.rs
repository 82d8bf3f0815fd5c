//! What a queue gives up on: it goes to the dead-letter queue, or nowhere if there is none, in the
//! commit that takes it out of this one.

use super::Error;
use super::enqueue::MessageBatch;
use super::letter::{ATTEMPTS, DEAD_LETTERED_AT, ORIGIN, REASON, is_replaced};
use super::shared::Queue;
use crate::model::{HeadersBuf, QueueName, RecordRef};
use crate::storage::Commit;

/// Bytes of a commit that dead letters are added to; those beyond wait for another.
pub(super) const MAX_COMMIT_BYTES: usize = 32 << 20;
/// Bytes of dead letters that go with any commit: who adds little is not kept waiting by others that do the same.
const MIN_LETTER_BYTES: usize = 4 << 20;

/// Why a queue gives up on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was delivered `max-deliveries` times and never acknowledged.
    MaxDeliveries,
    /// Its time to live is over.
    Expired,
    /// The queue was full and drops the oldest messages.
    MaxLength,
}

impl Reason {
    /// As it stands in the header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MaxDeliveries => "max-deliveries",
            Self::Expired => "expired",
            Self::MaxLength => "max-length",
        }
    }
}

impl Queue {
    /// The queue that takes the dead letters.
    pub(super) fn dead_letter(&self) -> Option<Queue> {
        let name = self.config().dead_letter.clone()?;
        self.registry.upgrade()?.find(&name)
    }

    /// Adds to a commit that messages, which are taken, leave the queue for a reason: at least one of them. Those that
    /// are too many bytes for it, with those that it is still to have, are put back; returns how many. On an error drop
    /// the commit: all are put back then.
    pub(super) fn retire_in(
        &self,
        offsets: Vec<u64>,
        reason: Reason,
        bytes_to_come: usize,
        commit: &mut Commit,
    ) -> Result<usize, Error> {
        if offsets.is_empty() {
            return Ok(0);
        }
        let Some(target) = self.dead_letter() else {
            tracing::debug!(queue = %self.name(), messages = offsets.len(), reason = reason.as_str(), "dropped messages");
            self.finish_in(offsets, commit);
            return Ok(0);
        };
        let room_bytes = MAX_COMMIT_BYTES.saturating_sub(commit.len_bytes() + bytes_to_come);
        let room_bytes = room_bytes.max(MIN_LETTER_BYTES);
        let messages = self.read_up_to(&offsets, room_bytes);
        let (moved, put_back) = match &messages {
            Ok(messages) => offsets.split_at(messages.len()),
            Err(_) => (&offsets[..], &[][..]),
        };
        let attempts: Vec<u32> = {
            let mut index = self.state.index.lock();
            // Only now: nobody may count on the room of what is put back.
            index.leave(moved);
            let attempts = moved.iter().map(|offset| index.counted_deliveries(*offset));
            attempts.collect()
        };
        // Before the first error: dropping the commit puts them back.
        self.finish_in(moved.to_vec(), commit);
        self.undo(put_back);
        let mut batch = target.batch();
        let now_ms = self.now_ms();
        let letters = moved.iter().zip(attempts).zip(messages?);
        for ((offset, attempts), message) in letters {
            let letter = Letter {
                origin: format!("queue:{}/{offset}", self.name()),
                reason,
                attempts,
                now_ms,
            };
            letter.push_to(&mut batch, &message.record()?)?;
        }
        batch.finish()?;
        batch.append_to(commit);
        Ok(put_back.len())
    }

    /// For messages that this queue drops as they come. As a place they have that of the message which they would have
    /// been right before, so that those before it come before it also as dead letters.
    pub(super) fn dropped_at_once(&self, next_offset: u64) -> DroppedAtOnce {
        DroppedAtOnce {
            queue: self.name().clone(),
            letters: self.dead_letter().map(|target| target.batch()),
            letter: Letter {
                origin: format!("queue:{}/{next_offset}", self.name()),
                reason: Reason::MaxLength,
                attempts: 0,
                now_ms: self.now_ms(),
            },
            count: 0,
        }
    }

    /// Puts messages back that were taken.
    pub(super) fn undo(&self, offsets: &[u64]) {
        let now_ms = self.now_ms();
        let mut index = self.state.index.lock();
        for offset in offsets.iter().rev() {
            index.undo_settle(*offset, now_ms);
        }
        drop(index);
        self.state.changed.notify_waiters();
    }
}

/// Messages that a full queue drops before it has stored them.
pub(super) struct DroppedAtOnce {
    queue: QueueName,
    letters: Option<MessageBatch>,
    letter: Letter,
    count: u64,
}

impl DroppedAtOnce {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn push(&mut self, record: &RecordRef<'_>) -> Result<(), Error> {
        self.count += 1;
        match &mut self.letters {
            Some(letters) => self.letter.push_to(letters, record),
            None => Ok(()),
        }
    }

    /// Adds the dead letters to a commit, if there is a queue for them.
    pub(super) fn add_to(self, commit: &mut Commit) -> Result<(), Error> {
        let Some(mut letters) = self.letters else {
            tracing::debug!(queue = %self.queue, messages = self.count, reason = self.letter.reason.as_str(), "dropped messages");
            return Ok(());
        };
        letters.finish()?;
        letters.append_to(commit);
        Ok(())
    }
}

/// What a dead letter says besides the message.
struct Letter {
    origin: String,
    reason: Reason,
    attempts: u32,
    now_ms: u64,
}

impl Letter {
    /// Its times are over; its group and priority stay, and so does the deduplication id, as a mere
    /// header. What it says of an earlier death is replaced.
    fn push_to(&self, batch: &mut MessageBatch, record: &RecordRef<'_>) -> Result<(), Error> {
        let RecordRef {
            timestamp_ms,
            key,
            value,
            ..
        } = *record;
        let marked = self.headers(record).and_then(|headers| {
            batch.push_dead_letter(timestamp_ms, key, value, headers.as_headers())
        });
        match marked {
            // Too large with what it says besides: better as it was than for ever in the way of others.
            Err(Error::Batch(_)) => {
                batch.push_large_dead_letter(timestamp_ms, key, value, record.headers)
            }
            pushed => pushed,
        }
    }

    fn headers(&self, record: &RecordRef<'_>) -> Result<HeadersBuf, Error> {
        let mut headers = HeadersBuf::new();
        for (name, value) in record.headers {
            if !is_replaced(name) {
                headers.push(name, value)?;
            }
        }
        for (name, value) in [
            (ORIGIN, self.origin.as_str()),
            (REASON, self.reason.as_str()),
            (ATTEMPTS, &self.attempts.to_string()),
            (DEAD_LETTERED_AT, &self.now_ms.to_string()),
        ] {
            headers.push(name, Some(value.as_bytes()))?;
        }
        Ok(headers)
    }
}
