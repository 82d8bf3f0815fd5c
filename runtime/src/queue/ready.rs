//! Whether there is something to lease, for those who ask before they lease.

use std::time::Duration;

use super::Error;
use super::shared::Queue;

/// How long a wait lasts at most for a queue in which nothing is to happen.
const LONG_PAUSE: Duration = Duration::from_secs(3600);

impl Queue {
    /// Whether a message waits for nothing but to be leased. One that was delivered as often as it may be,
    /// or has expired, counts, too: a lease gives up on it.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`]
    pub fn has_ready(&self) -> Result<bool, Error> {
        if self.partition().is_deleted() {
            return Err(Error::Deleted {
                name: self.name().clone(),
            });
        }
        self.ingest()?;
        let now_ms = self.now_ms();
        let mut index = self.state.index.lock();
        index.advance(now_ms);
        Ok(index.has_ready() || index.has_expired(now_ms))
    }

    /// The offset of the oldest message that can be leased now; `None` if there is none.
    ///
    /// # Errors
    /// As [`has_ready`](Self::has_ready).
    pub fn first_ready_offset(&self) -> Result<Option<u64>, Error> {
        self.has_ready()?;
        Ok(self.state.index.lock().first_ready())
    }

    /// The time that the record of the oldest message is dated that can be leased now, in ms since the epoch; `None`
    /// if there is none. Reads at most one batch.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]
    pub fn oldest_ready_ms(&self) -> Result<Option<u64>, Error> {
        if !self.has_ready()? {
            return Ok(None);
        }
        let Some(offset) = self.state.index.lock().first_ready() else {
            return Ok(None);
        };
        let stored = match self.read([offset].into_iter()) {
            Ok(stored) => stored,
            // Done with since it was found.
            Err(error) if error.is_overtaken() => return Ok(None),
            Err(error) => return Err(error),
        };
        let first = stored.first().map(|message| message.record());
        Ok(first.transpose()?.map(|record| record.timestamp_ms))
    }

    /// Messages that nobody has acknowledged yet: ready, delayed or leased.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn waiting_count(&self) -> Result<u64, Error> {
        self.ingest()?;
        Ok(self.state.index.lock().counts().live)
    }

    /// Waits until a message is ready, or may be.
    pub async fn wait_until_ready(&self) {
        let changed = self.state.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let now_ms = self.now_ms();
        let (indexed_to, next_ms) = {
            let mut index = self.state.index.lock();
            index.advance(now_ms);
            if index.has_ready() || index.has_expired(now_ms) {
                return;
            }
            (index.indexed_to(), index.next_event_ms())
        };
        let until_next = next_ms.map_or(LONG_PAUSE, |next_ms| {
            Duration::from_millis(next_ms.saturating_sub(now_ms).max(1))
        });
        tokio::select! {
            () = self.partition().wait_beyond(indexed_to) => {}
            () = changed => {}
            () = tokio::time::sleep(until_next) => {}
        }
    }
}
