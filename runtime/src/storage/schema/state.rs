//! Key kind `State`: `(pipeline id, partition, key)` → a value of a task's keyed state.

use super::{KeyKind, read_u32};

/// Length in bytes of what stands before the user's key.
pub const PREFIX_LEN_BYTES: usize = 9;

/// The start of all keys of a task.
pub fn task_prefix(pipeline_id: u32, partition: u32) -> [u8; PREFIX_LEN_BYTES] {
    let mut prefix = [0; PREFIX_LEN_BYTES];
    prefix[0] = KeyKind::State as u8;
    prefix[1..5].copy_from_slice(&pipeline_id.to_be_bytes());
    prefix[5..9].copy_from_slice(&partition.to_be_bytes());
    prefix
}

/// The key of a user's key.
pub fn key(pipeline_id: u32, partition: u32, user_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_LEN_BYTES + user_key.len());
    key.extend_from_slice(&task_prefix(pipeline_id, partition));
    key.extend_from_slice(user_key);
    key
}

/// The fields of a state key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(u32, u32, &[u8])> {
    if key.len() < PREFIX_LEN_BYTES || key[0] != KeyKind::State as u8 {
        return None;
    }
    Some((
        read_u32(key, 1)?,
        read_u32(key, 5)?,
        &key[PREFIX_LEN_BYTES..],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_and_order(a in any::<(u32, u32, Vec<u8>)>(), b in any::<(u32, u32, Vec<u8>)>()) {
            let (ka, kb) = (key(a.0, a.1, &a.2), key(b.0, b.1, &b.2));
            prop_assert_eq!(parse_key(&ka), Some((a.0, a.1, a.2.as_slice())));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_key(&bytes);
        }
    }
}
