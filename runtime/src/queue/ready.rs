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
        let mut index = self.state.index.lock();
        index.advance(self.now_ms());
        Ok(index.has_ready())
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
        let (indexed_to, next_ms) = {
            let index = self.state.index.lock();
            if index.has_ready() {
                return;
            }
            (index.indexed_to(), index.next_event_ms())
        };
        let until_next = next_ms.map_or(LONG_PAUSE, |next_ms| {
            Duration::from_millis(next_ms.saturating_sub(self.now_ms()).max(1))
        });
        tokio::select! {
            () = self.partition().wait_beyond(indexed_to) => {}
            () = changed => {}
            () = tokio::time::sleep(until_next) => {}
        }
    }
}
