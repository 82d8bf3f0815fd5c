//! Key kind `QueueChunk`: `(queue id, chunk)` → what has happened to 1,024 messages of a queue.
//!
//! The value is two sets of positions ([`Positions`]), acknowledged and delivered once, a big-endian
//! `u16` with the number of exceptions, and those: position (`u16`), delivery count (`u32`), not
//! before (`u64`, ms since the epoch), ascending by position. If deliveries were given back the number
//! of their messages follows (`u16`), and those: position (`u16`), the last such delivery (`u32`), how many
//! there were (`u32`), ascending, too.
//!
//! Changes are RocksDB merges of values that hold the change only: sets unite, the greater
//! `(delivery count, not before)` of a position wins, and so does the greater `(last, how many)` of what was
//! given back; nothing but the acknowledgement is kept of an acknowledged message. So changes may reach the
//! store in any order, and cost what they change and not what the chunk holds.
//!
//! That a delivery does not count is therefore a second count that only grows: the first one could not
//! fall, and names the delivery in receipts.

use std::collections::BTreeMap;

use super::positions::{CHUNK_MESSAGES, Positions};
use super::{KeyKind, read_u32, read_u64};

/// Length of a key in bytes.
pub const KEY_LEN_BYTES: usize = 13;

/// Bytes of one exception.
const EXCEPTION_LEN_BYTES: usize = 14;
/// Bytes that say which deliveries of a message were given back.
const GIVEN_BACK_LEN_BYTES: usize = 10;

/// What a message that was delivered more than once, or is to wait, has besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exception {
    /// Deliveries so far.
    pub delivery_count: u32,
    /// The message is not to be delivered before, in ms since the epoch; 0 = at once.
    pub not_before_ms: u64,
}

/// Deliveries of a message that do not count, since it was given back in good order. Both numbers only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GivenBack {
    /// The last of them; the first delivery is 1.
    pub last_delivery: u32,
    /// How many there were.
    pub count: u32,
}

impl GivenBack {
    /// The same with another delivery, which is one however often it is given back.
    pub fn with(self, delivery: u32) -> Self {
        if delivery <= self.last_delivery {
            return self;
        }
        Self {
            last_delivery: delivery,
            count: self.count.saturating_add(1),
        }
    }
}

/// What is known of the deliveries of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Deliveries so far.
    pub delivery_count: u32,
    /// Those of them that do not count.
    pub given_back: GivenBack,
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
    /// By position: which deliveries were given back, if any.
    pub given_back: BTreeMap<u16, GivenBack>,
}

impl Chunk {
    /// Deliveries of a message so far, and when it may be delivered again.
    pub fn deliveries(&self, position: usize) -> Deliveries {
        let once = u32::from(self.delivered.contains(position));
        let Ok(position) = u16::try_from(position) else {
            return Deliveries::default();
        };
        let exception = self.exceptions.get(&position).copied().unwrap_or_default();
        Deliveries {
            delivery_count: exception.delivery_count.max(once),
            given_back: self.given_back.get(&position).copied().unwrap_or_default(),
            not_before_ms: exception.not_before_ms,
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
        for (position, given_back) in &change.given_back {
            let known = self.given_back.entry(*position).or_default();
            *known = (*known).max(*given_back);
        }
        let acknowledged = self.acknowledged;
        self.delivered.subtract(&acknowledged);
        self.exceptions
            .retain(|position, _| !acknowledged.contains(usize::from(*position)));
        self.given_back
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
    // Chunks from before there was such a count end here, and most others do.
    if !chunk.given_back.is_empty() {
        value.extend_from_slice(&(chunk.given_back.len() as u16).to_be_bytes());
        for (position, given_back) in &chunk.given_back {
            value.extend_from_slice(&position.to_be_bytes());
            value.extend_from_slice(&given_back.last_delivery.to_be_bytes());
            value.extend_from_slice(&given_back.count.to_be_bytes());
        }
    }
    value
}

/// Reads a value; `None` if it is malformed.
pub fn parse_value(mut value: &[u8]) -> Option<Chunk> {
    let acknowledged = Positions::decode(&mut value)?;
    let delivered = Positions::decode(&mut value)?;
    let exceptions = decode_entries(&mut value, EXCEPTION_LEN_BYTES, |entry| {
        Some(Exception {
            delivery_count: read_u32(entry, 2)?,
            not_before_ms: read_u64(entry, 6)?,
        })
    })?;
    let given_back = match value.is_empty() {
        true => BTreeMap::new(),
        false => decode_entries(&mut value, GIVEN_BACK_LEN_BYTES, |entry| {
            Some(GivenBack {
                last_delivery: read_u32(entry, 2)?,
                count: read_u32(entry, 6)?,
            })
        })?,
    };
    value.is_empty().then_some(Chunk {
        acknowledged,
        delivered,
        exceptions,
        given_back,
    })
}

/// Takes a number and as many entries off the front of `bytes`, each of which begins with its position;
/// `None` if they are malformed.
fn decode_entries<T>(
    bytes: &mut &[u8],
    entry_len_bytes: usize,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Option<BTreeMap<u16, T>> {
    let (count, rest) = bytes.split_at_checked(2)?;
    let count = usize::from(u16::from_be_bytes(count.try_into().ok()?));
    let (encoded, rest) = rest.split_at_checked(count * entry_len_bytes)?;
    *bytes = rest;
    let mut entries = BTreeMap::new();
    for entry in encoded.chunks_exact(entry_len_bytes) {
        let position = u16::from_be_bytes(entry.get(..2)?.try_into().ok()?);
        if u64::from(position) >= CHUNK_MESSAGES {
            return None;
        }
        entries.insert(position, decode(entry)?);
    }
    Some(entries)
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

    fn given_back() -> impl Strategy<Value = GivenBack> {
        (0..5_u32, 0..5_u32).prop_map(|(last_delivery, count)| GivenBack {
            last_delivery,
            count,
        })
    }

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
        let given_back = proptest::collection::btree_map(0..40_u16, given_back(), 0..10);
        let parts = (positions(), positions(), exceptions, given_back);
        parts.prop_map(|(acknowledged, delivered, exceptions, given_back)| Chunk {
            acknowledged,
            delivered,
            exceptions,
            given_back,
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
                let after = after.deliveries(position);
                for known in [before.deliveries(position), change.deliveries(position)] {
                    let times = |of: Deliveries| (of.delivery_count, of.not_before_ms);
                    prop_assert!(times(after) >= times(known));
                    prop_assert!(after.given_back >= known.given_back);
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse_key(&bytes), parse_value(&bytes));
        }
    }

    #[test]
    fn a_chunk_from_before_deliveries_were_given_back_is_read() {
        // Nothing acknowledged, 3 to 4 delivered, 4 for the second time.
        let value = [
            0, 1, 0, 3, 0, 4, 0, 1, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let mut older = parse_value(&value).unwrap();
        assert_eq!(super::value(&older), value);
        let of = |chunk: &Chunk, position| {
            let deliveries = chunk.deliveries(position);
            (deliveries.delivery_count, deliveries.given_back.count)
        };
        assert_eq!((of(&older, 3), of(&older, 4)), ((1, 0), (2, 0)));
        let mut change = Chunk::default();
        change
            .given_back
            .insert(4, GivenBack::default().with(2).with(2));
        older.merge(&change);
        let stored = super::value(&older);
        assert_eq!(
            stored,
            [&value[..], &[0, 1, 0, 4, 0, 0, 0, 2, 0, 0, 0, 1]].concat()
        );
        assert_eq!(of(&parse_value(&stored).unwrap(), 4), (2, 1));
        assert_eq!(parse_value(&stored[..stored.len() - 1]), None);
        assert_eq!(parse_value(&[&stored[..], &[0]].concat()), None);
    }

    #[test]
    fn a_full_chunk_is_a_marker() {
        let mut chunk = Chunk::default();
        chunk.delivered.insert_range(0, 1024);
        chunk.given_back.insert(9, GivenBack::default().with(1));
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
