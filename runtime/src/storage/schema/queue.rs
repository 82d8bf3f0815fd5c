//! Key kind `Queue`: `(queue id)` → the queue's name and configuration.
//!
//! Ids of queues and topics come from one sequence, since the messages of a queue lie in the
//! partition `(queue id, 0)`. The value is JSON, so that later versions can add settings; it is read
//! once, when the data directory is opened.

use super::{KeyKind, read_u32};

/// Length of a queue's key in bytes.
pub const KEY_LEN_BYTES: usize = 5;

/// The key of a queue.
pub fn key(queue_id: u32) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::Queue as u8;
    key[1..5].copy_from_slice(&queue_id.to_be_bytes());
    key
}

/// The queue's id in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<u32> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::Queue as u8 {
        return None;
    }
    read_u32(key, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_and_order(a: u32, b: u32) {
            prop_assert_eq!(parse_key(&key(a)), Some(a));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_key(&bytes);
        }
    }
}
