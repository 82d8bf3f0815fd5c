//! Key kind `GroupGaps`: `(group, 0, topic id, partition, lane)` → which offsets at or beyond the group's
//! committed offset are processed already.
//!
//! A task that runs several instances at a time finishes records out of their order. Each of its lanes
//! keeps what it has finished under a key of its own, since their commits are on their way at the same time.
//!
//! The value: version (`u8`, 1), then for each range its first offset and the one after its last (`u64`
//! each), ascending, neither empty nor touching. Numbers are big-endian.

use std::ops::Range;

use bytes::Bytes;

use super::{KeyKind, read_u32, read_u64};

const VERSION: u8 = 1;
const RANGE_BYTES: usize = 16;
/// Topic id, partition and lane.
const NUMBERS_BYTES: usize = 12;

/// The start of all keys of a group.
pub fn group_prefix(group: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(group.len() + 2 + NUMBERS_BYTES);
    key.push(KeyKind::GroupGaps as u8);
    key.extend_from_slice(group.as_bytes());
    key.push(0);
    key
}

/// The start of all keys of a group in a partition.
pub fn partition_prefix(group: &str, topic_id: u32, partition: u32) -> Vec<u8> {
    let mut key = group_prefix(group);
    key.extend_from_slice(&topic_id.to_be_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// The key of what a lane has processed.
pub fn key(group: &str, topic_id: u32, partition: u32, lane: u32) -> Vec<u8> {
    let mut key = partition_prefix(group, topic_id, partition);
    key.extend_from_slice(&lane.to_be_bytes());
    key
}

/// Group, topic id, partition and lane of a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(&str, u32, u32, u32)> {
    let (kind, rest) = key.split_first()?;
    if *kind != KeyKind::GroupGaps as u8 || rest.len() <= NUMBERS_BYTES {
        return None;
    }
    let (group, numbers) = rest.split_at(rest.len() - NUMBERS_BYTES);
    let (terminator, group) = group.split_last()?;
    if *terminator != 0 || group.contains(&0) {
        return None;
    }
    Some((
        std::str::from_utf8(group).ok()?,
        read_u32(numbers, 0)?,
        read_u32(numbers, 4)?,
        read_u32(numbers, 8)?,
    ))
}

/// Encodes ranges of offsets, which must ascend.
pub fn value(ranges: impl Iterator<Item = Range<u64>>) -> Bytes {
    let mut value = vec![VERSION];
    for range in ranges {
        value.extend_from_slice(&range.start.to_be_bytes());
        value.extend_from_slice(&range.end.to_be_bytes());
    }
    value.into()
}

/// Decodes ranges of offsets; `None` if the bytes are none.
pub fn parse_value(value: &[u8]) -> Option<Vec<Range<u64>>> {
    let (version, rest) = value.split_first()?;
    if *version != VERSION || !rest.len().is_multiple_of(RANGE_BYTES) {
        return None;
    }
    let mut ranges: Vec<Range<u64>> = Vec::with_capacity(rest.len() / RANGE_BYTES);
    for range in rest.chunks_exact(RANGE_BYTES) {
        let (start, end) = (read_u64(range, 0)?, read_u64(range, 8)?);
        let ascends = ranges.last().is_none_or(|last| last.end < start);
        if !ascends || start >= end {
            return None;
        }
        ranges.push(start..end);
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_round_trip(group in "[a-zA-Z0-9._-]{1,30}", topic_id: u32, partition: u32, lane: u32) {
            let bytes = key(&group, topic_id, partition, lane);
            prop_assert!(bytes.starts_with(&partition_prefix(&group, topic_id, partition)));
            prop_assert_eq!(parse_key(&bytes), Some((group.as_str(), topic_id, partition, lane)));
        }

        #[test]
        fn values_round_trip(steps in prop::collection::vec((1u64..1000, 1u64..1000), 0..50)) {
            let mut at = 0;
            let ranges: Vec<Range<u64>> = steps
                .iter()
                .map(|(gap, len)| {
                    let start = at + gap;
                    at = start + len;
                    start..at
                })
                .collect();
            prop_assert_eq!(parse_value(&value(ranges.iter().cloned())), Some(ranges));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse_key(&bytes);
            let _ = parse_value(&bytes);
        }
    }

    #[test]
    fn ranges_that_touch_or_fall_are_no_value() {
        for ranges in [vec![0..5, 5..6], vec![7..9, 1..2], vec![1..2, 3..3]] {
            assert_eq!(parse_value(&value(ranges.into_iter())), None);
        }
    }
}
