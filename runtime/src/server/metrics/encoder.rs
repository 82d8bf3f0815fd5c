//! Writes metrics of each kind.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::model::HistogramCounts;

/// A value with its labels.
pub(super) type Values<L> = Vec<(L, f64)>;

/// Writes metrics.
pub(super) struct Encoder<'a, 'b>(pub(super) &'a mut DescriptorEncoder<'b>);

impl Encoder<'_, '_> {
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    pub(super) fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: &[(L, f64)],
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(())
    }

    /// `name` is without its `_total`.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// `name` is without its `_total`.
    pub(super) fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: &[(L, f64)],
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let mut metric = metric.encode_family(labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }

    /// A histogram of values of which one is `1 / scale`.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        counts: &HistogramCounts,
        scale: f64,
    ) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(
                counts.sum as f64 / scale,
                counts.count(),
                &buckets(counts, scale),
                None,
            )
    }

    pub(super) fn histograms<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        histograms: &[(L, HistogramCounts)],
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, counts) in histograms {
            metric
                .encode_family(labels)?
                .encode_histogram::<NoLabelSet>(
                    counts.sum as f64,
                    counts.count(),
                    &buckets(counts, 1.0),
                    None,
                )?;
        }
        Ok(())
    }
}

fn buckets(counts: &HistogramCounts, scale: f64) -> Vec<(f64, u64)> {
    let bound = |bound: u64| match bound {
        u64::MAX => f64::INFINITY,
        bound => bound as f64 / scale,
    };
    let buckets = counts.buckets.iter();
    buckets.map(|(at, count)| (bound(*at), *count)).collect()
}
