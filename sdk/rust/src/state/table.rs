//! The hash table behind [`State`](super::State): slots in a list, their places in an index.
//!
//! Slots have fixed numbers, so that the lists of changes and of what to take back are lists of
//! numbers and no key is copied. Slots leave only by [`Table::retain`], which rebuilds the index.

/// One key, as far as it is known in the instance.
pub(super) struct Slot {
    pub(super) key: Box<[u8]>,
    /// `None`: the key has no value.
    pub(super) value: Option<Vec<u8>>,
    /// Whether `value` is what the host or the plugin says; if not, the host is yet to be asked.
    pub(super) known: bool,
    /// Changed since the last flush.
    pub(super) dirty: bool,
    /// Used since the last eviction passed by.
    pub(super) used: bool,
    /// Number of the record that changed it last.
    pub(super) changed_by: u64,
}

impl Slot {
    /// What the slot takes in memory, roughly: key, value and administration.
    pub(super) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.value.as_ref().map_or(0, Vec::capacity)
    }
}

const EMPTY: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    /// Slot numbers by hash, open addressing with linear probing; a power of two long and never
    /// more than half full.
    index: Vec<u32>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    #[inline]
    pub(super) fn slot(&self, number: u32) -> &Slot {
        &self.slots[number as usize]
    }

    #[inline]
    pub(super) fn slot_mut(&mut self, number: u32) -> &mut Slot {
        &mut self.slots[number as usize]
    }

    /// The number of the key's slot.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<u32> {
        if self.index.is_empty() {
            return None;
        }
        let mask = self.index.len() - 1;
        let mut place = hash(key) as usize & mask;
        loop {
            match self.index[place] {
                EMPTY => return None,
                number if *self.slots[number as usize].key == *key => return Some(number),
                _ => place = (place + 1) & mask,
            }
        }
    }

    /// Adds a slot for a key that has none, its value not known; returns its number.
    pub(super) fn insert(&mut self, key: &[u8]) -> u32 {
        if (self.slots.len() + 1) * 2 > self.index.len() {
            self.rebuild((self.slots.len() + 1) * 4);
        }
        let number = self.slots.len() as u32;
        self.slots.push(Slot {
            key: key.into(),
            value: None,
            known: false,
            dirty: false,
            used: true,
            changed_by: 0,
        });
        self.place(number);
        number
    }

    /// Keeps the slots that `keep` wants. Slot numbers change.
    pub(super) fn retain(&mut self, keep: impl FnMut(&mut Slot) -> bool) {
        self.slots.retain_mut(keep);
        self.rebuild(self.slots.len() * 4);
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.index.fill(EMPTY);
    }

    fn rebuild(&mut self, capacity: usize) {
        self.index.clear();
        self.index
            .resize(capacity.max(16).next_power_of_two(), EMPTY);
        for number in 0..self.slots.len() as u32 {
            self.place(number);
        }
    }

    fn place(&mut self, number: u32) {
        let mask = self.index.len() - 1;
        let mut place = hash(&self.slots[number as usize].key) as usize & mask;
        while self.index[place] != EMPTY {
            place = (place + 1) & mask;
        }
        self.index[place] = number;
    }
}

/// Multiply-and-fold over eight bytes at a time. Not keyed: std's keyed hash would make every
/// plugin import `wasi:random`. Keys made to collide slow their own pipeline, up to its deadline.
#[inline]
fn hash(key: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64, word: u64| (state ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let mut state = key.len() as u64;
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        state = mix(state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    state = mix(state, u64::from_le_bytes(last));
    state = (state ^ (state >> 32)).wrapping_mul(FACTOR);
    state ^ (state >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_inserted_and_nothing_else() {
        let mut table = Table::default();
        assert_eq!(table.find(b"a"), None);
        for number in 0..10_000u32 {
            let key = format!("key-{number}");
            assert_eq!(table.insert(key.as_bytes()), number);
        }
        for number in 0..10_000u32 {
            assert_eq!(table.find(format!("key-{number}").as_bytes()), Some(number));
        }
        assert_eq!(table.find(b"key-10000"), None);
        assert_eq!(table.find(b""), None);
    }

    #[test]
    fn retain_keeps_the_index_right() {
        let mut table = Table::default();
        for number in 0..1_000u32 {
            table.insert(&number.to_le_bytes());
        }
        table.retain(|slot| slot.key[0] % 2 == 0);
        for number in 0..1_000u32 {
            let found = table.find(&number.to_le_bytes());
            assert_eq!(found.is_some(), number % 2 == 0);
        }
        table.clear();
        assert_eq!((table.len(), table.find(&0u32.to_le_bytes())), (0, None));
    }

    #[test]
    fn hashes_spread_over_low_bits() {
        let mut buckets = [0u32; 64];
        for number in 0..6_400u64 {
            buckets[hash(&(number * 64).to_be_bytes()) as usize & 63] += 1;
        }
        assert!(
            buckets.iter().all(|&count| (50..150).contains(&count)),
            "{buckets:?}"
        );
    }
}
