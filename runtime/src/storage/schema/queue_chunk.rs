//! Key kind `QueueChunk`: `(queue id, chunk)` → what has happened to 1,024 messages of a queue.
//!
//! The value is two sets of positions ([`Positions`]), acknowledged and delivered once, a big-endian
//! `u16` with the number of exceptions, and those: position (`u16`), delivery count (`u32`), not
//! before (`u64`, ms since the epoch), ascending by position.
//!
//! Changes are RocksDB merges of values that hold the change only: sets unite, the greater
//! `(delivery count, not before)` of a position wins, and nothing but the acknowledgement is kept of
//! an acknowledged message. So changes may reach the store in any order, and cost what they change
//! and not what the chunk holds.

use std::collections::BTreeMap;

use super::positions::{CHUNK_MESSAGES, Positions};
use super::{KeyKind, read_u32, read_u64};

/// Length of a key in bytes.
pub const KEY_LEN_BYTES: usize = 13;

/// Bytes of one exception.
const EXCEPTION_LEN_BYTES: usize = 14;

/// What a message that was delivered more than once, or is to wait, has besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exception {
    /// Deliveries so far.
    pub delivery_count: u32,
    /// The message is not to be delivered before, in ms since the epoch; 0 = at once.
    pub not_before_ms: u64,
}

/// A chunk, or a change of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Messages that are done with.
    pub acknowledged: Positions,
    /// Messages that were delivered, at least once.
    pub delivered: Positions,
    /// By position: counts above 1, and times to wait for.
    pub exceptions: BTreeMap<u16, Exception>,
}

impl Chunk {
    /// Deliveries of a message so far, and when it may be delivered again.
    pub fn deliveries(&self, position: usize) -> Exception {
        let once = u32::from(self.delivered.contains(position));
        let exception = u16::try_from(position)
            .ok()
            .and_then(|position| self.exceptions.get(&position))
            .copied()
            .unwrap_or_default();
        Exception {
            delivery_count: exception.delivery_count.max(once),
            ..exception
        }
    }

    /// Takes a change in.
    pub fn merge(&mut self, change: &Chunk) {
        self.acknowledged.union(&change.acknowledged);
        self.delivered.union(&change.delivered);
        for (position, exception) in &change.exceptions {
            let known = self.exceptions.entry(*position).or_default();
            *known = (*known).max(*exception);
        }
        let acknowledged = self.acknowledged;
        self.delivered.subtract(&acknowledged);
        self.exceptions
            .retain(|position, _| !acknowledged.contains(usize::from(*position)));
    }
}

/// The key of a chunk: messages with `chunk * 1024 <= offset < (chunk + 1) * 1024`.
pub fn key(queue_id: u32, chunk: u64) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::QueueChunk as u8;
    key[1..5].copy_from_slice(&queue_id.to_be_bytes());
    key[5..13].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// The fields of a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(u32, u64)> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::QueueChunk as u8 {
        return None;
    }
    Some((read_u32(key, 1)?, read_u64(key, 5)?))
}

/// The value.
pub fn value(chunk: &Chunk) -> Vec<u8> {
    let mut value = Vec::with_capacity(16 + chunk.exceptions.len() * EXCEPTION_LEN_BYTES);
    chunk.acknowledged.encode(&mut value);
    chunk.delivered.encode(&mut value);
    // At most one for each of the 1,024 positions.
    value.extend_from_slice(&(chunk.exceptions.len() as u16).to_be_bytes());
    for (position, exception) in &chunk.exceptions {
        value.extend_from_slice(&position.to_be_bytes());
        value.extend_from_slice(&exception.delivery_count.to_be_bytes());
        value.extend_from_slice(&exception.not_before_ms.to_be_bytes());
    }
    value
}

/// Reads a value; `None` if it is malformed.
pub fn parse_value(mut value: &[u8]) -> Option<Chunk> {
    let acknowledged = Positions::decode(&mut value)?;
    let delivered = Positions::decode(&mut value)?;
    let (count, mut rest) = value.split_at_checked(2)?;
    let count = usize::from(u16::from_be_bytes(count.try_into().ok()?));
    if rest.len() != count * EXCEPTION_LEN_BYTES {
        return None;
    }
    let mut exceptions = BTreeMap::new();
    while let Some((exception, after)) = rest.split_at_checked(EXCEPTION_LEN_BYTES) {
        let position = u16::from_be_bytes(exception.get(..2)?.try_into().ok()?);
        if u64::from(position) >= CHUNK_MESSAGES {
            return None;
        }
        let known = Exception {
            delivery_count: read_u32(exception, 2)?,
            not_before_ms: read_u64(exception, 6)?,
        };
        exceptions.insert(position, known);
        rest = after;
    }
    Some(Chunk {
        acknowledged,
        delivered,
        exceptions,
    })
}

/// Merges changes into a value, in any order; `None` if one of them is malformed.
pub fn merge_values<'a>(
    existing: Option<&[u8]>,
    changes: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let mut chunk = match existing {
        Some(value) => parse_value(value)?,
        None => Chunk::default(),
    };
    for change in changes {
        chunk.merge(&parse_value(change)?);
    }
    Some(value(&chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk() -> impl Strategy<Value = Chunk> {
        // Few positions, so that changes meet.
        let positions = || {
            proptest::collection::btree_set(0..40_usize, 0..20).prop_map(|of| {
                let mut set = Positions::default();
                for position in of {
                    set.insert(position);
                }
                set
            })
        };
        let exception =
            (0..5_u32, 0..5_u64).prop_map(|(delivery_count, not_before_ms)| Exception {
                delivery_count,
                not_before_ms,
            });
        let exceptions = proptest::collection::btree_map(0..40_u16, exception, 0..10);
        (positions(), positions(), exceptions).prop_map(|(acknowledged, delivered, exceptions)| {
            Chunk {
                acknowledged,
                delivered,
                exceptions,
            }
        })
    }

    proptest! {
        #[test]
        fn keys_round_trip_in_order(a in any::<(u32, u64)>(), b in any::<(u32, u64)>()) {
            let (ka, kb) = (key(a.0, a.1), key(b.0, b.1));
            prop_assert_eq!(parse_key(&ka), Some(a));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
        }

        #[test]
        fn values_round_trip(chunk in chunk()) {
            prop_assert_eq!(parse_value(&value(&chunk)), Some(chunk));
        }

        #[test]
        fn changes_commute(changes in proptest::collection::vec(chunk(), 1..6), seed: u64) {
            let values: Vec<_> = changes.iter().map(value).collect();
            let in_order = merge_values(None, values.iter().map(Vec::as_slice)).unwrap();
            let mut shuffled = values.clone();
            let at = (seed % values.len() as u64) as usize;
            shuffled.rotate_left(at);
            shuffled.reverse();
            let (first, rest) = shuffled.split_first().unwrap();
            // As RocksDB does it: some merged before the others, and again onto what there is.
            let partly = merge_values(None, rest.iter().map(Vec::as_slice)).unwrap();
            let merged = merge_values(Some(&partly), [first.as_slice()].into_iter()).unwrap();
            prop_assert_eq!(parse_value(&merged), parse_value(&in_order));
            let twice = merge_values(Some(&merged), values.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(parse_value(&twice), parse_value(&in_order));
        }

        #[test]
        fn counts_never_fall(before in chunk(), change in chunk(), position in 0..40_usize) {
            let mut after = before.clone();
            after.merge(&Chunk::default());
            after.merge(&change);
            if !after.acknowledged.contains(position) {
                prop_assert!(after.deliveries(position) >= before.deliveries(position));
                prop_assert!(after.deliveries(position) >= change.deliveries(position));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse_key(&bytes), parse_value(&bytes));
        }
    }

    #[test]
    fn a_full_chunk_is_a_marker() {
        let mut chunk = Chunk::default();
        chunk.delivered.insert_range(0, 1024);
        chunk.exceptions.insert(
            5,
            Exception {
                delivery_count: 3,
                not_before_ms: 0,
            },
        );
        let mut change = Chunk::default();
        change.acknowledged.insert_range(0, 1024);
        chunk.merge(&change);
        assert_eq!(value(&chunk), [255, 0, 0, 0]);
    }
}
