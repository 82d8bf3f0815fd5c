//! `millstream:plugin/state`: keyed state, private to one task.
//!
//! Reads go to the writes of the current batch first and then to the [`StateReader`], which is the
//! task's. The writes are taken by the task after each batch and become durable with its
//! checkpoint; if the batch fails, they go with the instance.

use std::{collections::BTreeSet, hash::BuildHasher, ops::Bound};

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};

use super::{
    HostFault, HostState,
    bindings::millstream::plugin::state::{Entries, Found, Host},
    columns::split,
};
use crate::model::limits;

/// Longest key, in bytes.
pub const MAX_STATE_KEY_BYTES: usize = 64 * 1024;
/// Largest value, in bytes: that of a record.
pub const MAX_STATE_VALUE_BYTES: usize = limits::MAX_RECORD_BYTES;
/// Most entries that one range query may ask for.
pub const MAX_RANGE_ENTRIES: u32 = 65_536;
/// What a write counts beside its key and value: about what its place in the write-set takes.
pub(super) const WRITE_OVERHEAD_BYTES: usize = 64;

/// Committed and in-flight state of a task, behind the instance's own writes.
pub trait StateReader: Send {
    /// The value of a key.
    ///
    /// # Errors
    /// Why it could not be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String>;

    /// The entries with `from <= key`, and `key < to` if `to` is given, in ascending order, until
    /// `limit` is reached.
    ///
    /// # Errors
    /// Why they could not be read.
    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String>;
}

/// How much a range query reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeLimit {
    /// Entries at most.
    pub entries: usize,
    /// Bytes of keys and values after which no more is read: the entry that goes beyond is the last.
    pub bytes: usize,
}

/// State of a task that has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoState;

impl StateReader for NoState {
    fn get(&self, _key: &[u8]) -> Result<Option<Bytes>, String> {
        Ok(None)
    }

    fn range(
        &self,
        _from: &[u8],
        _to: Option<&[u8]>,
        _limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        Ok(Vec::new())
    }
}

/// The changes of a batch: each key once, in the order in which they were first written. No value
/// means that the key is removed.
pub type StateChanges = Vec<(Bytes, Option<Bytes>)>;

/// One instance's view of its task's state.
pub(in crate::plugin) struct State {
    reader: Box<dyn StateReader>,
    writes: WriteSet,
    limits: StateLimits,
}

/// What one batch may write and one call may read.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateLimits {
    /// Bytes that a batch may write: keys, values and 64 a write.
    pub(super) write_bytes: usize,
    /// Bytes that a call may read; more would not fit the guest's memory.
    pub(super) read_bytes: usize,
}

impl State {
    pub(super) fn new(reader: Box<dyn StateReader>, limits: StateLimits) -> Self {
        Self {
            reader,
            writes: WriteSet::default(),
            limits,
        }
    }

    /// Takes the changes since the last call.
    pub(in crate::plugin) fn take_changes(&mut self) -> StateChanges {
        self.writes.take()
    }

    fn get(&self, key: &[u8]) -> wasmtime::Result<Option<Bytes>> {
        if let Some(written) = self.writes.get(key) {
            return Ok(written.clone());
        }
        self.reader.get(key).map_err(state_fault)
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) -> wasmtime::Result<()> {
        if key.len() > MAX_STATE_KEY_BYTES {
            return Err(state_fault(format!(
                "a key has {} bytes, at most {MAX_STATE_KEY_BYTES} are allowed",
                key.len()
            )));
        }
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        if value_bytes > MAX_STATE_VALUE_BYTES {
            return Err(state_fault(format!(
                "a value has {value_bytes} bytes, at most {MAX_STATE_VALUE_BYTES} are allowed"
            )));
        }
        self.writes.put(key, value);
        if self.writes.written_bytes > self.limits.write_bytes {
            return Err(state_fault(format!(
                "one batch wrote more than {} bytes",
                self.limits.write_bytes
            )));
        }
        Ok(())
    }

    /// The entries of a range, the writes laid over what the reader has.
    fn range(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> wasmtime::Result<Vec<(Bytes, Bytes)>> {
        if limit == 0 || to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let written = self.writes.range(from, to);
        // Each key that was removed may hide an entry that counted towards the limit.
        let removed = written.iter().filter(|(_, value)| value.is_none()).count();
        let reader_limit = RangeLimit {
            entries: limit.saturating_add(removed),
            bytes: self.limits.read_bytes,
        };
        let stored = self
            .reader
            .range(from, to, reader_limit)
            .map_err(state_fault)?;
        // Beyond it the reader has stopped, and what follows is missing.
        if entries_bytes(&stored) > self.limits.read_bytes {
            return Err(self.limits.read_too_much());
        }
        let entries = overlay(stored, written, limit);
        if entries_bytes(&entries) > self.limits.read_bytes {
            return Err(self.limits.read_too_much());
        }
        Ok(entries)
    }
}

impl StateLimits {
    fn read_too_much(&self) -> wasmtime::Error {
        state_fault(format!(
            "one call read more than {} bytes (limits.memory)",
            self.read_bytes
        ))
    }
}

fn entries_bytes(entries: &[(Bytes, Bytes)]) -> usize {
    let sizes = entries.iter().map(|(key, value)| key.len() + value.len());
    sizes.sum()
}

/// Lays `written` over `stored`, both in ascending order of their keys.
fn overlay(
    stored: Vec<(Bytes, Bytes)>,
    written: Vec<(Bytes, Option<Bytes>)>,
    limit: usize,
) -> Vec<(Bytes, Bytes)> {
    let mut entries = Vec::with_capacity(limit.min(stored.len() + written.len()));
    let mut stored = stored.into_iter().peekable();
    let mut written = written.into_iter().peekable();
    while entries.len() < limit {
        let stored_first = match (stored.peek(), written.peek()) {
            (None, None) => break,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((stored, _)), Some((written, _))) => stored < written,
        };
        if stored_first {
            entries.extend(stored.next());
            continue;
        }
        let Some((key, value)) = written.next() else {
            break;
        };
        stored.next_if(|(stored, _)| *stored == key);
        entries.extend(value.map(|value| (key, value)));
    }
    entries
}

fn state_fault(reason: String) -> wasmtime::Error {
    wasmtime::Error::new(HostFault::State(reason))
}

/// The writes of one batch: a table of positions in a list, so that they are found by key, are
/// there once, and leave in the order in which they came.
#[derive(Default)]
struct WriteSet {
    changes: StateChanges,
    positions: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The keys in order, kept from the first range query of a batch on: most batches have none.
    ordered: Option<BTreeSet<Bytes>>,
    /// What all writes count, also those that were overwritten: it bounds the work as well.
    written_bytes: usize,
}

impl WriteSet {
    fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        let hash = self.hasher.hash_one(key);
        let position = self
            .positions
            .find(hash, |&position| self.key_at(position) == key)?;
        self.changes.get(*position as usize).map(|(_, value)| value)
    }

    fn key_at(&self, position: u32) -> &[u8] {
        key_at(&self.changes, position)
    }

    fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        self.written_bytes +=
            key.len() + value.as_ref().map_or(0, Bytes::len) + WRITE_OVERHEAD_BYTES;
        let Self {
            changes,
            positions,
            hasher,
            ordered,
            ..
        } = self;
        let hash = hasher.hash_one(&*key);
        let entry = positions.entry(
            hash,
            |&position| key_at(changes, position) == key,
            |&position| hasher.hash_one(key_at(changes, position)),
        );
        match entry {
            Entry::Occupied(entry) => {
                if let Some(change) = changes.get_mut(*entry.get() as usize) {
                    change.1 = value;
                }
            }
            Entry::Vacant(entry) => {
                // The limit on written bytes keeps this far below 2³².
                entry.insert(changes.len() as u32);
                if let Some(ordered) = ordered {
                    ordered.insert(key.clone());
                }
                changes.push((key, value));
            }
        }
    }

    /// The writes in a range, in ascending order.
    fn range(&mut self, from: &[u8], to: Option<&[u8]>) -> Vec<(Bytes, Option<Bytes>)> {
        if self.changes.is_empty() {
            return Vec::new();
        }
        let changes = &self.changes;
        let ordered = self
            .ordered
            .get_or_insert_with(|| changes.iter().map(|(key, _)| key.clone()).collect());
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let keys: Vec<Bytes> = ordered
            .range::<[u8], _>((Bound::Included(from), to))
            .cloned()
            .collect();
        keys.into_iter()
            .map(|key| {
                let value = self.get(&key).cloned().flatten();
                (key, value)
            })
            .collect()
    }

    fn take(&mut self) -> StateChanges {
        self.positions.clear();
        self.ordered = None;
        self.written_bytes = 0;
        std::mem::take(&mut self.changes)
    }
}

fn key_at(changes: &StateChanges, position: u32) -> &[u8] {
    changes.get(position as usize).map_or(&[], |(key, _)| key)
}

/// A column of values for the guest.
struct Column {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    limits: StateLimits,
}

impl Column {
    fn new(len: usize, limits: StateLimits) -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(len),
            limits,
        }
    }

    fn push(&mut self, value: &[u8]) -> wasmtime::Result<()> {
        let end = self.bytes.len() + value.len();
        // A guest's memory has at most 4 GiB.
        let read_bytes = self.limits.read_bytes;
        let Some(end) = u32::try_from(end).ok().filter(|_| end <= read_bytes) else {
            return Err(self.limits.read_too_much());
        };
        self.bytes.extend_from_slice(value);
        self.ends.push(end);
        Ok(())
    }
}

impl Host for HostState {
    fn get(&mut self, key: Vec<u8>) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.state.get(&key)?.map(Vec::from))
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> wasmtime::Result<()> {
        self.state.write(key.into(), Some(value.into()))
    }

    fn delete(&mut self, key: Vec<u8>) -> wasmtime::Result<()> {
        self.state.write(key.into(), None)
    }

    fn get_many(&mut self, keys: Vec<u8>, key_ends: Vec<u32>) -> wasmtime::Result<Found> {
        let keys = split("state", "key", keys, &key_ends)?;
        let mut values = Column::new(keys.len(), self.state.limits);
        let mut missing = Vec::new();
        for (index, key) in (0..).zip(keys) {
            let value = self.state.get(&key)?;
            if value.is_none() {
                missing.push(index);
            }
            values.push(&value.unwrap_or_default())?;
        }
        Ok(Found {
            values: values.bytes,
            value_ends: values.ends,
            missing,
        })
    }

    fn put_many(
        &mut self,
        keys: Vec<u8>,
        key_ends: Vec<u32>,
        values: Vec<u8>,
        value_ends: Vec<u32>,
    ) -> wasmtime::Result<()> {
        if key_ends.len() != value_ends.len() {
            return Err(HostFault::argument(format!(
                "it called `state.put-many` with {} keys and {} values",
                key_ends.len(),
                value_ends.len()
            )));
        }
        let keys = split("state", "key", keys, &key_ends)?;
        let values = split("state", "value", values, &value_ends)?;
        for (key, value) in keys.into_iter().zip(values) {
            self.state.write(key, Some(value))?;
        }
        Ok(())
    }

    fn delete_many(&mut self, keys: Vec<u8>, key_ends: Vec<u32>) -> wasmtime::Result<()> {
        for key in split("state", "key", keys, &key_ends)? {
            self.state.write(key, None)?;
        }
        Ok(())
    }

    fn range(
        &mut self,
        from: Vec<u8>,
        to: Option<Vec<u8>>,
        limit: u32,
    ) -> wasmtime::Result<Entries> {
        if limit > MAX_RANGE_ENTRIES {
            return Err(HostFault::argument(format!(
                "it called `state.range` with a limit of {limit}, at most {MAX_RANGE_ENTRIES} is allowed"
            )));
        }
        let entries = self.state.range(&from, to.as_deref(), limit as usize)?;
        let limits = self.state.limits;
        let mut keys = Column::new(entries.len(), limits);
        let mut values = Column::new(entries.len(), limits);
        for (key, value) in entries {
            keys.push(&key)?;
            values.push(&value)?;
        }
        Ok(Entries {
            keys: keys.bytes,
            key_ends: keys.ends,
            values: values.bytes,
            value_ends: values.ends,
        })
    }
}

#[cfg(test)]
mod tests;
