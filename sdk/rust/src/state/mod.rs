//! Keyed state, held in the instance and written back once a batch.
//!
//! A call to the host costs more than the work of a small record. So what is read stays in the
//! instance within a bound, and the changes of a batch go to the host in one `put-many` and one
//! `delete-many` at its end. The host drops the instance together with a checkpoint that fails, so
//! the two never disagree.

mod table;

use crate::host;
use crate::record::StateKeys;
use crate::timers::Timers;
use table::{Slot, Table};

const DEFAULT_LIMIT_BYTES: usize = 16 << 20;
/// Most entries that the host gives in one call.
const MAX_RANGE_ENTRIES: u32 = 65_536;
const DEFAULT_LIMIT_ENTRIES: usize = 1 << 17;

/// Keyed state of the task: the pipeline on one partition.
///
/// Reads see the plugin's own writes. Writes become durable with the batch, in one step with its
/// outputs and its progress, or not at all; those of a record that fails are taken back.
pub struct State {
    table: Table,
    /// Slots changed since the last flush, in the order of their first change.
    changed: Vec<u32>,
    /// What the record being processed has changed, with the value before.
    journal: Vec<Before>,
    /// Number of the record being processed, over the instance's life; from 1.
    record: u64,
    size_bytes: usize,
    limit_bytes: usize,
    limit_entries: usize,
    /// Memory of values that were replaced, for the next ones.
    spare: Vec<Vec<u8>>,
    pub(crate) timers: Timers,
}

/// A slot before the record being processed changed it first.
struct Before {
    slot: u32,
    value: Option<Vec<u8>>,
    known: bool,
    dirty: bool,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            table: Table::default(),
            changed: Vec::new(),
            journal: Vec::new(),
            record: 0,
            size_bytes: 0,
            limit_bytes: DEFAULT_LIMIT_BYTES,
            limit_entries: DEFAULT_LIMIT_ENTRIES,
            spare: Vec::new(),
            timers: Timers::default(),
        }
    }

    /// The value of a key.
    #[inline]
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        let number = self.known_slot_of(key.as_ref());
        let slot = self.table.slot_mut(number);
        slot.used = true;
        slot.value.as_deref()
    }

    /// Sets the value of a key.
    #[inline]
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let number = self.slot_of(key.as_ref());
        self.change(number, Some(value.as_ref()));
    }

    /// Removes a key; a missing one is no error.
    #[inline]
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        let number = self.slot_of(key.as_ref());
        self.change(number, None);
    }

    /// The number kept under a key by [`State::add`]; 0 if there is none.
    ///
    /// # Panics
    /// If the key holds something else than a number, which is 8 bytes, little-endian.
    pub fn count(&mut self, key: impl AsRef<[u8]>) -> u64 {
        self.get(key).map_or(0, number_of)
    }

    /// Adds to the number kept under a key, which starts at 0; returns the sum.
    ///
    /// # Panics
    /// As [`State::count`], and if the sum does not fit.
    pub fn add(&mut self, key: impl AsRef<[u8]>, amount: u64) -> u64 {
        let number = self.known_slot_of(key.as_ref());
        let sum = self
            .table
            .slot(number)
            .value
            .as_deref()
            .map_or(0, number_of);
        let sum = sum.checked_add(amount).expect("a count fits 64 bits");
        self.change(number, Some(&sum.to_le_bytes()));
        sum
    }

    /// At most `limit` entries with `from <= key`, and `key < to` if `to` is given, in ascending
    /// order of the keys. Always asks the host; all entries come into memory.
    pub fn range(&mut self, from: &[u8], to: Option<&[u8]>, limit: u32) -> Vec<Entry> {
        let inside = |key: &[u8]| from <= key && to.is_none_or(|to| key < to);
        let changed = self.changed.iter().map(|&number| self.table.slot(number));
        let changed: Vec<&Slot> = changed
            .filter(|slot| slot.dirty && inside(&slot.key))
            .collect();
        // Each own change can hide one entry of the host's.
        let wanted = limit.saturating_add(changed.len() as u32);
        let mut entries = host_range(from, to, wanted);
        if !changed.is_empty() {
            let mut merged: std::collections::BTreeMap<_, _> = entries.drain(..).collect();
            for slot in changed {
                match &slot.value {
                    Some(value) => merged.insert(slot.key.to_vec(), value.clone()),
                    None => merged.remove(&*slot.key),
                };
            }
            entries = merged.into_iter().collect();
        }
        entries.truncate(limit as usize);
        entries
    }

    /// What the plugin has changed in this batch so far: keys with their new values, `None` for a
    /// removed one, in the order of the first change. Of use in
    /// [`finish_batch`](crate::Consumer::finish_batch), to emit each changed key once.
    pub fn changes(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let slots = self.changed.iter().map(|&number| self.table.slot(number));
        slots
            .filter(|slot| slot.dirty)
            .map(|slot| (&*slot.key, slot.value.as_deref()))
    }

    /// The task's timers. A plugin that uses them exports a [`TimerHandler`](crate::TimerHandler), or is
    /// refused.
    pub fn timers(&mut self) -> &mut Timers {
        self.timers.enable()
    }

    /// Bounds what is held in the instance between batches (16 MiB and 131,072 entries unless
    /// set). It counts against the memory limit of the pipeline's `limits`.
    pub fn set_limits(&mut self, bytes: usize, entries: usize) {
        self.limit_bytes = bytes;
        self.limit_entries = entries;
    }

    /// Reads the keys that are not here yet in one call.
    pub(crate) fn load(&mut self, keys: &StateKeys) {
        let mut missing = StateKeys::default();
        let mut asked = Vec::new();
        for key in keys.iter() {
            let number = self.slot_of(key);
            let slot = self.table.slot_mut(number);
            if !slot.known {
                // Known from here on, so that a key named twice is asked for once.
                (slot.known, slot.used) = (true, true);
                asked.push(number);
                missing.push(key);
            }
        }
        if asked.is_empty() {
            return;
        }
        let mut numbers = asked.into_iter();
        host::state_get_many(&missing.bytes, &missing.ends, |value| {
            if let Some(number) = numbers.next() {
                self.learn(number, value.map(<[u8]>::to_vec));
            }
        });
    }

    /// Starts a record: its changes can be taken back until the next one starts.
    #[inline]
    pub(crate) fn enter(&mut self) {
        self.record += 1;
        self.timers.enter();
        if !self.journal.is_empty() {
            self.keep_journal();
        }
    }

    /// Takes back the changes of the record being processed.
    pub(crate) fn roll_back(&mut self) {
        self.timers.roll_back();
        while let Some(before) = self.journal.pop() {
            let slot = self.table.slot_mut(before.slot);
            self.size_bytes -= slot.size_bytes();
            (slot.value, slot.known, slot.dirty) = (before.value, before.known, before.dirty);
            self.size_bytes += slot.size_bytes();
        }
        // What this record changed first is at the end of the list, and clean again.
        while self
            .changed
            .last()
            .is_some_and(|&number| !self.table.slot(number).dirty)
        {
            self.changed.pop();
        }
    }

    /// Forgets everything, after a batch that failed as a whole: the host keeps nothing of it.
    pub(crate) fn discard(&mut self) {
        self.timers.discard();
        self.table.clear();
        self.changed.clear();
        self.journal.clear();
        self.size_bytes = 0;
    }

    /// Hands the batch's changes to the host and evicts what is beyond the limits.
    pub(crate) fn flush(&mut self) {
        self.timers.flush();
        self.keep_journal();
        if !self.changed.is_empty() {
            self.write_back();
        }
        if self.size_bytes > self.limit_bytes || self.table.len() > self.limit_entries {
            self.evict();
        }
    }

    fn write_back(&mut self) {
        let (mut puts, mut values, mut deletes) = (
            StateKeys::default(),
            StateKeys::default(),
            StateKeys::default(),
        );
        for number in self.changed.drain(..) {
            let slot = self.table.slot_mut(number);
            slot.dirty = false;
            match &slot.value {
                Some(value) => {
                    puts.push(&slot.key);
                    values.push(value);
                }
                None => deletes.push(&slot.key),
            }
        }
        if !puts.ends.is_empty() {
            host::state_put_many(&puts.bytes, &puts.ends, &values.bytes, &values.ends);
        }
        if !deletes.ends.is_empty() {
            host::state_delete_many(&deletes.bytes, &deletes.ends);
        }
    }

    /// Evicts down to three quarters of the limits, so that the cost is spread over many batches:
    /// first what was not used since the last time, then whatever comes first.
    fn evict(&mut self) {
        let (bytes, entries) = (self.limit_bytes / 4 * 3, self.limit_entries / 4 * 3);
        for spare_used in [true, false] {
            let (size_bytes, mut count) = (&mut self.size_bytes, self.table.len());
            self.table.retain(|slot| {
                let over = *size_bytes > bytes || count > entries;
                if slot.used && spare_used || !over {
                    slot.used &= !over;
                    return true;
                }
                *size_bytes -= slot.size_bytes();
                count -= 1;
                false
            });
            if self.size_bytes <= bytes && self.table.len() <= entries {
                break;
            }
        }
    }

    /// The number of the key's slot, a new one if there is none.
    #[inline]
    fn slot_of(&mut self, key: &[u8]) -> u32 {
        self.table.find(key).unwrap_or_else(|| {
            let number = self.table.insert(key);
            self.size_bytes += self.table.slot(number).size_bytes();
            number
        })
    }

    /// The number of the key's slot, with the host asked for the value if need be.
    #[inline]
    fn known_slot_of(&mut self, key: &[u8]) -> u32 {
        let number = self.slot_of(key);
        if !self.table.slot(number).known {
            self.learn(number, host::state_get(key));
        }
        number
    }

    /// Notes the value that the host has.
    fn learn(&mut self, number: u32, value: Option<Vec<u8>>) {
        let slot = self.table.slot_mut(number);
        self.size_bytes -= slot.size_bytes();
        (slot.value, slot.known) = (value, true);
        self.size_bytes += slot.size_bytes();
    }

    /// Sets a slot's value, `None` removes it. Does not ask the host for the value before: taking
    /// the change back makes the slot unknown again.
    fn change(&mut self, number: u32, value: Option<&[u8]>) {
        let slot = self.table.slot_mut(number);
        self.size_bytes -= slot.size_bytes();
        let first = slot.changed_by != self.record;
        let before = if first { slot.value.take() } else { None };
        match value {
            None => slot.value = None,
            Some(value) => {
                let mut memory = slot
                    .value
                    .take()
                    .or_else(|| self.spare.pop())
                    .unwrap_or_default();
                memory.clear();
                memory.extend_from_slice(value);
                slot.value = Some(memory);
            }
        }
        self.size_bytes += slot.size_bytes();
        if first {
            let (known, dirty) = (slot.known, slot.dirty);
            self.journal.push(Before {
                slot: number,
                value: before,
                known,
                dirty,
            });
            slot.changed_by = self.record;
        }
        if !slot.dirty {
            self.changed.push(number);
        }
        (slot.known, slot.dirty, slot.used) = (true, true, true);
    }

    /// The record's changes stand; the memory of what they replaced is kept for the next ones.
    fn keep_journal(&mut self) {
        for before in self.journal.drain(..) {
            if let Some(memory) = before.value
                && self.spare.len() < 8
            {
                self.spare.push(memory);
            }
        }
    }
}

/// Asks the host for a range, in as many calls as it takes.
fn host_range(from: &[u8], to: Option<&[u8]>, limit: u32) -> Vec<Entry> {
    let mut entries = host::state_range(from, to, limit.min(MAX_RANGE_ENTRIES));
    let mut last_page = entries.len();
    while last_page == MAX_RANGE_ENTRIES as usize && entries.len() < limit as usize {
        let Some((last_key, _)) = entries.last() else {
            break;
        };
        // The smallest key after the last one.
        let from = [last_key.as_slice(), &[0]].concat();
        let left = limit - entries.len() as u32;
        let page = host::state_range(&from, to, left.min(MAX_RANGE_ENTRIES));
        last_page = page.len();
        entries.extend(page);
    }
    entries
}

/// The number that a value of [`State::add`] is.
fn number_of(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.try_into().expect("the key holds a number (8 bytes)"))
}

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
