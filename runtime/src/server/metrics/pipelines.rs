//! What the pipelines tell.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::encoder::{Encoder, Values};
use crate::pipeline::{CALL_BUCKETS_NS, PipelineState, PipelineStatus};
use crate::plugin::Fault;

#[derive(Clone, Debug, EncodeLabelSet)]
struct PipelineLabels {
    pipeline: String,
    plugin: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct FaultLabels {
    pipeline: String,
    plugin: String,
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct StateLabels {
    pipeline: String,
    state: &'static str,
}

/// A metric of pipelines that is one number of each.
struct OfPipelines {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&PipelineStatus) -> f64,
}

const OF_PIPELINES: &[OfPipelines] = &[
    OfPipelines {
        name: "millstream_pipeline_lag_records",
        help: "Records and messages that wait in the inputs",
        kind: MetricType::Gauge,
        value: |status| status.totals.lag_records as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_lag_seconds",
        help: "Age of the oldest record or message that is not processed",
        kind: MetricType::Gauge,
        value: |status| status.lag_ms as f64 / 1e3,
    },
    OfPipelines {
        name: "millstream_pipeline_parked_records",
        help: "Records that wait to be tried again",
        kind: MetricType::Gauge,
        value: |status| status.totals.parked_records as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_parked_keys",
        help: "Keys, or what else keeps records in order, of which a record waits to be tried again",
        kind: MetricType::Gauge,
        value: |status| status.totals.parked_groups as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_tasks_without_room",
        help: "Tasks that take no new records, since too many keys wait to be tried again or the disk runs low",
        kind: MetricType::Gauge,
        value: |status| status.totals.tasks_without_room as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_instances",
        help: "Instances of the plugin that there are",
        kind: MetricType::Gauge,
        value: |status| status.totals.instances as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_records_in",
        help: "Records processed since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.records_in as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_records_out",
        help: "Records written to outputs since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.records_out as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_timers",
        help: "Timers handled since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.timers as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_retries",
        help: "Failures after which a record is tried again, since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.retries as f64,
    },
    OfPipelines {
        name: "millstream_pipeline_dead_letters",
        help: "Records given up on since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.dead_letters as f64,
    },
    OfPipelines {
        name: "millstream_plugin_cpu_seconds",
        help: "Time that calls of the plugin have computed, since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.calls.cpu_ns as f64 / 1e9,
    },
    OfPipelines {
        name: "millstream_plugin_memory_bytes",
        help: "Linear memory of the plugin's instances",
        kind: MetricType::Gauge,
        value: |status| status.totals.memory_bytes as f64,
    },
    OfPipelines {
        name: "millstream_plugin_input_bytes",
        help: "Bytes copied into the plugin since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.calls.input_bytes as f64,
    },
    OfPipelines {
        name: "millstream_plugin_output_bytes",
        help: "Bytes of keys, values and headers that the plugin returned since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.calls.output_bytes as f64,
    },
];

/// Writes the metrics of all pipelines.
pub(super) fn encode(pipelines: &[PipelineStatus], encoder: &mut Encoder<'_, '_>) -> fmt::Result {
    for of in OF_PIPELINES {
        let values = pipelines
            .iter()
            .map(|status| (labels(status), (of.value)(status)));
        let values: Values<PipelineLabels> = values.collect();
        match of.kind {
            MetricType::Counter => encoder.counters(of.name, of.help, &values)?,
            _ => encoder.gauges(of.name, of.help, &values)?,
        }
    }
    encoder.counters(
        "millstream_plugin_faults",
        "Calls of the plugin that failed, since the server started",
        &faults(pipelines),
    )?;
    encoder.gauges(
        "millstream_pipeline_state",
        "1 for the state that the pipeline is in",
        &states(pipelines),
    )?;
    encode_calls(pipelines, encoder)
}

fn labels(status: &PipelineStatus) -> PipelineLabels {
    PipelineLabels {
        pipeline: status.name.to_string(),
        plugin: status.plugin.to_string(),
    }
}

fn faults(pipelines: &[PipelineStatus]) -> Values<FaultLabels> {
    let of_pipeline = |status: &PipelineStatus| {
        let PipelineLabels { pipeline, plugin } = labels(status);
        let kinds = Fault::KINDS
            .into_iter()
            .zip(status.totals.calls.faults_by_kind);
        kinds.map(move |(kind, count)| {
            let labels = FaultLabels {
                pipeline: pipeline.clone(),
                plugin: plugin.clone(),
                kind,
            };
            (labels, count as f64)
        })
    };
    pipelines.iter().flat_map(of_pipeline).collect()
}

fn states(pipelines: &[PipelineStatus]) -> Values<StateLabels> {
    let of_pipeline = |status: &PipelineStatus| {
        let (pipeline, now) = (status.name.to_string(), status.state);
        PipelineState::ALL.into_iter().map(move |state| {
            let labels = StateLabels {
                pipeline: pipeline.clone(),
                state: state.as_str(),
            };
            (labels, f64::from(u8::from(state == now)))
        })
    };
    pipelines.iter().flat_map(of_pipeline).collect()
}

fn encode_calls(pipelines: &[PipelineStatus], encoder: &mut Encoder<'_, '_>) -> fmt::Result {
    let name = "millstream_plugin_call_seconds";
    let help = "Time that calls of the plugin take";
    let mut metric = encoder
        .0
        .encode_descriptor(name, help, None, MetricType::Histogram)?;
    for status in pipelines {
        let calls = &status.totals.calls;
        let bounds = CALL_BUCKETS_NS.iter().map(|ns| *ns as f64 / 1e9);
        let bounds = bounds.chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(calls.by_time).collect();
        let labels = labels(status);
        let mut metric = metric.encode_family(&labels)?;
        metric.encode_histogram::<NoLabelSet>(
            calls.time_ns as f64 / 1e9,
            calls.by_time.iter().sum(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}
