//! Counts values by size, for metrics: a few atomic additions for each value, and no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts values by size.
#[derive(Debug)]
pub struct Histogram<const BOUNDS: usize> {
    bounds: &'static [u64; BOUNDS],
    counts: [AtomicU64; BOUNDS],
    /// Values larger than all bounds.
    beyond: AtomicU64,
    sum: AtomicU64,
}

/// What a histogram has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramCounts {
    /// Bounds, and how many values are at most that large, and larger than the bound before. The last bound is
    /// [`u64::MAX`].
    pub buckets: Vec<(u64, u64)>,
    /// All values together.
    pub sum: u64,
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    /// Counts by these bounds, which ascend.
    pub const fn new(bounds: &'static [u64; BOUNDS]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; BOUNDS],
            beyond: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a value.
    #[inline]
    pub fn note(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        let bucket = self.counts.get(bucket).unwrap_or(&self.beyond);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What it has counted.
    pub fn counts(&self) -> HistogramCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bounded = self
            .bounds
            .iter()
            .copied()
            .zip(self.counts.iter().map(read));
        HistogramCounts {
            buckets: bounded.chain([(u64::MAX, read(&self.beyond))]).collect(),
            sum: read(&self.sum),
        }
    }
}

impl HistogramCounts {
    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 20, 21, 1_000] {
            histogram.note(value);
        }
        let counts = histogram.counts();
        assert_eq!(counts.buckets, [(10, 2), (20, 2), (u64::MAX, 2)]);
        assert_eq!((counts.count(), counts.sum), (6, 1_062));
    }
}
