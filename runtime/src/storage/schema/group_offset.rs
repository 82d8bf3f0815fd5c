//! Key kind `GroupOffset`: `(group, 0, topic id, partition)` → the group's committed offset.
//!
//! A group's name never holds a zero byte, so the terminator keeps groups apart and in order.

use super::{KeyKind, read_u32, read_u64};

/// A group's position in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset of the next record that the group reads.
    pub offset: u64,
    /// When it was committed, in ms since the epoch.
    pub committed_at_ms: u64,
}

/// The start of all keys of a group.
pub fn group_prefix(group: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(group.len() + 10);
    key.push(KeyKind::GroupOffset as u8);
    key.extend_from_slice(group.as_bytes());
    key.push(0);
    key
}

/// The key of a group's offset in a partition.
pub fn key(group: &str, topic_id: u32, partition: u32) -> Vec<u8> {
    let mut key = group_prefix(group);
    key.extend_from_slice(&topic_id.to_be_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// The fields of a group offset's key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(&str, u32, u32)> {
    let (kind, rest) = key.split_first()?;
    if *kind != KeyKind::GroupOffset as u8 || rest.len() < 9 {
        return None;
    }
    let (group, numbers) = rest.split_at(rest.len() - 8);
    let (terminator, group) = group.split_last()?;
    if *terminator != 0 || group.contains(&0) {
        return None;
    }
    Some((
        std::str::from_utf8(group).ok()?,
        read_u32(numbers, 0)?,
        read_u32(numbers, 4)?,
    ))
}

/// The value: offset and time of the commit, two big-endian `u64`.
pub fn value(committed: CommittedOffset) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&committed.offset.to_be_bytes());
    value[8..].copy_from_slice(&committed.committed_at_ms.to_be_bytes());
    value
}

/// Reads a value; `None` if it has another length.
pub fn parse_value(value: &[u8]) -> Option<CommittedOffset> {
    if value.len() != 16 {
        return None;
    }
    Some(CommittedOffset {
        offset: read_u64(value, 0)?,
        committed_at_ms: read_u64(value, 8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(group in "[a-zA-Z0-9._-]{1,30}", topic_id: u32, partition: u32, offset: u64, committed_at_ms: u64) {
            let bytes = key(&group, topic_id, partition);
            prop_assert!(bytes.starts_with(&group_prefix(&group)));
            prop_assert_eq!(parse_key(&bytes), Some((group.as_str(), topic_id, partition)));
            let committed = CommittedOffset { offset, committed_at_ms };
            prop_assert_eq!(parse_value(&value(committed)), Some(committed));
        }

        #[test]
        fn a_group_is_not_a_prefix_of_another(a in "[a-z]{1,5}", b in "[a-z]{1,5}") {
            prop_assume!(a != b);
            prop_assert!(!key(&b, 1, 1).starts_with(&group_prefix(&a)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = (parse_key(&bytes), parse_value(&bytes));
        }
    }
}
