//! Key kind `PipelineId`: `(pipeline name)` → the short id under which its state is kept.

use super::{KeyKind, read_u32};

/// The key of a pipeline's id.
pub fn key(pipeline: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(pipeline.len() + 1);
    key.push(KeyKind::PipelineId as u8);
    key.extend_from_slice(pipeline.as_bytes());
    key
}

/// The pipeline's name in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    let (kind, name) = key.split_first()?;
    if *kind != KeyKind::PipelineId as u8 {
        return None;
    }
    std::str::from_utf8(name).ok()
}

/// The value: the id as a big-endian `u32`.
pub fn value(id: u32) -> [u8; 4] {
    id.to_be_bytes()
}

/// Reads a value; `None` if it has another length.
pub fn parse_value(value: &[u8]) -> Option<u32> {
    if value.len() != 4 {
        return None;
    }
    read_u32(value, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(name in "[a-zA-Z0-9._-]{1,30}", id: u32) {
            prop_assert_eq!(parse_key(&key(&name)), Some(name.as_str()));
            prop_assert_eq!(parse_value(&value(id)), Some(id));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = (parse_key(&bytes), parse_value(&bytes));
        }
    }
}
