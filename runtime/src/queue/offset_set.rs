//! A set of offsets, as bitmaps of 1,024: a long run costs an eighth of a byte for each offset, and
//! the worst case (one offset in a chunk) some 150 bytes.

use std::collections::BTreeMap;

use super::visits::Visits;
use crate::storage::schema::positions::{CHUNK_MESSAGES, Positions};

/// The chunk that an offset lies in, and its position there.
pub(super) fn place(offset: u64) -> (u64, usize) {
    // Below 1,024.
    (offset / CHUNK_MESSAGES, (offset % CHUNK_MESSAGES) as usize)
}

/// The offset at a position of a chunk.
pub(super) fn offset_at(chunk: u64, position: usize) -> u64 {
    chunk * CHUNK_MESSAGES + position as u64
}

/// A set of offsets.
#[derive(Debug, Default)]
pub(super) struct OffsetSet {
    chunks: BTreeMap<u64, Box<Positions>>,
    visits: Visits,
}

impl OffsetSet {
    /// Adds the offsets `from <= offset < to`, whether they are in it or not.
    pub(super) fn insert_range(&mut self, from: u64, to: u64) {
        let mut at = from;
        while at < to {
            let (chunk, position) = place(at);
            let end = to.min(offset_at(chunk + 1, 0));
            let count = (end - at) as usize;
            self.visits.note();
            self.chunks
                .entry(chunk)
                .or_default()
                .insert_range(position, position + count);
            at = end;
        }
    }

    /// Removes an offset; `false` if it was not there.
    pub(super) fn remove(&mut self, offset: u64) -> bool {
        let (chunk, position) = place(offset);
        self.visits.note();
        let Some(positions) = self.chunks.get_mut(&chunk) else {
            return false;
        };
        if !positions.remove(position) {
            return false;
        }
        if positions.is_empty() {
            self.chunks.remove(&chunk);
        }
        true
    }

    /// The first offset.
    pub(super) fn first(&self) -> Option<u64> {
        self.visits.note();
        let (chunk, positions) = self.chunks.first_key_value()?;
        Some(offset_at(*chunk, positions.first_from(0)?))
    }

    /// Whether an offset is in the set.
    pub(super) fn contains(&self, offset: u64) -> bool {
        let (chunk, position) = place(offset);
        self.visits.note();
        self.chunks
            .get(&chunk)
            .is_some_and(|positions| positions.contains(position))
    }

    #[cfg(test)]
    pub(super) fn visit_count(&self) -> u64 {
        self.visits.count()
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_set(steps in proptest::collection::vec((any::<bool>(), 0..5_000_u64), 1..200), start in 5_000..6_000_u64, len in 0..4_000_u64) {
            let (mut set, mut model) = (OffsetSet::default(), BTreeSet::new());
            set.insert_range(start, start + len);
            model.extend(start..start + len);
            for (insert, offset) in steps {
                if insert {
                    set.insert_range(offset, offset + 1);
                    model.insert(offset);
                } else {
                    prop_assert_eq!(set.remove(offset), model.remove(&offset));
                }
                prop_assert_eq!(set.contains(offset), model.contains(&offset));
                prop_assert_eq!(set.first(), model.first().copied());
            }
            while let Some(first) = set.first() {
                prop_assert!(set.remove(first));
                prop_assert_eq!(model.pop_first(), Some(first));
            }
            prop_assert!(model.is_empty() && set.chunks.is_empty());
        }
    }
}
