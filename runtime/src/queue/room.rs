//! Room in a queue with a `max-length`: what leaves it when it is full.

use super::dead_letter::{MAX_COMMIT_BYTES, Reason};
use super::index::Index;
use super::shared::Queue;
use super::{Error, MaxLengthPolicy};
use crate::storage::Commit;

/// Messages that leave in one commit of those that only make room.
const MAX_LEAVING: usize = 10_000;

/// Messages that leave to make room.
#[derive(Default)]
struct Excess {
    expired: Vec<u64>,
    oldest: Vec<u64>,
}

impl Queue {
    /// Announces messages of so many bytes that a commit appends, if there is room for them. What has expired makes room,
    /// and the oldest messages do if that is the queue's policy: they leave in the same commit.
    ///
    /// # Errors
    /// [`Error::Full`]. [`Error::RoomFirst`], [`Error::Storage`], [`Error::Batch`]: drop the commit then.
    pub(super) fn reserve_room(
        &self,
        added: u64,
        bytes: usize,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        if self.config().max_length.is_none() {
            self.announce_in(added, commit);
            return Ok(());
        }
        self.ingest()?;
        let leaving = {
            let mut index = self.state.index.lock();
            let leaving = self.take_excess(added, u64::MAX, &mut index)?;
            // Before anybody else looks how full it is.
            index.leave(&leaving.expired);
            index.leave(&leaving.oldest);
            self.announce(added);
            leaving
        };
        let put_back = self.retire_excess(leaving, bytes, commit);
        // Last, so that the queue seems too long, and never too short, while a commit is undone.
        self.withdraw_in(added, commit);
        match put_back? {
            0 => Ok(()),
            _ => Err(Error::RoomFirst {
                name: self.name().clone(),
                added,
            }),
        }
    }

    /// Lets as much leave a full queue as makes room for messages, in commits of its own. Others may fill it before they
    /// are added. If this future is dropped, what has left has left.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]
    pub async fn make_room(&self, added: u64) -> Result<(), Error> {
        let mut most = u64::MAX;
        loop {
            self.ingest()?;
            let candidates = self.choose_excess(added, most)?;
            // At first it was seen that enough can leave.
            most = MAX_LEAVING as u64;
            if candidates.is_empty() {
                return Ok(());
            }
            let mut commit = Commit::new();
            match self.retire_some(candidates, &mut commit) {
                Ok(()) if commit.is_empty() => {}
                Ok(()) => _ = self.commit(commit).await?,
                // A purge has made some.
                Err(error) if error.is_overtaken() => drop(commit),
                Err(error) => return Err(error),
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes the messages that are too many once others are added, but at most so many, if so many can leave.
    fn take_excess(&self, added: u64, most: u64, index: &mut Index) -> Result<Excess, Error> {
        let config = self.config();
        let Some(limit) = config.max_length else {
            return Ok(Excess::default());
        };
        let now_ms = self.now_ms();
        // What has come back from a lease may have expired.
        index.advance(now_ms);
        let counts = index.counts();
        let on_the_way = self.announced_end().saturating_sub(index.indexed_to());
        let held = counts.live - counts.leaving + on_the_way;
        let excess = (held + added).saturating_sub(limit).min(most);
        let expired = index.take_expired(excess, now_ms);
        let still_excess = excess - expired.len() as u64;
        let mut oldest = Vec::new();
        if config.max_length_policy == MaxLengthPolicy::DropOldest {
            oldest = index.take_oldest(still_excess);
        }
        let taken = Excess { expired, oldest };
        if (taken.oldest.len() as u64) < still_excess {
            let held = held - taken.expired.len() as u64;
            taken.put_back(index, now_ms);
            return Err(Error::Full {
                name: self.name().clone(),
                held,
                added,
                limit,
            });
        }
        Ok(taken)
    }

    /// As [`take_excess`](Self::take_excess), but takes none: until it is known which of them go with one commit nobody
    /// may count on the room of the others.
    fn choose_excess(&self, added: u64, most: u64) -> Result<Excess, Error> {
        let mut index = self.state.index.lock();
        let mut chosen = self.take_excess(added, most, &mut index)?;
        chosen.put_back(&mut index, self.now_ms());
        chosen.truncate(MAX_LEAVING);
        Ok(chosen)
    }

    /// Takes those of some messages that go with one commit, and adds to it that they leave.
    fn retire_some(&self, mut chosen: Excess, commit: &mut Commit) -> Result<(), Error> {
        if self.dead_letter().is_some() {
            let offsets = [&*chosen.expired, &*chosen.oldest].concat();
            chosen.truncate(self.read_up_to(&offsets, MAX_COMMIT_BYTES)?.len());
        }
        {
            let mut index = self.state.index.lock();
            // Somebody else may have got some of them meanwhile.
            chosen.expired.retain(|offset| index.take_one(*offset));
            chosen.oldest.retain(|offset| index.take_one(*offset));
        }
        self.retire_excess(chosen, 0, commit)?;
        Ok(())
    }

    /// Adds to a commit that messages leave, which are taken; returns how many were put back, since they are too many bytes
    /// for it.
    fn retire_excess(
        &self,
        leaving: Excess,
        bytes_to_come: usize,
        commit: &mut Commit,
    ) -> Result<usize, Error> {
        let Excess { expired, oldest } = leaving;
        match self.retire_in(expired, Reason::Expired, bytes_to_come, commit) {
            Ok(0) => self.retire_in(oldest, Reason::MaxLength, bytes_to_come, commit),
            Ok(put_back) => {
                self.undo(&oldest);
                Ok(put_back + oldest.len())
            }
            Err(error) => {
                self.undo(&oldest);
                Err(error)
            }
        }
    }
}

impl Excess {
    fn is_empty(&self) -> bool {
        self.expired.is_empty() && self.oldest.is_empty()
    }

    fn truncate(&mut self, count: usize) {
        self.expired.truncate(count);
        self.oldest.truncate(count - self.expired.len());
    }

    fn put_back(&self, index: &mut Index, now_ms: u64) {
        // The last first, so that each finds its place in its group at the front.
        for offset in self.oldest.iter().rev().chain(self.expired.iter().rev()) {
            index.undo_settle(*offset, now_ms);
        }
    }
}
