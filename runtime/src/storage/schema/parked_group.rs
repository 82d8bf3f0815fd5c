//! Key kind `ParkedGroup`: `(pipeline id, task, group)` → how much of a group is parked.
//!
//! A task that starts reads the first record of each group and this, instead of all that is parked. Only groups of
//! [`MIN_RECORDS`] records and more have such an entry: smaller ones are counted faster than it is written. What it says
//! is for people; which records there are, and in which order, the records themselves say.
//!
//! The value: version (`u8`, 1), how many records are parked (`u64`), the inputs that they came from (`u64`, see
//! [`InputSet`]), the last sequence among them and the highest offset (`u64` each). The commit that parks records of a
//! group, or removes some, holds the entry as it is after it. If the last sequence is not that of the group's last record
//! it was not kept up, and counts for nothing. Numbers are big-endian.

use super::{KeyKind, read_u32, read_u64};
use crate::model::TIMERS_INPUT;

/// Length of a key in bytes.
pub const KEY_LEN_BYTES: usize = 17;
/// Records from which on a group has an entry.
pub const MIN_RECORDS: u64 = 64;
const VERSION: u8 = 1;
const VALUE_LEN_BYTES: usize = 33;

/// The numbers of inputs that records came from, as those name them: 0 to 61, timers (bit 63), and whether there are
/// others (bit 62).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputSet(u64);

impl InputSet {
    const OTHERS: u32 = 62;
    const TIMERS: u32 = 63;

    /// Adds the input with this number.
    pub fn insert(&mut self, input: u32) {
        self.0 |= 1 << Self::bit(input);
    }

    /// Whether records may have come from the input with this number: those beyond 61 are not told apart.
    pub fn may_contain(self, input: u32) -> bool {
        self.0 & 1 << Self::bit(input) != 0
    }

    /// The numbers of the inputs; `None` if they are not told apart.
    pub fn numbers(self) -> Option<impl Iterator<Item = u32>> {
        (self.0 & 1 << Self::OTHERS == 0).then(|| {
            let inputs = (0..Self::OTHERS).chain([TIMERS_INPUT]);
            inputs.filter(move |input| self.may_contain(*input))
        })
    }

    fn bit(input: u32) -> u32 {
        match input {
            TIMERS_INPUT => Self::TIMERS,
            input => input.min(Self::OTHERS),
        }
    }
}

/// How much of a group is parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedGroup {
    /// Records.
    pub record_count: u64,
    /// The inputs that they came from, and those of records that were parked among them.
    pub inputs: InputSet,
    /// The sequence of the last one.
    pub last_sequence: u64,
    /// None of them has a higher offset, whatever input it came from.
    pub highest_offset: u64,
}

impl ParkedGroup {
    /// Adds a record to it.
    pub fn add(&mut self, sequence: u64, input: u32, offset: u64) {
        self.record_count += 1;
        self.inputs.insert(input);
        self.last_sequence = self.last_sequence.max(sequence);
        self.highest_offset = self.highest_offset.max(offset);
    }

    /// What it is after a commit that changes it.
    pub fn apply(&mut self, change: &GroupChange) {
        let added = &change.added;
        self.record_count = self
            .record_count
            .saturating_add(added.record_count)
            .saturating_sub(change.removed_count);
        self.inputs.0 |= added.inputs.0;
        self.last_sequence = self.last_sequence.max(added.last_sequence);
        self.highest_offset = self.highest_offset.max(added.highest_offset);
    }
}

/// How a commit changes a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupChange {
    /// Records that are parked.
    pub added: ParkedGroup,
    /// How many are not any more.
    pub removed_count: u64,
}

impl GroupChange {
    /// Adds what another commit changes.
    pub fn add(&mut self, other: &GroupChange) {
        self.added.apply(&GroupChange {
            removed_count: 0,
            ..*other
        });
        self.removed_count += other.removed_count;
    }
}

/// The start of all keys of a task.
pub fn task_prefix(pipeline_id: u32, task: u32) -> [u8; 9] {
    let mut prefix = [0; 9];
    prefix[0] = KeyKind::ParkedGroup as u8;
    prefix[1..5].copy_from_slice(&pipeline_id.to_be_bytes());
    prefix[5..9].copy_from_slice(&task.to_be_bytes());
    prefix
}

/// The key of a group.
pub fn key(pipeline_id: u32, task: u32, group: u64) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[..9].copy_from_slice(&task_prefix(pipeline_id, task));
    key[9..].copy_from_slice(&group.to_be_bytes());
    key
}

/// Pipeline id, task and group of a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(u32, u32, u64)> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::ParkedGroup as u8 {
        return None;
    }
    Some((read_u32(key, 1)?, read_u32(key, 5)?, read_u64(key, 9)?))
}

/// Encodes how much of a group is parked.
pub fn value(group: &ParkedGroup) -> [u8; VALUE_LEN_BYTES] {
    let mut value = [0; VALUE_LEN_BYTES];
    value[0] = VERSION;
    value[1..9].copy_from_slice(&group.record_count.to_be_bytes());
    value[9..17].copy_from_slice(&group.inputs.0.to_be_bytes());
    value[17..25].copy_from_slice(&group.last_sequence.to_be_bytes());
    value[25..].copy_from_slice(&group.highest_offset.to_be_bytes());
    value
}

/// Decodes how much of a group is parked; `None` if the bytes do not say.
pub fn parse_value(bytes: &[u8]) -> Option<ParkedGroup> {
    if bytes.len() != VALUE_LEN_BYTES || bytes[0] != VERSION {
        return None;
    }
    Some(ParkedGroup {
        record_count: read_u64(bytes, 1)?,
        inputs: InputSet(read_u64(bytes, 9)?),
        last_sequence: read_u64(bytes, 17)?,
        highest_offset: read_u64(bytes, 25)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_and_values_come_back(a in any::<(u32, u32, u64)>(), b in any::<(u32, u32, u64)>(), numbers in any::<(u64, u64, u64, u64)>()) {
            let (ka, kb) = (key(a.0, a.1, a.2), key(b.0, b.1, b.2));
            prop_assert_eq!(parse_key(&ka), Some(a));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
            prop_assert!(ka.starts_with(&task_prefix(a.0, a.1)));
            let group = ParkedGroup {
                record_count: numbers.0, inputs: InputSet(numbers.1),
                last_sequence: numbers.2, highest_offset: numbers.3,
            };
            prop_assert_eq!(parse_value(&value(&group)), Some(group));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_key(&bytes);
            let _ = parse_value(&bytes);
        }

        #[test]
        fn inputs_are_told_apart_or_said_not_to_be(inputs in prop::collection::btree_set(prop_oneof![0u32..70, Just(TIMERS_INPUT)], 0..6)) {
            let mut set = InputSet::default();
            for input in &inputs {
                set.insert(*input);
            }
            prop_assert!(inputs.iter().all(|input| set.may_contain(*input)));
            let are_told = inputs.iter().all(|input| *input < 62 || *input == TIMERS_INPUT);
            let told = set.numbers().map(|numbers| numbers.collect::<std::collections::BTreeSet<u32>>());
            prop_assert_eq!(told, are_told.then_some(inputs));
        }
    }
}
