//! Taking chosen messages out of a queue, in a commit: what becomes of them is up to the commit.
//!
//! Unlike a lease this takes messages by their offsets, counts no delivery, and is nothing that could
//! time out: from the moment at which a message is taken nobody else gets it, and with the commit it is
//! gone.

use super::shared::Queue;
use super::{Error, MessageState, PeekedMessage};
use crate::storage::Commit;

/// What [`Queue::take_in`] has taken.
#[derive(Debug)]
pub struct Taken {
    /// The messages, in the order asked for.
    pub messages: Vec<PeekedMessage>,
    /// How many of the offsets asked for, from the first on, are decided on: their message is taken, or
    /// cannot be. The rest would have been too many bytes.
    pub decided_count: usize,
}

impl Queue {
    /// Takes those of some messages that nobody holds, whatever they wait for, until they are too many
    /// bytes, but one in any case. They are gone when the commit happens, and as before when it does
    /// not. What is leased, being settled, or done with is not taken.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]; drop the commit then.
    pub async fn take_in(
        &self,
        offsets: &[u64],
        max_bytes: usize,
        commit: &mut Commit,
    ) -> Result<Taken, Error> {
        self.catch_up().await?;
        let (mut taken, mut places) = (Vec::new(), Vec::new());
        {
            let mut index = self.state.index.lock();
            for (place, offset) in offsets.iter().enumerate() {
                if index.take_one(*offset) {
                    let delivery_count = index.state(*offset).0;
                    taken.push((*offset, delivery_count));
                    places.push(place);
                }
            }
        }
        let wanted: Vec<u64> = taken.iter().map(|(offset, _)| *offset).collect();
        let read = self.read_up_to(&wanted, max_bytes);
        let kept_count = read.as_ref().map_or(0, Vec::len);
        let (kept, put_back) = wanted.split_at(kept_count);
        self.undo(put_back);
        let stored = read?;
        self.finish_in(kept.to_vec(), commit);
        let messages = taken.iter().zip(stored);
        let messages = messages.map(|((offset, delivery_count), stored)| PeekedMessage {
            offset: *offset,
            delivery_count: *delivery_count,
            state: MessageState::Leased { deadline_ms: None },
            stored,
        });
        Ok(Taken {
            messages: messages.collect(),
            decided_count: places.get(kept_count).copied().unwrap_or(offsets.len()),
        })
    }

    /// Deletes those of some messages that nobody holds; returns how many.
    ///
    /// # Errors
    /// As [`take_in`](Self::take_in).
    pub async fn remove(&self, offsets: &[u64]) -> Result<u64, Error> {
        self.catch_up().await?;
        let taken: Vec<u64> = {
            let mut index = self.state.index.lock();
            let offsets = offsets.iter().copied();
            offsets.filter(|offset| index.take_one(*offset)).collect()
        };
        let count = taken.len() as u64;
        let mut commit = Commit::new();
        self.finish_in(taken, &mut commit);
        if !commit.is_empty() {
            self.commit(commit).await?;
        }
        Ok(count)
    }
}
