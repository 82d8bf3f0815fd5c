//! `0x0c (token name)` → the SHA-256 of an access token, its roles and times, as JSON.

use super::{KeyKind, kind_prefix};

/// The key of a token.
pub fn key(name: &str) -> Vec<u8> {
    let mut key = kind_prefix(KeyKind::Token).to_vec();
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name in a key; `None` if it is malformed.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    let name = key.strip_prefix(&kind_prefix(KeyKind::Token))?;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_key(&bytes);
        }

        #[test]
        fn a_key_holds_its_name(name in "[a-z]{1,20}") {
            let key = key(&name);
            prop_assert_eq!(parse_key(&key), Some(name.as_str()));
        }
    }
}
