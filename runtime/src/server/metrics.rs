//! `/metrics`: what dashboards and alerts are made of, in the OpenMetrics text format. Names that Kafka's dashboards know
//! are Kafka's exporter's; ours begin with `millstream_`, and end with their unit. Everything is read when it is asked for.

use std::fmt;

use axum::extract::State as StateOf;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::task::block_in_place;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::{Code, Problem};
use super::state::State;
use crate::pipeline::{CALL_BUCKETS_NS, PipelineState, PipelineStatus};
use crate::queue;

/// The media type of OpenMetrics, which Prometheus asks for.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Metrics in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", security(("token" = ["read"])), tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
async fn metrics(StateOf(state): StateOf<State>) -> Result<impl IntoResponse, Problem> {
    let scrape = Scrape::of(&state).await?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    encode_registry(&mut text, &registry)
        .map_err(|_| Problem::new(Code::Internal, "the metrics cannot be written"))?;
    text.push_str("# EOF\n");
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], text))
}

/// A group's place in a partition.
#[derive(Clone, Debug, EncodeLabelSet)]
struct GroupLabels {
    consumergroup: String,
    topic: String,
    partition: u32,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct PartitionLabels {
    topic: String,
    partition: u32,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct QueueLabels {
    queue: String,
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct PipelineLabels {
    pipeline: String,
    plugin: String,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct StateLabels {
    pipeline: String,
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// A value with its labels.
type Values<L> = Vec<(L, f64)>;

/// A metric of pipelines.
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
        help: "Age of the oldest record that is not processed",
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
        name: "millstream_pipeline_instances",
        help: "Instances of the plugin",
        kind: MetricType::Gauge,
        value: |status| status.tasks.len() as f64 * f64::from(status.concurrency),
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
        name: "millstream_plugin_faults",
        help: "Calls of the plugin that trapped, ran past their deadline or returned bad output, since the server started",
        kind: MetricType::Counter,
        value: |status| status.totals.calls.faults as f64,
    },
];

/// Everything at one moment.
#[derive(Debug)]
struct Scrape {
    group_offsets: Values<GroupLabels>,
    group_lags: Values<GroupLabels>,
    end_offsets: Values<PartitionLabels>,
    start_offsets: Values<PartitionLabels>,
    partition_bytes: Values<PartitionLabels>,
    queues: Values<QueueLabels>,
    pipelines: Vec<PipelineStatus>,
    disk: Values<KindLabels>,
    written: Values<KindLabels>,
    commits: u64,
    background_errors: u64,
    is_poisoned: bool,
    waiting_consumers: usize,
    inflight_bytes: usize,
}

impl Scrape {
    async fn of(state: &State) -> Result<Self, Problem> {
        let queues = queue_values(state).await?;
        block_in_place(|| Self::read(state, queues))
    }

    fn read(state: &State, queues: Values<QueueLabels>) -> Result<Self, Problem> {
        let data = &state.data;
        let store = data.log.store();
        let health = store.health();
        let usage = store.disk_usage()?;
        let written = store.write_statistics();
        let mut disk = vec![("tables", usage.table_bytes), ("blobs", usage.blob_bytes)];
        if let Some(space) = health.disk {
            disk.extend([("free", space.free_bytes), ("total", space.total_bytes)]);
        }
        let kinds = |values: &[(&'static str, u64)]| {
            let values = values.iter();
            values
                .map(|(kind, value)| (KindLabels { kind }, *value as f64))
                .collect()
        };
        let mut scrape = Self {
            group_offsets: Vec::new(),
            group_lags: Vec::new(),
            end_offsets: Vec::new(),
            start_offsets: Vec::new(),
            partition_bytes: Vec::new(),
            queues,
            pipelines: state.pipelines().map(|it| it.status()).unwrap_or_default(),
            disk: kinds(&disk),
            written: kinds(&[
                ("wal", written.wal_bytes),
                ("flush", written.flush_bytes),
                ("compaction", written.compaction_bytes),
            ]),
            commits: store.commit_count(),
            background_errors: health.background_error_count,
            is_poisoned: health.failure.is_some(),
            waiting_consumers: state.waiting_consumers(),
            inflight_bytes: state.intake.held_bytes(),
        };
        scrape.read_topics(state);
        scrape.read_groups(state)?;
        Ok(scrape)
    }

    fn read_topics(&mut self, state: &State) {
        for topic in state.data.log.topics() {
            for partition in topic.partitions() {
                let labels = PartitionLabels {
                    topic: topic.name().to_string(),
                    partition: partition.index(),
                };
                let end = partition.high_watermark() as f64;
                let start = partition.start_offset() as f64;
                let bytes = partition.size_bytes() as f64;
                self.end_offsets.push((labels.clone(), end));
                self.start_offsets.push((labels.clone(), start));
                self.partition_bytes.push((labels, bytes));
            }
        }
    }

    fn read_groups(&mut self, state: &State) -> Result<(), Problem> {
        let topics = state.data.log.topics();
        for (group, positions) in state.data.groups.list()? {
            for position in positions {
                let topic = topics.iter().find(|topic| topic.id() == position.topic_id);
                let partition = topic.and_then(|topic| topic.partition(position.partition).ok());
                let (Some(topic), Some(partition)) = (topic, partition) else {
                    continue;
                };
                let labels = GroupLabels {
                    consumergroup: group.clone(),
                    topic: topic.name().to_string(),
                    partition: position.partition,
                };
                let offset = position.committed.offset;
                let lag = partition.high_watermark().saturating_sub(offset);
                self.group_offsets.push((labels.clone(), offset as f64));
                self.group_lags.push((labels, lag as f64));
            }
        }
        Ok(())
    }
}

async fn queue_values(state: &State) -> Result<Values<QueueLabels>, queue::Error> {
    let mut values = Vec::new();
    for queue in state.data.queues.queues() {
        let described = queue.describe().await?;
        for (name, count) in [
            ("waiting", described.waiting_count),
            ("delayed", described.delayed_count),
            ("leased", described.leased_count),
        ] {
            let labels = QueueLabels {
                queue: queue.name().to_string(),
                state: name,
            };
            values.push((labels, count as f64));
        }
    }
    Ok(values)
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut gauges = Gauges(&mut encoder);
        gauges.write(
            "kafka_consumergroup_current_offset",
            "Committed offset of the group",
            &self.group_offsets,
        )?;
        gauges.write(
            "kafka_consumergroup_lag",
            "Records that the group has not read",
            &self.group_lags,
        )?;
        gauges.write(
            "kafka_topic_partition_current_offset",
            "Offset after the last record of the partition",
            &self.end_offsets,
        )?;
        gauges.write(
            "kafka_topic_partition_oldest_offset",
            "First offset of the partition",
            &self.start_offsets,
        )?;
        gauges.write(
            "millstream_topic_partition_bytes",
            "Bytes of the partition's batches",
            &self.partition_bytes,
        )?;
        gauges.write("millstream_queue_messages", "Messages", &self.queues)?;
        gauges.write(
            "millstream_store_disk_bytes",
            "Files of the store, and room on their file system",
            &self.disk,
        )?;
        let poisoned = f64::from(u8::from(self.is_poisoned));
        gauges.single(
            "millstream_store_poisoned",
            "1 if the store takes no writes since one failed",
            poisoned,
        )?;
        gauges.single(
            "millstream_store_background_errors",
            "Flushes and compactions that have failed",
            self.background_errors as f64,
        )?;
        gauges.single(
            "millstream_http_waiting_consumers",
            "Requests that wait for records or messages",
            self.waiting_consumers as f64,
        )?;
        gauges.single(
            "millstream_http_inflight_bytes",
            "Bytes of the bodies of requests under way",
            self.inflight_bytes as f64,
        )?;
        self.encode_counters(&mut encoder)?;
        self.encode_pipelines(&mut encoder)
    }
}

impl Scrape {
    fn encode_counters(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let name = "millstream_store_commits";
        let help = "Groups of commits since the server started";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&self.commits, None)?;
        let name = "millstream_store_written_bytes";
        let help = "Bytes that the store has written since the server started";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in &self.written {
            let mut metric = metric.encode_family(labels)?;
            metric.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        Ok(())
    }

    fn encode_pipelines(&self, encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
        let labels = |status: &PipelineStatus| PipelineLabels {
            pipeline: status.name.to_string(),
            plugin: status.plugin.to_string(),
        };
        for of in OF_PIPELINES {
            let mut metric = encoder.encode_descriptor(of.name, of.help, None, of.kind)?;
            for status in &self.pipelines {
                let value = (of.value)(status);
                let labels = labels(status);
                let mut metric = metric.encode_family(&labels)?;
                match of.kind {
                    MetricType::Counter => {
                        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                    }
                    _ => metric.encode_gauge(&value)?,
                }
            }
        }
        let name = "millstream_pipeline_state";
        let help = "1 for the state that the pipeline is in";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for status in &self.pipelines {
            for state in PipelineState::ALL {
                let labels = StateLabels {
                    pipeline: status.name.to_string(),
                    state: state.as_str(),
                };
                let value = f64::from(u8::from(state == status.state));
                metric.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        let name = "millstream_plugin_call_seconds";
        let help = "Time that calls of the plugin take";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for status in &self.pipelines {
            let calls = &status.totals.calls;
            let bounds = CALL_BUCKETS_NS.iter().map(|ns| *ns as f64 / 1e9);
            let bounds = bounds.chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(calls.by_time).collect();
            let labels = labels(status);
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(
                calls.time_ns as f64 / 1e9,
                calls.calls,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Writes gauges.
struct Gauges<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Gauges<'_, '_> {
    fn single(&mut self, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn write<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: &[(L, f64)],
    ) -> Result<(), fmt::Error> {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(labels)?.encode_gauge(value)?;
        }
        Ok(())
    }
}
