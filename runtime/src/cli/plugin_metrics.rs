//! The metrics that plugins keep of their own, as `run` shows them at its end.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::PipelineName;
use crate::pipeline::Pipelines;
use crate::plugin::MetricValue;

/// One metric of one pipeline's plugin.
#[derive(Debug, Serialize)]
pub(super) struct PluginMetric {
    pipeline: PipelineName,
    name: String,
    #[serde(flatten)]
    value: Value,
}

/// The metrics of all plugins, by pipeline and name.
pub(super) fn of(pipelines: &Pipelines) -> Vec<PluginMetric> {
    let mut all = Vec::new();
    for (pipeline, metrics) in pipelines.plugin_metrics() {
        for (name, value) in metrics {
            let pipeline = pipeline.clone();
            let value = as_json(&value);
            all.push(PluginMetric {
                pipeline,
                name,
                value,
            });
        }
    }
    all
}

fn as_json(value: &MetricValue) -> Value {
    match value {
        MetricValue::Counter(sum) => json!({ "counter": sum }),
        MetricValue::Gauge(last) => json!({ "gauge": last }),
        MetricValue::Histogram {
            count,
            min,
            p50,
            p99,
            max,
            mean,
            counts: _,
        } => json!({ "histogram": {
            "count": count, "min": min, "p50": p50, "p99": p99, "max": max, "mean": mean,
        } }),
    }
}

impl fmt::Display for PluginMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metric {} {} {}", self.pipeline, self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_one_line_and_one_object() {
        let metric = PluginMetric {
            pipeline: PipelineName::try_from("p").unwrap(),
            name: "seen".into(),
            value: as_json(&MetricValue::Counter(3)),
        };
        assert_eq!(metric.to_string(), r#"metric p seen {"counter":3}"#);
        assert_eq!(
            serde_json::to_string(&metric).unwrap(),
            r#"{"pipeline":"p","name":"seen","counter":3}"#
        );
    }
}
