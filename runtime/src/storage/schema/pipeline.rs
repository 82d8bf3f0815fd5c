//! Key kind `Pipeline`: `(pipeline name)` → the pipeline's id and how it last ran.
//!
//! The value is JSON, so that later versions can add to it; it is read when a pipeline starts or is
//! described. The id is the short form under which the pipeline's state is kept.

use super::KeyKind;

/// The key of a pipeline.
pub fn key(pipeline: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(pipeline.len() + 1);
    key.push(KeyKind::Pipeline as u8);
    key.extend_from_slice(pipeline.as_bytes());
    key
}

/// The pipeline's name in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    let (kind, name) = key.split_first()?;
    if *kind != KeyKind::Pipeline as u8 {
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
