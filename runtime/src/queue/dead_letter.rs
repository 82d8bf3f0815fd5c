//! What a queue gives up on: it goes to the dead-letter queue, or nowhere if there is none, in the
//! commit that takes it out of this one.

use super::attributes::{EXPIRES_AT, NOT_BEFORE};
use super::enqueue::MessageBatch;
use super::message::Stored;
use super::shared::Queue;
use super::{DELAY, Error, TIME_TO_LIVE};
use crate::model::HeadersBuf;
use crate::storage::Commit;

/// Where a dead letter comes from: `queue:NAME/OFFSET`.
pub const ORIGIN: &str = "millstream-origin";
/// Why it was given up on, see [`Reason`].
pub const REASON: &str = "millstream-reason";
/// How often it was delivered.
pub const ATTEMPTS: &str = "millstream-attempts";
/// When it was given up on, in ms since the epoch.
pub const DEAD_LETTERED_AT: &str = "millstream-dead-lettered-at";

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

    /// Adds to a commit that messages, which are taken, leave the queue for a reason. On an error drop
    /// the commit: the messages are put back then.
    pub(super) fn retire_in(
        &self,
        offsets: Vec<u64>,
        reason: Reason,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        if offsets.is_empty() {
            return Ok(());
        }
        let Some(target) = self.dead_letter() else {
            tracing::debug!(queue = %self.name(), messages = offsets.len(), reason = reason.as_str(), "dropped messages");
            self.finish_in(offsets, commit);
            return Ok(());
        };
        let attempts: Vec<u32> = {
            let index = self.state.index.lock();
            offsets
                .iter()
                .map(|offset| index.state(*offset).0)
                .collect()
        };
        let messages = self.read(offsets.iter().copied());
        // Before the first error: dropping the commit puts them back.
        self.finish_in(offsets.clone(), commit);
        let mut batch = target.batch();
        let now_ms = self.now_ms();
        for ((offset, attempts), message) in offsets.iter().zip(attempts).zip(&messages?) {
            let letter = Letter {
                origin: format!("queue:{}/{offset}", self.name()),
                reason,
                attempts,
                now_ms,
            };
            letter.push_to(&mut batch, message)?;
        }
        batch.finish()?;
        batch.append_to(commit);
        Ok(())
    }

    /// Reads messages in the order of the offsets.
    pub(super) fn read(
        &self,
        offsets: impl ExactSizeIterator<Item = u64>,
    ) -> Result<Vec<Stored>, Error> {
        let mut reader = self.state.reader.lock();
        let messages = reader.read(&self.store, self.partition(), offsets);
        messages.map_err(|error| self.failed(error))
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
    fn push_to(&self, batch: &mut MessageBatch, message: &Stored) -> Result<(), Error> {
        let record = message.record()?;
        let mut headers = HeadersBuf::new();
        for (name, value) in record.headers {
            let is_replaced = [
                ORIGIN,
                REASON,
                ATTEMPTS,
                DEAD_LETTERED_AT,
                DELAY,
                NOT_BEFORE,
                TIME_TO_LIVE,
                EXPIRES_AT,
            ]
            .contains(&name);
            if !is_replaced {
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
        batch.push_stored(
            record.timestamp_ms,
            record.key,
            record.value,
            headers.as_headers(),
        )
    }
}
