//! Records made up, the same in every run.

/// A small, fast generator of numbers that are random enough for test data (SplitMix64).
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Bytes of every key.
pub(super) const KEY_BYTES: usize = 16;
/// How many different keys there are.
const KEYS: u64 = 10_000;

/// Makes records: keys of [`KEY_BYTES`] bytes, values of lower-case letters.
#[derive(Debug, Clone)]
pub(super) struct Records {
    random: Random,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Records {
    /// Records with values of `value_bytes` bytes. The same `seed` makes the same records.
    pub(super) fn new(value_bytes: usize, seed: u64) -> Self {
        Self {
            random: Random(seed),
            key: vec![0; KEY_BYTES],
            value: vec![0; value_bytes],
        }
    }

    /// The next key and value.
    pub(super) fn next(&mut self) -> (&[u8], &[u8]) {
        let mut number = self.random.next() % KEYS;
        self.key.copy_from_slice(b"key-000000000000");
        for digit in self.key.iter_mut().rev() {
            if number == 0 {
                break;
            }
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        for chunk in self.value.chunks_mut(8) {
            let letters = self.random.next().to_le_bytes();
            for (byte, letter) in chunk.iter_mut().zip(letters) {
                *byte = b'a' + letter % 26;
            }
        }
        (&self.key, &self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_the_same_in_every_run() {
        let (mut a, mut b, mut other) = (
            Records::new(100, 7),
            Records::new(100, 7),
            Records::new(100, 8),
        );
        for _ in 0..100 {
            let (key, value) = a.next();
            assert_eq!((key, value), b.next());
            assert_ne!(value, other.next().1);
            assert_eq!((key.len(), value.len()), (KEY_BYTES, 100));
            assert!(key.is_ascii() && value.iter().all(u8::is_ascii_lowercase));
        }
    }

    #[test]
    fn half_of_the_values_begin_with_an_even_byte() {
        let mut records = Records::new(10, 1);
        let even = (0..1000)
            .filter(|_| records.next().1[0].is_multiple_of(2))
            .count();
        assert!((400..600).contains(&even), "{even}");
    }
}
