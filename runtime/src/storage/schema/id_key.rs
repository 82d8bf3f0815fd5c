//! Keys that are an id alone: those of topics and queues, whose ids come from one sequence.

use super::{KeyKind, read_u32};

/// Length of such a key in bytes.
pub const KEY_LEN_BYTES: usize = 5;

/// The key of the topic or the queue with this id.
pub fn key(kind: KeyKind, id: u32) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = kind as u8;
    key[1..5].copy_from_slice(&id.to_be_bytes());
    key
}

/// The id in a key of this kind; `None` if it is not one.
pub fn parse_key(kind: KeyKind, key: &[u8]) -> Option<u32> {
    if key.len() != KEY_LEN_BYTES || key[0] != kind as u8 {
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
            for (kind, other) in [(KeyKind::Topic, KeyKind::Queue), (KeyKind::Queue, KeyKind::Topic)] {
                prop_assert_eq!(parse_key(kind, &key(kind, a)), Some(a));
                prop_assert_eq!(parse_key(other, &key(kind, a)), None);
                prop_assert_eq!(key(kind, a).cmp(&key(kind, b)), a.cmp(&b));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_key(KeyKind::Topic, &bytes);
        }
    }
}
