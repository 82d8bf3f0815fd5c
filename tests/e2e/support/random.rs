//! Random numbers that can be had again: SplitMix64 from a seed.
//!
//! The seed is the time, and printed; `MILLSTREAM_SEED=N` gives the same numbers again.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::note;

/// The variable that sets the seed.
const SEED: &str = "MILLSTREAM_SEED";

/// A source of random numbers.
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// From `MILLSTREAM_SEED`, or from the time; says which.
    pub fn from_environment() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("{SEED}={text}: expected a whole number")),
            Err(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64,
        };
        note(format_args!("seed: {SEED}={seed}"));
        Self::from_seed(seed)
    }

    /// From a seed, for data that is the same in every run.
    pub fn from_seed(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// What it began with.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of the range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// A duration of a range of ms, to the microsecond.
    pub fn within_ms(&mut self, range_ms: Range<u64>) -> Duration {
        Duration::from_micros(self.within(range_ms.start * 1000..range_ms.end * 1000))
    }
}
