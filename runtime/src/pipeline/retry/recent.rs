//! The first parked records of a group in memory, as they lie in the store: most records are tried again a
//! moment after they were parked, and need not be looked for there.

use std::collections::VecDeque;

use super::{GroupId, Waiting};
use crate::storage::schema::parked::ParkedRecord;

/// Records of a group that are kept: a key that fails for hours leaves room for others, and what has queued up
/// behind it is read from the store in large batches.
const MAX_RECORDS: usize = 32;
/// What a record takes in memory besides its bytes and its reason.
const OVERHEAD_BYTES: usize = 160;

/// Records of a group, ascending: none of those that are left out lies before one of them.
#[derive(Default)]
pub(super) struct Recent {
    records: VecDeque<(u64, ParkedRecord)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What they take in memory.
    pub(super) fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a record that was parked now, if none lies before it that is left out. `are_all_here`: none is. Returns
    /// whether none is then.
    pub(super) fn keep(
        &mut self,
        sequence: u64,
        record: &ParkedRecord,
        are_all_here: bool,
    ) -> bool {
        let at = self.position(sequence);
        let is_last = at == self.records.len();
        if is_last && (!are_all_here || self.records.len() >= MAX_RECORDS) {
            return false;
        }
        self.bytes += size_bytes(record);
        self.records.insert(at, (sequence, record.clone()));
        if self.records.len() > MAX_RECORDS
            && let Some((_, last)) = self.records.pop_back()
        {
            self.bytes -= size_bytes(&last);
            return false;
        }
        are_all_here
    }

    /// Replaces a record that was parked again in its place.
    pub(super) fn replace(&mut self, sequence: u64, record: &ParkedRecord) {
        let at = self.position(sequence);
        if let Some((at, kept)) = self.records.get_mut(at)
            && *at == sequence
        {
            self.bytes = self.bytes + size_bytes(record) - size_bytes(kept);
            *kept = record.clone();
        }
    }

    pub(super) fn remove(&mut self, sequence: u64) {
        let at = self.position(sequence);
        if self.records.get(at).is_some_and(|(at, _)| *at == sequence)
            && let Some((_, removed)) = self.records.remove(at)
        {
            self.bytes -= size_bytes(&removed);
        }
    }

    /// Adds them to what is tried next of their group.
    pub(super) fn add_to(&self, head: &mut Head) {
        for (sequence, record) in &self.records {
            if !head.add(*sequence, record.clone()) {
                break;
            }
        }
    }

    fn position(&self, sequence: u64) -> usize {
        self.records.partition_point(|(at, _)| *at < sequence)
    }
}

fn size_bytes(record: &ParkedRecord) -> usize {
    record.record.len_bytes() + record.reason.len() + OVERHEAD_BYTES
}

/// What is tried next of a group: its first record, and, if that only waited behind others, those like it after
/// it.
pub(super) struct Head {
    group: GroupId,
    found: Vec<Waiting>,
    bytes: usize,
    max_records: usize,
    max_bytes: usize,
}

impl Head {
    pub(super) fn new(group: GroupId, max_records: usize, max_bytes: usize) -> Self {
        Self {
            group,
            found: Vec::new(),
            bytes: 0,
            max_records,
            max_bytes,
        }
    }

    /// Adds the next record of the group, if it belongs to what is tried next. Returns whether the one after it
    /// may.
    pub(super) fn add(&mut self, sequence: u64, parked: ParkedRecord) -> bool {
        let is_only = parked.attempt_count > 0;
        let belongs = self.found.first().is_none_or(|head| {
            !is_only && head.parked.input == parked.input && self.bytes < self.max_bytes
        });
        if !belongs {
            return false;
        }
        self.bytes += parked.record.len_bytes();
        self.found.push(Waiting {
            group: self.group,
            sequence,
            parked,
        });
        !is_only && self.found.len() < self.max_records
    }

    pub(super) fn into_found(self) -> Vec<Waiting> {
        self.found
    }
}
