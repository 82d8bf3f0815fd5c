//! Keys that are a name alone: those of pipelines, plugins, manifests and tokens.

use super::{KeyKind, kind_prefix};

/// The key of what has this name.
pub fn key(kind: KeyKind, name: &str) -> Vec<u8> {
    let mut key = kind_prefix(kind).to_vec();
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name in a key of this kind; `None` if it is not one.
pub fn parse_key(kind: KeyKind, key: &[u8]) -> Option<&str> {
    let name = key.strip_prefix(&kind_prefix(kind))?;
    std::str::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: [KeyKind; 4] = [
        KeyKind::Pipeline,
        KeyKind::Plugin,
        KeyKind::Manifest,
        KeyKind::Token,
    ];

    proptest! {
        #[test]
        fn a_key_holds_its_name_and_is_of_its_kind(name in "[a-zA-Z0-9._-]{1,30}") {
            for kind in KINDS {
                let bytes = key(kind, &name);
                for other in KINDS {
                    let expected = (other as u8 == kind as u8).then_some(name.as_str());
                    prop_assert_eq!(parse_key(other, &bytes), expected);
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            for kind in KINDS {
                let _ = parse_key(kind, &bytes);
            }
        }
    }
}
