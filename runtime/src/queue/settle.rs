//! What a lease holder can do: acknowledge, release, extend.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::index::Index;
use super::offset_set::place;
use super::shared::Queue;
use super::{Error, Receipt};
use crate::storage::Commit;
use crate::storage::schema::queue_chunk::{Chunk, Exception, GivenBack};

/// What became of receipts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Receipts that counted.
    pub settled_count: u64,
    /// Receipts that did not: the message was delivered again since, is done with, or is being settled
    /// by another commit.
    pub stale: Vec<Receipt>,
}

/// Changes of chunks.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<u64, Chunk>);

impl Changes {
    pub(super) fn acknowledge(&mut self, offset: u64) {
        let (chunk, position) = place(offset);
        let chunk = self.0.entry(chunk).or_default();
        chunk.acknowledged.insert(position);
    }

    /// A delivery, and the time that the message waits for after it.
    pub(super) fn deliver(&mut self, receipt: Receipt, not_before_ms: u64) {
        let (chunk, position) = place(receipt.offset);
        let chunk = self.0.entry(chunk).or_default();
        if receipt.delivery_count == 1 && not_before_ms == 0 {
            chunk.delivered.insert(position);
            return;
        }
        let exception = Exception {
            delivery_count: receipt.delivery_count,
            not_before_ms,
        };
        // Below 1,024.
        chunk.exceptions.insert(position as u16, exception);
    }

    /// Which deliveries of a message were given back.
    fn give_back(&mut self, offset: u64, given_back: GivenBack) {
        let (chunk, position) = place(offset);
        let chunk = self.0.entry(chunk).or_default();
        // Below 1,024.
        chunk.given_back.insert(position as u16, given_back);
    }

    pub(super) fn add_to(&self, queue: &Queue, commit: &mut Commit) {
        for (chunk, change) in &self.0 {
            commit.merge_queue_chunk(queue.id(), *chunk, change);
        }
    }
}

impl Queue {
    /// Acknowledges messages in a commit: they are gone when it happens, and leased as before when it
    /// does not. Meanwhile nobody else gets them.
    ///
    /// # Errors
    /// [`Error::Storage`] from reading what is stored, after a restart.
    pub fn acknowledge_in(
        &self,
        receipts: &[Receipt],
        commit: &mut Commit,
    ) -> Result<Settled, Error> {
        let (held, settled) = self.hold(receipts, Index::settle)?;
        let held = held.iter().map(|receipt| receipt.offset).collect();
        self.finish_in(held, commit);
        Ok(settled)
    }

    /// Acknowledges messages, and waits until that is stored.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`]
    pub async fn acknowledge(&self, receipts: &[Receipt]) -> Result<Settled, Error> {
        let mut commit = Commit::new();
        self.catch_up().await?;
        let settled = self.acknowledge_in(receipts, &mut commit)?;
        if !commit.is_empty() {
            self.commit(commit).await?;
        }
        Ok(settled)
    }

    /// Releases messages in a commit: they can be delivered again when it happens, `delay_ms` from now.
    /// The receipt of a message that was released with a delay is stale for this until that is over.
    ///
    /// # Errors
    /// As [`acknowledge_in`](Self::acknowledge_in).
    pub fn release_in(
        &self,
        receipts: &[Receipt],
        delay_ms: u64,
        commit: &mut Commit,
    ) -> Result<Settled, Error> {
        let (held, settled) = self.hold(receipts, Index::settle_held)?;
        if held.is_empty() {
            return Ok(settled);
        }
        let until_ms = self.now_ms().saturating_add(delay_ms);
        let mut changes = Changes::default();
        for receipt in &held {
            changes.deliver(*receipt, until_ms);
        }
        changes.add_to(self, commit);
        commit.require_partition(self.partition());
        let (state, clock) = (Arc::clone(&self.state), self.store.clock().clone());
        commit.on_outcome(move |happened| {
            let mut index = state.index.lock();
            let now_ms = clock.now_ms();
            for receipt in held {
                if happened {
                    index.put_back(receipt.offset, until_ms, now_ms);
                } else {
                    index.undo_settle(receipt.offset, now_ms);
                }
            }
            drop(index);
            state.changed.notify_waiters();
        });
        Ok(settled)
    }

    /// Releases messages: they can be delivered again `delay_ms` from now. A delay is stored before this
    /// returns; without one there is nothing to store.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`]
    pub async fn release(&self, receipts: &[Receipt], delay_ms: u64) -> Result<Settled, Error> {
        self.catch_up().await?;
        if delay_ms > 0 {
            let mut commit = Commit::new();
            let settled = self.release_in(receipts, delay_ms, &mut commit)?;
            if !commit.is_empty() {
                self.commit(commit).await?;
            }
            return Ok(settled);
        }
        self.release_unchanged(receipts)
    }

    /// Releases messages that can be delivered again at once, for which nothing is stored.
    ///
    /// # Errors
    /// As [`acknowledge_in`](Self::acknowledge_in).
    pub fn release_unchanged(&self, receipts: &[Receipt]) -> Result<Settled, Error> {
        let (held, settled) = self.hold(receipts, Index::settle_held)?;
        let now_ms = self.now_ms();
        let mut index = self.state.index.lock();
        for receipt in held {
            index.put_back(receipt.offset, 0, now_ms);
        }
        drop(index);
        self.state.changed.notify_waiters();
        Ok(settled)
    }

    /// Gives messages back with which nothing has gone wrong: they can be delivered again at once, and the
    /// delivery does not count towards `max-deliveries`. Waits until that is stored; on an error they are
    /// leased as before. A receipt is stale for this from the end of its lease on: that delivery counts.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`]
    pub async fn give_back(&self, receipts: &[Receipt]) -> Result<Settled, Error> {
        self.state.index.lock().advance(self.now_ms());
        let (held, settled) = self.hold(receipts, Index::settle_leased)?;
        if !held.is_empty() {
            let mut commit = Commit::new();
            self.give_back_in(&held, &mut commit);
            self.commit(commit).await?;
        }
        Ok(settled)
    }

    /// Adds to a commit that the deliveries of messages, which are held for it, do not count.
    fn give_back_in(&self, held: &[Receipt], commit: &mut Commit) {
        let given_back: Vec<(u64, GivenBack)> = {
            let index = self.state.index.lock();
            let with = |receipt: &Receipt| {
                let before = index.given_back(receipt.offset);
                (receipt.offset, before.with(receipt.delivery_count))
            };
            held.iter().map(with).collect()
        };
        let mut changes = Changes::default();
        for (offset, given_back) in &given_back {
            changes.give_back(*offset, *given_back);
        }
        changes.add_to(self, commit);
        commit.require_partition(self.partition());
        let (state, clock) = (Arc::clone(&self.state), self.store.clock().clone());
        commit.on_outcome(move |happened| {
            let mut index = state.index.lock();
            let now_ms = clock.now_ms();
            for (offset, given_back) in given_back {
                if happened {
                    index.give_back(offset, given_back, now_ms);
                } else {
                    index.undo_settle(offset, now_ms);
                }
            }
            drop(index);
            state.changed.notify_waiters();
        });
    }

    /// Lets leases end `visibility_timeout_ms` from now instead of when they would. A lease that has
    /// ended is taken up again, if the message was not delivered to another meanwhile. Leases live in
    /// memory: after a restart all messages that were leased are ready.
    ///
    /// # Errors
    /// [`Error::Storage`] from reading what is stored, after a restart.
    pub fn extend(
        &self,
        receipts: &[Receipt],
        visibility_timeout_ms: u64,
    ) -> Result<Settled, Error> {
        self.ingest()?;
        let now_ms = self.now_ms();
        let mut index = self.state.index.lock();
        let stale = index.extend(receipts, now_ms.saturating_add(visibility_timeout_ms));
        drop(index);
        self.state.changed.notify_waiters();
        Ok(Settled {
            settled_count: (receipts.len() - stale.len()) as u64,
            stale,
        })
    }

    /// Keeps messages from being delivered until it is known how settling them went.
    fn hold(
        &self,
        receipts: &[Receipt],
        settle: impl Fn(&mut Index, Receipt) -> bool,
    ) -> Result<(Vec<Receipt>, Settled), Error> {
        let last = receipts.iter().map(|receipt| receipt.offset).max();
        if last.is_some_and(|last| last >= self.state.index.lock().indexed_to()) {
            // From before a restart.
            self.ingest()?;
        }
        let mut index = self.state.index.lock();
        let (held, stale): (Vec<_>, Vec<_>) = receipts
            .iter()
            .partition(|receipt| settle(&mut index, **receipt));
        let settled = Settled {
            settled_count: held.len() as u64,
            stale,
        };
        Ok((held, settled))
    }

    /// Adds to a commit that messages, which are held for it, are done with; and that a prefix of those
    /// that are is removed from the store, if it is time.
    pub(super) fn finish_in(&self, held: Vec<u64>, commit: &mut Commit) {
        if held.is_empty() {
            return;
        }
        let mut changes = Changes::default();
        for offset in &held {
            changes.acknowledge(*offset);
        }
        changes.add_to(self, commit);
        commit.require_partition(self.partition());
        if let Some(guard) = self.try_trimming() {
            let trim = self.state.index.lock().worth_trimming();
            if let Some(trim) = trim {
                self.trim_in(trim, guard, commit);
            }
        }
        let (state, clock) = (Arc::clone(&self.state), self.store.clock().clone());
        commit.on_outcome(move |happened| {
            let mut index = state.index.lock();
            let mut has_ready = !happened;
            let now_ms = clock.now_ms();
            for offset in held {
                if happened {
                    has_ready |= index.finish(offset);
                } else {
                    index.undo_settle(offset, now_ms);
                }
            }
            drop(index);
            if has_ready {
                state.changed.notify_waiters();
            }
        });
    }
}
