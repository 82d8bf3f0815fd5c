//! What a plugin read of its state, as far as that says what the state was.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::MAX_RECORDING_BYTES;

/// What an entry takes besides its key and value, in bytes, at most.
const ENTRY_BYTES: usize = 16;

/// The part of a task's state that a call has read. It does not change during a call, so that one value
/// for each key says it all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateReads {
    /// Keys that were read, one by one or in a range; no value: there was none.
    pub(super) values: BTreeMap<Bytes, Option<Bytes>>,
    /// Ranges of which every key that has a value is in `values`.
    pub(super) ranges: Vec<KnownRange>,
    size_bytes: usize,
}

/// Keys from `from` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plugin) struct KnownRange {
    pub(super) from: Bytes,
    pub(super) end: RangeEnd,
}

/// How far a known range goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plugin) enum RangeEnd {
    /// Over all keys.
    Open,
    /// Up to this key, which is not in it.
    Before(Bytes),
    /// Up to this key, which is in it.
    Through(Bytes),
}

impl StateReads {
    /// Notes the value of a key.
    pub fn note_value(&mut self, key: &[u8], value: Option<&Bytes>) {
        if self.is_too_large() || self.values.contains_key(key) {
            return;
        }
        self.size_bytes += key.len() + value.map_or(0, Bytes::len) + ENTRY_BYTES;
        // A copy: what was read may be a part of something much larger.
        let own = Bytes::copy_from_slice;
        self.values.insert(own(key), value.map(|value| own(value)));
    }

    /// Notes what a range query found: all that there is from `from` to `to` if it `is_whole`, otherwise all
    /// up to the last entry.
    pub fn note_range(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
        is_whole: bool,
        entries: &[(Bytes, Bytes)],
    ) {
        for (key, value) in entries {
            self.note_value(key, Some(value));
        }
        let end = match (is_whole, to, entries.last()) {
            (true, None, _) => RangeEnd::Open,
            (true, Some(to), _) => RangeEnd::Before(Bytes::copy_from_slice(to)),
            (false, _, Some((last, _))) => RangeEnd::Through(Bytes::copy_from_slice(last)),
            (false, _, None) => return,
        };
        if self.is_too_large() {
            return;
        }
        let from = Bytes::copy_from_slice(from);
        let range = KnownRange { from, end };
        self.size_bytes += range.size_bytes();
        self.ranges.push(range);
    }

    /// Whether more was read than a recording holds. Then what is noted is not all.
    pub fn is_too_large(&self) -> bool {
        self.size_bytes > MAX_RECORDING_BYTES
    }

    /// How many keys were read, and how many of them had a value.
    pub fn key_counts(&self) -> (usize, usize) {
        let with_value = self.values.values().filter(|value| value.is_some());
        (self.values.len(), with_value.count())
    }

    /// What was read of a key; none if it is not known.
    pub fn value(&self, key: &[u8]) -> Option<Option<Bytes>> {
        if let Some(value) = self.values.get(key) {
            return Some(value.clone());
        }
        let mut ranges = self.ranges.iter();
        ranges.any(|range| range.contains(key)).then_some(None)
    }

    /// The entries that are known with `from <= key`, and `key < to` if that is given: at most
    /// `max_entries`, and none after `max_bytes` of keys and values are passed. And whether these are all
    /// that there were.
    pub fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        max_entries: usize,
        max_bytes: usize,
    ) -> (Vec<(Bytes, Bytes)>, bool) {
        let mut entries = Vec::new();
        if max_entries == 0 || to.is_some_and(|to| to <= from) {
            return (entries, true);
        }
        let bounds = (
            Bound::Included(from),
            to.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let mut bytes = 0;
        for (key, value) in self.values.range::<[u8], _>(bounds) {
            let Some(value) = value else { continue };
            if entries.len() == max_entries || bytes > max_bytes {
                break;
            }
            bytes += key.len() + value.len();
            entries.push((key.clone(), value.clone()));
        }
        let is_full = entries.len() == max_entries || bytes > max_bytes;
        let last = entries.last().filter(|_| is_full);
        let is_known = self.ranges.iter().any(|range| {
            *range.from <= *from
                && match last {
                    Some((last, _)) => range.contains(last),
                    None => range.reaches(to),
                }
        });
        (entries, is_known)
    }

    /// Takes over what is known already, when it is read.
    pub(super) fn from_parts(
        values: BTreeMap<Bytes, Option<Bytes>>,
        ranges: Vec<KnownRange>,
    ) -> Self {
        let values_bytes = values
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES);
        let ranges_bytes = ranges.iter().map(KnownRange::size_bytes);
        Self {
            size_bytes: values_bytes.sum::<usize>() + ranges_bytes.sum::<usize>(),
            values,
            ranges,
        }
    }
}

impl KnownRange {
    fn size_bytes(&self) -> usize {
        let end_bytes = match &self.end {
            RangeEnd::Open => 0,
            RangeEnd::Before(end) | RangeEnd::Through(end) => end.len(),
        };
        self.from.len() + end_bytes + 2 * ENTRY_BYTES
    }

    fn contains(&self, key: &[u8]) -> bool {
        *self.from <= *key
            && match &self.end {
                RangeEnd::Open => true,
                RangeEnd::Before(end) => *key < **end,
                RangeEnd::Through(end) => *key <= **end,
            }
    }

    /// Whether it has every key before `to`, or every key if that is not given.
    fn reaches(&self, to: Option<&[u8]>) -> bool {
        match (&self.end, to) {
            (RangeEnd::Open, _) => true,
            (_, None) => false,
            (RangeEnd::Before(end) | RangeEnd::Through(end), Some(to)) => *to <= **end,
        }
    }
}
