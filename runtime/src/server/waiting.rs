//! Requests that wait until there is something to answer: for how long, and how many at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Code, Problem};

/// The longest that a request may ask to wait; the OpenAPI document says it where it describes `wait_ms`.
const MAX_WAIT_MS: u64 = 60_000;

/// How long a request asks to wait.
///
/// # Errors
/// [`Code::InvalidRequest`]: longer than any may.
pub(super) fn wait_of(wait_ms: u64) -> Result<Duration, Problem> {
    match wait_ms {
        0..=MAX_WAIT_MS => Ok(Duration::from_millis(wait_ms)),
        _ => Err(Problem::invalid(format!(
            "wait_ms is {wait_ms}; expected at most {MAX_WAIT_MS}"
        ))),
    }
}

/// Requests that wait, up to a limit.
pub(super) struct Waiting {
    limit: usize,
    places: Arc<Semaphore>,
}

impl Waiting {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit)),
        }
    }

    /// How many wait now.
    pub(super) fn count(&self) -> usize {
        self.limit - self.places.available_permits()
    }

    /// A place for a request that has nothing to answer yet, until what is returned is dropped.
    ///
    /// # Errors
    /// [`Code::Busy`]: as many wait already as may.
    pub(super) fn may_wait(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.take("ask again later, or without `wait_ms`")
    }

    /// As [`may_wait`](Self::may_wait), for a stream, which waits for as long as there is one.
    ///
    /// # Errors
    /// [`Code::Busy`]: as many wait already as may.
    pub(super) fn may_follow(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.take("open the stream again later, or fetch records without `wait_ms`")
    }

    fn take(&self, way_out: &str) -> Result<OwnedSemaphorePermit, Problem> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| {
            let limit = self.limit;
            Problem::new(
                Code::Busy,
                format!("{limit} consumers wait already, which is the limit; {way_out}"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_may_and_each_is_told_what_it_can_do() {
        let waiting = Waiting::new(1);
        let place = waiting.may_follow().unwrap();
        assert_eq!(waiting.count(), 1);
        let poll = waiting.may_wait().unwrap_err();
        let stream = waiting.may_follow().unwrap_err();
        assert_eq!((poll.code, stream.code), (Code::Busy, Code::Busy));
        assert!(poll.detail.contains("again later, or without `wait_ms`"));
        assert!(stream.detail.contains("open the stream again"));
        drop(place);
        assert_eq!(waiting.count(), 0);
        drop(waiting.may_wait().unwrap());
    }

    #[test]
    fn a_wait_has_a_bound() {
        assert_eq!(wait_of(60_000).ok(), Some(Duration::from_secs(60)));
        let refused = wait_of(60_001).unwrap_err();
        assert_eq!(refused.code, Code::InvalidRequest);
        assert_eq!(refused.detail, "wait_ms is 60001; expected at most 60000");
    }
}
