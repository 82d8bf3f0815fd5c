//! Key kind `Plugin`: `(plugin name)` → the versions of a plugin that were uploaded, and which one is current.
//!
//! The value is JSON, so that later versions can add to it. The components themselves are files,
//! `plugins/<SHA-256>.wasm` in the data directory, which are there before the entry names them.

use super::KeyKind;

/// The key of a plugin.
pub fn key(plugin: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(plugin.len() + 1);
    key.push(KeyKind::Plugin as u8);
    key.extend_from_slice(plugin.as_bytes());
    key
}

/// The plugin's name in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    let (kind, name) = key.split_first()?;
    if *kind != KeyKind::Plugin as u8 {
        return None;
    }
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(name in "[a-zA-Z0-9._-]{1,30}") {
            let bytes = key(&name);
            prop_assert_eq!(parse_key(&bytes), Some(name.as_str()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = parse_key(&bytes);
        }
    }
}
