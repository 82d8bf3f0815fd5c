//! Goes through the dead letters of a queue.

use std::collections::BTreeSet;

use super::letter::{DeadLetter, Filter};
use super::shared::Queue;
use super::{Error, PeekedMessage};

/// Messages that are read at a time.
const PAGE_MESSAGES: usize = 500;

/// The messages of a queue that a filter selects, a page at a time, in the order of their offsets.
/// Nothing changes.
pub struct Letters {
    queue: Queue,
    filter: Filter,
    next_offset: u64,
}

impl Letters {
    /// The next page; `None` behind the last message that the queue holds. A page can be empty.
    ///
    /// # Errors
    /// Those of [`Queue::peek`].
    pub async fn next_page(&mut self) -> Result<Option<Vec<PeekedMessage>>, Error> {
        let mut page = self.queue.peek(self.next_offset, PAGE_MESSAGES).await?;
        let Some(last) = page.last() else {
            return Ok(None);
        };
        self.next_offset = last.offset + 1;
        let mut kept = Vec::with_capacity(page.len());
        for message in page.drain(..) {
            if self
                .filter
                .matches(&DeadLetter::read(message.record()?.headers))
            {
                kept.push(message);
            }
        }
        Ok(Some(kept))
    }

    /// The digests of the components that have failed on them, no more than so many.
    ///
    /// # Errors
    /// Those of [`Queue::peek`].
    pub async fn plugin_digests(&mut self, max: usize) -> Result<BTreeSet<String>, Error> {
        let mut digests = BTreeSet::new();
        while let Some(page) = self.next_page().await? {
            for message in page {
                let letter = DeadLetter::read(message.record()?.headers);
                let Some(digest) = letter.plugin_digest() else {
                    continue;
                };
                if digests.len() == max {
                    return Ok(digests);
                }
                if !digests.contains(digest) {
                    digests.insert(digest.to_owned());
                }
            }
        }
        Ok(digests)
    }
}

impl Queue {
    /// Goes through the dead letters that a filter selects.
    pub fn letters(&self, filter: Filter) -> Letters {
        self.letters_from(filter, 0)
    }

    /// As [`letters`](Self::letters), from an offset on.
    pub fn letters_from(&self, filter: Filter, next_offset: u64) -> Letters {
        Letters {
            queue: self.clone(),
            filter,
            next_offset,
        }
    }
}
