//! A set of positions in a chunk of 1,024 messages, and how it is stored.
//!
//! | first byte | the rest | meaning |
//! |---|---|---|
//! | 0 | | no position |
//! | 1 to 31 | as many runs: first and last position, two big-endian `u16` | few runs, ascending |
//! | 254 | 128 bytes, position `i` is bit `i % 8` of byte `i / 8` | a bitmap |
//! | 255 | | all positions |

/// Messages in a chunk.
pub const CHUNK_MESSAGES: u64 = 1024;

const POSITIONS: usize = CHUNK_MESSAGES as usize;
const WORDS: usize = POSITIONS / 64;
const BITMAP: u8 = 254;
const ALL: u8 = 255;
/// More runs than these are longer than a bitmap.
const MAX_RUNS: usize = 31;

/// A set of positions, each below [`CHUNK_MESSAGES`]; others are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions([u64; WORDS]);

impl Positions {
    /// All positions.
    pub const ALL: Self = Self([u64::MAX; WORDS]);

    /// Adds a position; `false` if it was there.
    pub fn insert(&mut self, position: usize) -> bool {
        let Some(word) = self.0.get_mut(position / 64) else {
            return false;
        };
        let bit = 1 << (position % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Removes a position; `false` if it was not there.
    pub fn remove(&mut self, position: usize) -> bool {
        let Some(word) = self.0.get_mut(position / 64) else {
            return false;
        };
        let bit = 1 << (position % 64);
        let was_there = *word & bit != 0;
        *word &= !bit;
        was_there
    }

    /// Adds the positions `from <= position < to`.
    pub fn insert_range(&mut self, from: usize, to: usize) {
        let to = to.min(POSITIONS);
        for (index, word) in self.0.iter_mut().enumerate() {
            let start = from.clamp(index * 64, index * 64 + 64) - index * 64;
            let end = to.clamp(index * 64, index * 64 + 64) - index * 64;
            if start < end {
                *word |= (u64::MAX >> (64 - (end - start))) << start;
            }
        }
    }

    /// Whether a position is in the set.
    pub fn contains(&self, position: usize) -> bool {
        self.0
            .get(position / 64)
            .is_some_and(|word| word & (1 << (position % 64)) != 0)
    }

    /// How many positions there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether all are in the set.
    pub fn is_full(&self) -> bool {
        self.0.iter().all(|word| *word == u64::MAX)
    }

    /// The first position from `from` on.
    pub fn first_from(&self, from: usize) -> Option<usize> {
        let start = from / 64;
        for (index, word) in self.0.iter().enumerate().skip(start) {
            let word = if index == start {
                word & (u64::MAX << (from % 64))
            } else {
                *word
            };
            if word != 0 {
                return Some(index * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }

    /// The first position from `from` on that is not in the set.
    pub fn first_absent_from(&self, from: usize) -> Option<usize> {
        self.complement().first_from(from)
    }

    /// The positions that are not in the set.
    pub fn complement(&self) -> Self {
        Self(self.0.map(|word| !word))
    }

    /// Adds the positions of another set.
    pub fn union(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// Removes the positions of another set.
    pub fn subtract(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= !other;
        }
    }

    /// The positions, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let mut next = self.first_from(0);
        std::iter::from_fn(move || {
            let position = next?;
            next = self.first_from(position + 1);
            Some(position)
        })
    }

    /// Appends the stored form.
    pub fn encode(&self, into: &mut Vec<u8>) {
        if self.is_full() {
            return into.push(ALL);
        }
        let at = into.len();
        into.push(0);
        let mut next = self.first_from(0);
        let mut runs = 0;
        while let Some(first) = next {
            if runs == MAX_RUNS {
                into.truncate(at);
                return self.encode_bitmap(into);
            }
            let after = self.first_absent_from(first).unwrap_or(POSITIONS);
            for position in [first, after - 1] {
                // Below 1,024.
                into.extend_from_slice(&(position as u16).to_be_bytes());
            }
            runs += 1;
            next = self.first_from(after);
        }
        if let Some(count) = into.get_mut(at) {
            *count = runs as u8;
        }
    }

    fn encode_bitmap(&self, into: &mut Vec<u8>) {
        into.push(BITMAP);
        for word in self.0 {
            into.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Takes a stored set off the front of `bytes`; `None` if it is malformed.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        *bytes = rest;
        match *tag {
            ALL => Some(Self::ALL),
            BITMAP => {
                let (bitmap, rest) = rest.split_at_checked(WORDS * 8)?;
                *bytes = rest;
                let mut set = Self::default();
                for (word, stored) in set.0.iter_mut().zip(bitmap.chunks_exact(8)) {
                    *word = u64::from_le_bytes(stored.try_into().ok()?);
                }
                Some(set)
            }
            runs if usize::from(runs) <= MAX_RUNS => {
                let (runs, rest) = rest.split_at_checked(usize::from(runs) * 4)?;
                *bytes = rest;
                let mut set = Self::default();
                for run in runs.chunks_exact(4) {
                    let first = usize::from(u16::from_be_bytes([run[0], run[1]]));
                    let last = usize::from(u16::from_be_bytes([run[2], run[3]]));
                    if first > last || last >= POSITIONS {
                        return None;
                    }
                    set.insert_range(first, last + 1);
                }
                Some(set)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Sets of single positions and of runs.
    fn positions() -> impl Strategy<Value = BTreeSet<usize>> {
        let run = (0..POSITIONS, 1..200_usize)
            .prop_map(|(from, len)| (from..(from + len).min(POSITIONS)).collect::<Vec<_>>());
        let single = (0..POSITIONS).prop_map(|position| vec![position]);
        let all = Just((0..POSITIONS).collect::<Vec<_>>());
        proptest::collection::vec(prop_oneof![8 => single, 4 => run, 1 => all], 0..60)
            .prop_map(|parts| parts.into_iter().flatten().collect())
    }

    fn set(of: &BTreeSet<usize>) -> Positions {
        let mut set = Positions::default();
        for position in of {
            assert!(set.insert(*position));
        }
        set
    }

    proptest! {
        #[test]
        fn is_a_set(a in positions(), b in positions(), from in 0..POSITIONS) {
            let mut both = set(&a);
            prop_assert_eq!(both.len(), a.len());
            prop_assert_eq!(both.is_empty(), a.is_empty());
            prop_assert_eq!(both.is_full(), a.len() == POSITIONS);
            prop_assert_eq!(both.first_from(from), a.range(from..).next().copied());
            let absent = (from..POSITIONS).find(|position| !a.contains(position));
            prop_assert_eq!(both.first_absent_from(from), absent);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), a.clone());
            both.union(&set(&b));
            prop_assert_eq!(both, set(&(&a | &b)));
            both.subtract(&set(&b));
            prop_assert_eq!(both, set(&(&a - &b)));
            prop_assert_eq!(both.remove(from), (&a - &b).contains(&from));
            prop_assert!(!both.contains(from));
        }

        #[test]
        fn ranges_are_what_single_positions_are(from in 0..POSITIONS, to in 0..POSITIONS + 5) {
            let mut range = Positions::default();
            range.insert_range(from, to);
            prop_assert_eq!(range, set(&(from..to.min(POSITIONS)).collect()));
        }

        #[test]
        fn round_trip(of in positions()) {
            let mut bytes = Vec::new();
            set(&of).encode(&mut bytes);
            prop_assert!(bytes.len() <= 129);
            bytes.push(77);
            let mut rest = &bytes[..];
            prop_assert_eq!(Positions::decode(&mut rest), Some(set(&of)));
            prop_assert_eq!(rest, [77]);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..140)) {
            let _ = Positions::decode(&mut &bytes[..]);
        }
    }
}
