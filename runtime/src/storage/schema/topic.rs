//! Key kind `Topic`: `(topic id)` → the topic's name and configuration.
//!
//! The value is JSON, so that later versions can add settings; it is read once, when the data
//! directory is opened.

use super::{KeyKind, read_u32};

/// Length of a topic's key in bytes.
pub const KEY_LEN_BYTES: usize = 5;

/// The key of a topic.
pub fn key(topic_id: u32) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::Topic as u8;
    key[1..5].copy_from_slice(&topic_id.to_be_bytes());
    key
}

/// The topic's id in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<u32> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::Topic as u8 {
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
