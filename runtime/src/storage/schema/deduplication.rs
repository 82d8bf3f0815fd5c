//! Key kind `Deduplication`: `(queue id, enqueued at ms, sequence)` → hashes of deduplication ids.
//!
//! One entry for each enqueue that carried ids; in order of time, so that what has left the window
//! goes as one range. The hash of an id is the first 16 bytes of its SHA-256.

use super::{KeyKind, read_u32, read_u64};

/// Length of a key in bytes.
pub const KEY_LEN_BYTES: usize = 21;
/// Length of a hash in bytes.
pub const HASH_LEN_BYTES: usize = 16;

/// The key of the ids that were enqueued together. The sequence tells apart what was enqueued
/// within one ms.
pub fn key(queue_id: u32, enqueued_at_ms: u64, sequence: u64) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::Deduplication as u8;
    key[1..5].copy_from_slice(&queue_id.to_be_bytes());
    key[5..13].copy_from_slice(&enqueued_at_ms.to_be_bytes());
    key[13..21].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The fields of a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(u32, u64, u64)> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::Deduplication as u8 {
        return None;
    }
    Some((read_u32(key, 1)?, read_u64(key, 5)?, read_u64(key, 13)?))
}

/// The value: the hashes, one after the other.
pub fn value(hashes: &[u128]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.to_be_bytes()).collect()
}

/// Reads a value; `None` if its length is not a multiple of a hash's.
pub fn parse_value(value: &[u8]) -> Option<Vec<u128>> {
    if !value.len().is_multiple_of(HASH_LEN_BYTES) {
        return None;
    }
    value
        .chunks_exact(HASH_LEN_BYTES)
        .map(|hash| Some(u128::from_be_bytes(hash.try_into().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_and_order(a in any::<(u32, u64, u64)>(), b in any::<(u32, u64, u64)>(), hashes: Vec<u128>) {
            let (ka, kb) = (key(a.0, a.1, a.2), key(b.0, b.1, b.2));
            prop_assert_eq!(parse_key(&ka), Some(a));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
            prop_assert_eq!(parse_value(&value(&hashes)), Some(hashes));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let _ = (parse_key(&bytes), parse_value(&bytes));
        }
    }
}
