//! `millstream:plugin/metrics`: counters, gauges and histograms of the plugin's own.
//!
//! One registry serves all instances of a pipeline, so that what its partitions count adds up. It
//! is read by whoever shows metrics, at any time.

use std::collections::BTreeMap;

use hdrhistogram::Histogram as Quantiles;
use parking_lot::Mutex;

use super::{HostState, bindings::millstream::plugin::metrics::Host};
use crate::model::{Histogram, HistogramCounts};

/// Most names a plugin may use.
pub const MAX_METRIC_NAMES: usize = 100;
/// Longest name, in bytes.
const MAX_METRIC_NAME_BYTES: usize = 128;
/// Up to where the values of a histogram are counted: the powers of two to that of a trillion, which in nanoseconds is a
/// quarter of an hour.
static BOUNDS: [u64; 41] = powers_of_two();

const fn powers_of_two() -> [u64; 41] {
    let mut bounds = [1; 41];
    let mut exponent = 1;
    while exponent < bounds.len() {
        bounds[exponent] = bounds[exponent - 1] * 2;
        exponent += 1;
    }
    bounds
}

/// The metrics of a pipeline's plugin.
#[derive(Debug, Default)]
pub struct PluginMetrics {
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    metrics: BTreeMap<String, Metric>,
    /// Calls that had no effect.
    refused: u64,
}

#[derive(Debug)]
enum Metric {
    Counter(u64),
    Gauge(f64),
    Histogram(Box<Recorded>),
}

/// What a histogram has been told.
#[derive(Debug)]
struct Recorded {
    quantiles: Quantiles<u64>,
    counts: Histogram<41>,
    sum: u64,
}

impl Recorded {
    fn new() -> Option<Self> {
        Some(Self {
            // Two digits keep it at some 20 KiB whatever its values.
            quantiles: Quantiles::new(2).ok()?,
            counts: Histogram::new(&BOUNDS),
            sum: 0,
        })
    }

    fn record(&mut self, value: u64) -> bool {
        // A sum that begins again at 0 would be taken for a restart.
        let has_room = self.sum.checked_add(value).is_some();
        let is_recorded = has_room && self.quantiles.record(value).is_ok();
        if is_recorded {
            self.sum += value;
            self.counts.note(value);
        }
        is_recorded
    }
}

/// A metric's value at one time.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricValue {
    /// A sum.
    Counter(u64),
    /// The last value.
    Gauge(f64),
    /// Values, with two significant digits.
    Histogram {
        /// How many.
        count: u64,
        /// The least.
        min: u64,
        /// Half of them are at most this.
        p50: u64,
        /// 99 % of them are at most this.
        p99: u64,
        /// The greatest.
        max: u64,
        /// Their mean.
        mean: f64,
        /// How many are at most each power of two, up to 2^40.
        counts: HistogramCounts,
    },
}

impl PluginMetrics {
    /// No metrics yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All metrics by name, in order.
    pub fn snapshot(&self) -> Vec<(String, MetricValue)> {
        let registry = self.registry.lock();
        registry
            .metrics
            .iter()
            .map(|(name, metric)| (name.clone(), metric.value()))
            .collect()
    }

    /// Updates a metric, which `create` makes if it is new. Returns whether this is the first call
    /// that was refused.
    fn update(
        &self,
        name: &str,
        create: impl FnOnce() -> Option<Metric>,
        apply: impl FnOnce(&mut Metric) -> bool,
    ) -> bool {
        let mut registry = self.registry.lock();
        if let Some(metric) = registry.metrics.get_mut(name) {
            return !apply(metric) && registry.refuse();
        }
        let is_room = registry.metrics.len() < MAX_METRIC_NAMES;
        let is_name = !name.is_empty() && name.len() <= MAX_METRIC_NAME_BYTES;
        let metric = if is_room && is_name { create() } else { None };
        let Some(mut metric) = metric else {
            return registry.refuse();
        };
        apply(&mut metric);
        registry.metrics.insert(name.to_owned(), metric);
        false
    }
}

impl Registry {
    /// Counts a call without effect. Returns whether it is the first.
    fn refuse(&mut self) -> bool {
        self.refused += 1;
        self.refused == 1
    }
}

impl Metric {
    fn value(&self) -> MetricValue {
        match self {
            Self::Counter(sum) => MetricValue::Counter(*sum),
            Self::Gauge(value) => MetricValue::Gauge(*value),
            Self::Histogram(recorded) => {
                let Recorded {
                    quantiles, counts, ..
                } = &**recorded;
                MetricValue::Histogram {
                    count: quantiles.len(),
                    min: quantiles.min(),
                    p50: quantiles.value_at_quantile(0.5),
                    p99: quantiles.value_at_quantile(0.99),
                    max: quantiles.max(),
                    mean: quantiles.mean(),
                    counts: counts.counts(),
                }
            }
        }
    }
}

impl HostState {
    fn warn_refused(&self, name: &str, is_first: bool) {
        if is_first {
            tracing::warn!(
                target: "millstream::plugin",
                pipeline = %self.context.pipeline,
                partition = self.context.partition,
                metric = name,
                "the plugin's metric has no effect: a plugin has at most {MAX_METRIC_NAMES} names of \
                 1 to {MAX_METRIC_NAME_BYTES} bytes, each a counter, a gauge or a histogram",
            );
        }
    }
}

impl Host for HostState {
    fn add(&mut self, name: String, amount: u64) -> wasmtime::Result<()> {
        let is_first = self.metrics.update(
            &name,
            || Some(Metric::Counter(0)),
            |metric| {
                let Metric::Counter(sum) = metric else {
                    return false;
                };
                *sum = sum.saturating_add(amount);
                true
            },
        );
        self.warn_refused(&name, is_first);
        Ok(())
    }

    fn gauge(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        let is_first = self.metrics.update(
            &name,
            || Some(Metric::Gauge(0.0)),
            |metric| {
                let Metric::Gauge(current) = metric else {
                    return false;
                };
                *current = value;
                true
            },
        );
        self.warn_refused(&name, is_first);
        Ok(())
    }

    fn record_value(&mut self, name: String, value: u64) -> wasmtime::Result<()> {
        let create = || Some(Metric::Histogram(Box::new(Recorded::new()?)));
        let is_first = self.metrics.update(&name, create, |metric| {
            let Metric::Histogram(recorded) = metric else {
                return false;
            };
            recorded.record(value)
        });
        self.warn_refused(&name, is_first);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(metrics: &PluginMetrics, name: &str) -> bool {
        metrics.update(
            name,
            || Some(Metric::Counter(0)),
            |metric| {
                let Metric::Counter(sum) = metric else {
                    return false;
                };
                *sum += 1;
                true
            },
        )
    }

    #[test]
    fn names_are_limited() {
        let metrics = PluginMetrics::new();
        for i in 0..MAX_METRIC_NAMES {
            assert!(!count(&metrics, &format!("m{i:03}")));
        }
        // Only the first refusal is worth a line in the log.
        assert!(count(&metrics, "one-more"));
        assert!(!count(&metrics, "and-another"));
        assert!(!count(&metrics, "m000"));
        assert_eq!(metrics.registry.lock().refused, 2);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.len(), MAX_METRIC_NAMES);
        assert_eq!(
            snapshot.first(),
            Some(&("m000".to_owned(), MetricValue::Counter(2)))
        );
    }

    #[test]
    fn a_name_keeps_its_kind() {
        let metrics = PluginMetrics::new();
        metrics.update("g", || Some(Metric::Gauge(1.5)), |_| true);
        assert!(count(&metrics, "g"));
        assert_eq!(
            metrics.snapshot(),
            [("g".to_owned(), MetricValue::Gauge(1.5))]
        );
    }
}
