//! Room in a queue with a `max-length`: what leaves it when it is full.

use super::dead_letter::Reason;
use super::shared::Queue;
use super::{Error, MaxLengthPolicy, QueueConfig};
use crate::storage::Commit;

/// Messages that leave to make room, which are taken.
struct Excess {
    expired: Vec<u64>,
    oldest: Vec<u64>,
}

impl Queue {
    /// Announces messages that a commit appends, if there is room for them. What has expired makes room, and the oldest
    /// messages do if that is the queue's policy: they leave in the same commit.
    ///
    /// # Errors
    /// [`Error::Full`]. [`Error::RoomFirst`], [`Error::Storage`], [`Error::Batch`]: drop the commit then.
    pub(super) fn reserve_room(&self, added: u64, commit: &mut Commit) -> Result<(), Error> {
        let config = self.config();
        let Some(limit) = config.max_length else {
            self.announce_in(added, commit);
            return Ok(());
        };
        let leaving =
            self.take_excess(added, limit, &config, || self.announce_in(added, commit))?;
        match self.retire_excess(leaving, commit)? {
            0 => Ok(()),
            _ => Err(Error::RoomFirst {
                name: self.name().clone(),
                added,
            }),
        }
    }

    /// Lets as much leave a full queue as makes room for messages, in commits of its own. Others may fill it again
    /// before they are added.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]
    pub async fn make_room(&self, added: u64) -> Result<(), Error> {
        loop {
            let config = self.config();
            let Some(limit) = config.max_length else {
                return Ok(());
            };
            let mut commit = Commit::new();
            let leaving = self.take_excess(added, limit, &config, || {})?;
            let put_back = self.retire_excess(leaving, &mut commit)?;
            if !commit.is_empty() {
                self.commit(commit).await?;
            }
            if put_back == 0 {
                return Ok(());
            }
        }
    }

    /// Takes the messages that are too many, if there are so many that can leave, and announces what is added before
    /// anybody else looks how full the queue is.
    fn take_excess(
        &self,
        added: u64,
        limit: u64,
        config: &QueueConfig,
        announce: impl FnOnce(),
    ) -> Result<Excess, Error> {
        self.ingest()?;
        let now_ms = self.now_ms();
        let mut index = self.state.index.lock();
        // What has come back from a lease may have expired.
        index.advance(now_ms);
        let counts = index.counts();
        let on_the_way = self.announced_end().saturating_sub(index.indexed_to());
        let held = counts.live - counts.leaving + on_the_way;
        let excess = (held + added).saturating_sub(limit);
        let expired = index.take_expired(excess, now_ms);
        let still_excess = excess - expired.len() as u64;
        let mut oldest = Vec::new();
        if config.max_length_policy == MaxLengthPolicy::DropOldest {
            oldest = index.take_oldest(still_excess);
        }
        if (oldest.len() as u64) < still_excess {
            let held = held - expired.len() as u64;
            for offset in expired.into_iter().chain(oldest) {
                index.undo_settle(offset, now_ms);
            }
            return Err(Error::Full {
                name: self.name().clone(),
                held,
                added,
                limit,
            });
        }
        announce();
        Ok(Excess { expired, oldest })
    }

    /// Adds to a commit that messages leave; returns how many were put back, since they are too many bytes for it.
    fn retire_excess(&self, leaving: Excess, commit: &mut Commit) -> Result<usize, Error> {
        let Excess { expired, oldest } = leaving;
        match self.retire_in(expired, Reason::Expired, commit) {
            Ok(0) => self.retire_in(oldest, Reason::MaxLength, commit),
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
