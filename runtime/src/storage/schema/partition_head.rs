//! Key kind `PartitionHead`: `(topic id, partition)` → where a partition starts and ends.
//!
//! Written with every append to the partition, in the same atomic write, so that opening a data
//! directory needs no scan.

use super::{KeyKind, read_u32, read_u64};

/// Length of a partition head's key in bytes.
pub const KEY_LEN_BYTES: usize = 9;
/// Length of a partition head's value in bytes.
pub const VALUE_LEN_BYTES: usize = 48;

/// What is kept of a partition besides its batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionHead {
    /// The first offset that can still be read.
    pub start_offset: u64,
    /// The offset that the next record gets.
    pub next_offset: u64,
    /// Bytes of all stored batches.
    pub size_bytes: u64,
    /// Compacted topics: offsets below hold the newest value of each key only.
    pub cleaned_offset: u64,
    /// Compacted topics: bytes of the batches below `cleaned_offset`.
    pub cleaned_bytes: u64,
    /// Compacted topics: when the first of the tombstones below `cleaned_offset` may go, in ms since
    /// the epoch; 0 if there are none.
    pub tombstones_due_ms: u64,
}

/// The key of a partition's head.
pub fn key(topic_id: u32, partition: u32) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::PartitionHead as u8;
    key[1..5].copy_from_slice(&topic_id.to_be_bytes());
    key[5..9].copy_from_slice(&partition.to_be_bytes());
    key
}

/// The fields of a partition head's key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(u32, u32)> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::PartitionHead as u8 {
        return None;
    }
    Some((read_u32(key, 1)?, read_u32(key, 5)?))
}

/// The value: the fields as big-endian `u64`, in the order of the struct.
pub fn value(head: &PartitionHead) -> [u8; VALUE_LEN_BYTES] {
    let fields = [
        head.start_offset,
        head.next_offset,
        head.size_bytes,
        head.cleaned_offset,
        head.cleaned_bytes,
        head.tombstones_due_ms,
    ];
    let mut value = [0; VALUE_LEN_BYTES];
    for (slot, field) in value.chunks_exact_mut(8).zip(fields) {
        slot.copy_from_slice(&field.to_be_bytes());
    }
    value
}

/// Reads a value; `None` if it has another length.
pub fn parse_value(value: &[u8]) -> Option<PartitionHead> {
    if value.len() != VALUE_LEN_BYTES {
        return None;
    }
    Some(PartitionHead {
        start_offset: read_u64(value, 0)?,
        next_offset: read_u64(value, 8)?,
        size_bytes: read_u64(value, 16)?,
        cleaned_offset: read_u64(value, 24)?,
        cleaned_bytes: read_u64(value, 32)?,
        tombstones_due_ms: read_u64(value, 40)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(topic_id: u32, partition: u32, fields in any::<[u64; 6]>()) {
            prop_assert_eq!(parse_key(&key(topic_id, partition)), Some((topic_id, partition)));
            let [start_offset, next_offset, size_bytes, cleaned_offset, cleaned_bytes, tombstones_due_ms] = fields;
            let head = PartitionHead { start_offset, next_offset, size_bytes, cleaned_offset, cleaned_bytes, tombstones_due_ms };
            prop_assert_eq!(parse_value(&value(&head)), Some(head));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let _ = (parse_key(&bytes), parse_value(&bytes));
        }
    }
}
