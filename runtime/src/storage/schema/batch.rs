//! Key kind `Batch`: `(topic id, partition, base offset)` → one record batch.

use super::{KeyKind, read_u32, read_u64};

/// Length of a batch key in bytes.
pub const KEY_LEN_BYTES: usize = 17;

/// The key of the batch with this base offset.
pub fn key(topic_id: u32, partition: u32, base_offset: u64) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::Batch as u8;
    key[1..5].copy_from_slice(&topic_id.to_be_bytes());
    key[5..9].copy_from_slice(&partition.to_be_bytes());
    key[9..17].copy_from_slice(&base_offset.to_be_bytes());
    key
}

/// The fields of a batch key; `None` if it is not one.
pub fn parse(key: &[u8]) -> Option<(u32, u32, u64)> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::Batch as u8 {
        return None;
    }
    Some((read_u32(key, 1)?, read_u32(key, 5)?, read_u64(key, 9)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_and_order(a in any::<(u32, u32, u64)>(), b in any::<(u32, u32, u64)>()) {
            let (ka, kb) = (key(a.0, a.1, a.2), key(b.0, b.1, b.2));
            prop_assert_eq!(parse(&ka), Some(a));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes);
        }
    }
}
