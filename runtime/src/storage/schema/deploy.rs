//! Key kind `Deploy`: `(deploy id)` → what was deployed, when, by whom, and how it went.
//!
//! The value is JSON, so that later versions can add to it. Ids ascend.

use super::{KeyKind, read_u64};

/// Length of a key in bytes.
pub const KEY_LEN_BYTES: usize = 9;

/// The key of a deploy.
pub fn key(id: u64) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::Deploy as u8;
    key[1..].copy_from_slice(&id.to_be_bytes());
    key
}

/// The id in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<u64> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::Deploy as u8 {
        return None;
    }
    read_u64(key, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_come_back_and_are_in_order(a: u64, b: u64) {
            prop_assert_eq!(parse_key(&key(a)), Some(a));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_key(&bytes);
        }
    }
}
