//! Key kind `Changelog`: `(pipeline id, partition, sequence)` → the state changes of one checkpoint.
//!
//! The value is a sequence of changes: `u32` key length, key, `u32` value length (`0xffffffff` =
//! the key is removed), value; lengths are big-endian.

use bytes::Bytes;

use super::{KeyKind, read_u32, read_u64};

/// Length of a changelog key in bytes.
pub const KEY_LEN_BYTES: usize = 17;
const REMOVED: u32 = u32::MAX;

/// One change of keyed state: the key and its new value, or `None` if it is removed.
pub type Change = (Bytes, Option<Bytes>);

/// The key of a task's changelog entry.
pub fn key(pipeline_id: u32, partition: u32, sequence: u64) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[0] = KeyKind::Changelog as u8;
    key[1..5].copy_from_slice(&pipeline_id.to_be_bytes());
    key[5..9].copy_from_slice(&partition.to_be_bytes());
    key[9..17].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// The fields of a changelog key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(u32, u32, u64)> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::Changelog as u8 {
        return None;
    }
    Some((read_u32(key, 1)?, read_u32(key, 5)?, read_u64(key, 9)?))
}

/// Encodes changes. Keys and values are far shorter than 4 GiB (`model::limits`).
pub fn value(changes: &[Change]) -> Vec<u8> {
    let size = changes
        .iter()
        .map(|(key, value)| 8 + key.len() + value.as_ref().map_or(0, Bytes::len))
        .sum();
    let mut encoded = Vec::with_capacity(size);
    for (key, value) in changes {
        encoded.extend_from_slice(&(key.len() as u32).to_be_bytes());
        encoded.extend_from_slice(key);
        match value {
            Some(value) => {
                encoded.extend_from_slice(&(value.len() as u32).to_be_bytes());
                encoded.extend_from_slice(value);
            }
            None => encoded.extend_from_slice(&REMOVED.to_be_bytes()),
        }
    }
    encoded
}

/// Decodes changes, sharing the bytes of `value`; `None` if they are malformed.
pub fn parse_value(value: &Bytes) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    let mut at = 0;
    while at < value.len() {
        let key = take(value, &mut at)??;
        changes.push((key, take(value, &mut at)?));
    }
    Some(changes)
}

/// Outer `None`: malformed; inner `None`: the marker for a removed key.
fn take(value: &Bytes, at: &mut usize) -> Option<Option<Bytes>> {
    let len = read_u32(value, *at)?;
    *at += 4;
    if len == REMOVED {
        return Some(None);
    }
    let end = at.checked_add(len as usize)?;
    if end > value.len() {
        return None;
    }
    let field = value.slice(*at..end);
    *at = end;
    Some(Some(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn key_round_trip_and_order(a in any::<(u32, u32, u64)>(), b in any::<(u32, u32, u64)>()) {
            let (ka, kb) = (key(a.0, a.1, a.2), key(b.0, b.1, b.2));
            prop_assert_eq!(parse_key(&ka), Some(a));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
        }

        #[test]
        fn value_round_trip(changes in any::<Vec<(Vec<u8>, Option<Vec<u8>>)>>()) {
            let changes: Vec<Change> = changes.into_iter().map(|(key, value)| (key.into(), value.map(Bytes::from))).collect();
            prop_assert_eq!(parse_value(&value(&changes).into()), Some(changes));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse_key(&bytes);
            let _ = parse_value(&bytes.into());
        }
    }
}
