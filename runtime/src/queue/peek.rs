//! Looking at a queue, and emptying it.

use std::sync::Arc;

use super::index::State;
use super::message::Stored;
use super::shared::Queue;
use super::{Attributes, Error};
use crate::model::{self, QueueName, RecordRef};
use crate::storage::Commit;

/// How often looking begins anew because what was found is gone.
const MAX_ATTEMPTS: u32 = 1_000;
/// Bytes of messages that are looked at together; one message in any case.
const MAX_PEEK_BYTES: usize = 16 << 20;

/// How a queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Messages that can be leased, now or when those of their group before them are done with.
    pub waiting_count: u64,
    /// Messages that wait for a time.
    pub delayed_count: u64,
    /// Messages that are leased, or being settled.
    pub leased_count: u64,
    /// How long ago the record of the oldest message is dated, in ms; `None` if there is none.
    pub oldest_age_ms: Option<u64>,
    /// Bytes of the stored batches, those that are acknowledged and not removed yet included.
    pub size_bytes: u64,
    /// The queue that takes the dead letters, and how many messages it holds.
    pub dead_letter: Option<(QueueName, u64)>,
}

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// To be leased.
    Ready,
    /// For the messages of its group before it.
    Behind,
    /// For a time, in ms since the epoch.
    Delayed {
        /// That time.
        until_ms: u64,
    },
    /// For who has leased it, or a commit that settles it.
    Leased {
        /// When the lease ends, in ms since the epoch; `None` if it is being settled.
        deadline_ms: Option<u64>,
    },
}

/// A message that was looked at and not leased.
#[derive(Clone, Debug)]
pub struct PeekedMessage {
    /// Its offset in the queue.
    pub offset: u64,
    /// Deliveries so far.
    pub delivery_count: u32,
    /// What it waits for.
    pub state: MessageState,
    pub(super) stored: Stored,
}

impl PeekedMessage {
    /// The record, read in place each time.
    ///
    /// # Errors
    /// Those of a malformed batch; it was read once before, so there are none.
    pub fn record(&self) -> Result<RecordRef<'_>, model::batch::Error> {
        self.stored.record()
    }

    /// Its attributes; a bad value, which only a foreign batch can have, counts as none.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    pub fn attributes(&self) -> Result<Attributes<'_>, model::batch::Error> {
        Ok(Attributes::parse_stored(self.record()?.headers))
    }
}

impl Queue {
    /// Messages from an offset on, in order of offsets, whatever they wait for. Nothing changes. Of
    /// large messages there are fewer than asked for, but one if there is any.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]
    pub async fn peek(
        &self,
        from_offset: u64,
        max_messages: usize,
    ) -> Result<Vec<PeekedMessage>, Error> {
        let mut overtaken = 0;
        loop {
            self.catch_up().await?;
            let found = self.look(from_offset, max_messages);
            let offsets: Vec<u64> = found.iter().map(|(offset, ..)| *offset).collect();
            let stored = match self.read_up_to(&offsets, MAX_PEEK_BYTES) {
                // Acknowledged and removed since it was found.
                Err(error) if error.is_overtaken() && overtaken < MAX_ATTEMPTS => {
                    overtaken += 1;
                    tokio::task::yield_now().await;
                    continue;
                }
                stored => stored?,
            };
            let messages = found.into_iter().zip(stored);
            let messages =
                messages.map(|((offset, delivery_count, state), stored)| PeekedMessage {
                    offset,
                    delivery_count,
                    state,
                    stored,
                });
            return Ok(messages.collect());
        }
    }

    fn look(&self, from_offset: u64, max_messages: usize) -> Vec<(u64, u32, MessageState)> {
        let mut found = Vec::new();
        let mut index = self.state.index.lock();
        index.advance(self.now_ms());
        let mut next = index.next_live(from_offset);
        while let Some(offset) = next.filter(|_| found.len() < max_messages) {
            let (delivery_count, state) = index.state(offset);
            let state = match state {
                State::Ready => MessageState::Ready,
                State::Behind => MessageState::Behind,
                State::Delayed { until_ms } => MessageState::Delayed { until_ms },
                State::Leased { lease } => MessageState::Leased {
                    deadline_ms: index.deadline_ms(lease),
                },
                State::Settling { .. } => MessageState::Leased { deadline_ms: None },
            };
            found.push((offset, delivery_count, state));
            next = index.next_live(offset + 1);
        }
        found
    }

    /// How the queue is.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]
    pub async fn describe(&self) -> Result<Description, Error> {
        let oldest = self.peek(0, 1).await?;
        let oldest_age_ms = match oldest.first() {
            Some(message) => Some(self.now_ms().saturating_sub(message.record()?.timestamp_ms)),
            None => None,
        };
        let dead_letter = match self.dead_letter() {
            Some(queue) => Some((queue.name().clone(), queue.message_count().await?)),
            None => None,
        };
        let counts = self.state.index.lock().counts();
        Ok(Description {
            waiting_count: counts.live - counts.held - counts.delayed,
            delayed_count: counts.delayed,
            leased_count: counts.held,
            oldest_age_ms,
            size_bytes: self.partition().size_bytes(),
            dead_letter,
        })
    }

    /// Messages that the queue holds, in whatever state.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]
    pub async fn message_count(&self) -> Result<u64, Error> {
        self.catch_up().await?;
        Ok(self.state.index.lock().counts().live)
    }

    /// Deletes all messages that the queue holds now, leased ones too; returns how many.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`]
    pub async fn purge(&self) -> Result<u64, Error> {
        let guard = self.trimming().await;
        self.catch_up().await?;
        let mut commit = Commit::new();
        let (count, trim) = {
            let mut index = self.state.index.lock();
            let count = index.counts().live;
            // At once, so that what comes meanwhile is not taken for what was there. Should the commit
            // fail, everything is read again from what is stored.
            index.purge();
            (count, index.trim())
        };
        let Some(trim) = trim else {
            return Ok(0);
        };
        let state = Arc::clone(&self.state);
        commit.on_outcome(move |happened| {
            if !happened {
                state.forget();
            }
        });
        self.trim_in(trim, guard, &mut commit);
        self.commit(commit).await?;
        Ok(count)
    }
}
