//! Latencies, as a histogram.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart; longer ones count as this.
const MAX_NS: u64 = 60 * 1_000_000_000;

/// Collects latencies to three significant digits.
#[derive(Debug, Clone)]
pub(super) struct LatencyRecorder(Histogram<u64>);

impl LatencyRecorder {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, MAX_NS, 3)?))
    }

    /// Counts one latency.
    pub(super) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(ns.max(1));
    }

    /// Counts what another one has counted.
    pub(super) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// What is reported.
    pub(super) fn summary(&self) -> Latency {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1_000.0;
        Latency {
            count: self.0.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max() as f64 / 1_000.0,
        }
    }
}

/// A distribution of latencies, in µs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Latency {
    pub(super) count: u64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
}

impl Latency {
    /// `p50 / p99 / p99.9 / max` for a table, each with a unit that fits.
    pub(super) fn cell(&self) -> String {
        let Self {
            p50_us,
            p99_us,
            p999_us,
            max_us,
            ..
        } = *self;
        [p50_us, p99_us, p999_us, max_us].map(duration).join(" / ")
    }
}

fn duration(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.1} µs"),
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 10_000.0 => format!("{:.1} ms", us / 1_000.0),
        us => format!("{:.0} ms", us / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut recorder = LatencyRecorder::new().unwrap();
        for ms in 1..=1000 {
            recorder.record(Duration::from_millis(ms));
        }
        let latency = recorder.summary();
        assert_eq!(latency.count, 1000);
        let is_near = |us: f64, ms: f64| (us / 1_000.0 - ms).abs() / ms < 0.002;
        assert!(is_near(latency.p50_us, 500.0) && is_near(latency.p99_us, 990.0));
        assert!(is_near(latency.p999_us, 999.0) && is_near(latency.max_us, 1000.0));
        recorder.record(Duration::from_secs(600));
        assert!(is_near(recorder.summary().max_us, 60_000.0));
    }

    #[test]
    fn cells_have_units_that_fit() {
        assert_eq!(duration(1.24), "1.2 µs");
        assert_eq!(duration(412.0), "412 µs");
        assert_eq!(duration(4_120.0), "4.1 ms");
        assert_eq!(duration(41_200.0), "41 ms");
    }
}
