//! What plugins count of their own. Their names are theirs, so they are a label.

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;

use super::encoder::{Encoder, Values};
use crate::model::{HistogramCounts, PipelineName};
use crate::plugin::MetricValue;

#[derive(Clone, Debug, PartialEq, EncodeLabelSet)]
struct Labels {
    pipeline: String,
    name: String,
}

/// The metrics of all plugins, by kind.
#[derive(Debug, Default)]
pub(super) struct OfPlugins {
    counters: Values<Labels>,
    gauges: Values<Labels>,
    histograms: Vec<(Labels, HistogramCounts)>,
}

impl OfPlugins {
    pub(super) fn new(by_pipeline: Vec<(PipelineName, Vec<(String, MetricValue)>)>) -> Self {
        let mut of = Self::default();
        for (pipeline, metrics) in by_pipeline {
            for (name, value) in metrics {
                let labels = Labels {
                    pipeline: pipeline.to_string(),
                    name,
                };
                match value {
                    MetricValue::Counter(sum) => of.counters.push((labels, sum as f64)),
                    MetricValue::Gauge(value) => of.gauges.push((labels, value)),
                    MetricValue::Histogram { counts, .. } => of.histograms.push((labels, counts)),
                }
            }
        }
        of
    }

    pub(super) fn encode(&self, encoder: &mut Encoder<'_, '_>) -> fmt::Result {
        encoder.counters(
            "millstream_plugin_custom_counter",
            "Counter of the plugin's own, since the server started",
            &self.counters,
        )?;
        encoder.gauges(
            "millstream_plugin_custom_gauge",
            "Gauge of the plugin's own",
            &self.gauges,
        )?;
        encoder.histograms(
            "millstream_plugin_custom_histogram",
            "Histogram of the plugin's own, in the plugin's unit, since the server started",
            &self.histograms,
        )
    }
}
