//! A delivery of a message, and the receipt for it.

use std::fmt;
use std::str::FromStr;

use crate::model::{self, RecordPosition, RecordRef, Records};

/// What a delivery is referred to by. Good until the message is delivered again, even after its lease
/// has ended and after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    /// The message.
    pub offset: u64,
    /// Its delivery: the first is 1.
    pub delivery_count: u32,
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.offset, self.delivery_count)
    }
}

impl FromStr for Receipt {
    type Err = String;

    /// `OFFSET-DELIVERY`, such as `1042-1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (offset, delivery_count) = text.split_once('-')?;
            Some(Self {
                offset: offset.parse().ok()?,
                delivery_count: delivery_count.parse().ok()?,
            })
        };
        parse().ok_or_else(|| {
            format!("`{text}` is no receipt; expected OFFSET-DELIVERY, such as `1042-1`")
        })
    }
}

/// A message that is leased. Its bytes are shared with the batch it was stored in.
#[derive(Clone, Debug)]
pub struct LeasedMessage {
    receipt: Receipt,
    deadline_ms: u64,
    stored: Stored,
}

impl LeasedMessage {
    pub(super) fn new(receipt: Receipt, deadline_ms: u64, stored: Stored) -> Self {
        Self {
            receipt,
            deadline_ms,
            stored,
        }
    }

    /// What to acknowledge, release or extend it with.
    pub fn receipt(&self) -> Receipt {
        self.receipt
    }

    /// Its offset in the queue.
    pub fn offset(&self) -> u64 {
        self.receipt.offset
    }

    /// The delivery that this is: the first is 1.
    pub fn delivery_count(&self) -> u32 {
        self.receipt.delivery_count
    }

    /// When the lease ends, in ms since the epoch, unless it is extended.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// The record, read in place each time.
    ///
    /// # Errors
    /// Those of a malformed batch; it was read once before it was leased, so there are none.
    pub fn record(&self) -> Result<RecordRef<'_>, model::batch::Error> {
        self.stored.record()
    }
}

/// A message where it lies in its batch.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) records: Records,
    pub(super) position: RecordPosition,
    /// Size of key, value and encoded headers.
    pub(super) size_bytes: usize,
}

impl Stored {
    pub(super) fn record(&self) -> Result<RecordRef<'_>, model::batch::Error> {
        self.records
            .resume(self.position)
            .next()
            .unwrap_or(Err(model::batch::Error::Record {
                index: 0,
                reason: "the message is not in its batch",
            }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_reads_what_it_prints() {
        let receipt = Receipt {
            offset: 1042,
            delivery_count: 3,
        };
        assert_eq!(receipt.to_string(), "1042-3");
        assert_eq!("1042-3".parse(), Ok(receipt));
        for bad in ["", "1", "1-", "-1", "a-1", "1-2-3"] {
            assert!(bad.parse::<Receipt>().is_err(), "{bad}");
        }
    }
}
