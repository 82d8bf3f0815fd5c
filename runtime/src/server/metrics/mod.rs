//! `/metrics`: what dashboards and alerts are made of, in the OpenMetrics text format. Names that Kafka's dashboards know
//! are Kafka's exporter's; ours begin with `millstream_`, and end with their unit. Everything is read when it is asked for.

mod encoder;
mod pipelines;
mod plugins;
mod store;

use std::fmt;

use axum::extract::State as StateOf;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::registry::Registry;
use tokio::task::block_in_place;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::encoder::{Encoder, Values};
use self::plugins::OfPlugins;
use self::store::StoreScrape;
use super::problem::{Code, Problem};
use super::requests::RequestMetrics;
use super::state::State;
use crate::pipeline::PipelineStatus;
use crate::queue;
use crate::trace;

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
struct QueueNameLabels {
    queue: String,
}

/// Everything at one moment.
#[derive(Debug)]
struct Scrape {
    group_offsets: Values<GroupLabels>,
    group_lags: Values<GroupLabels>,
    end_offsets: Values<PartitionLabels>,
    start_offsets: Values<PartitionLabels>,
    partition_bytes: Values<PartitionLabels>,
    queues: QueueValues,
    pipelines: Vec<PipelineStatus>,
    of_plugins: OfPlugins,
    store: StoreScrape,
    waiting_consumers: usize,
    inflight_bytes: usize,
    unread_bytes: usize,
    requests: RequestMetrics,
}

impl Scrape {
    async fn of(state: &State) -> Result<Self, Problem> {
        let queues = queue_values(state).await?;
        block_in_place(|| Self::read(state, queues))
    }

    fn read(state: &State, queues: QueueValues) -> Result<Self, Problem> {
        let pipelines = state.pipelines();
        let of_plugins = pipelines.as_ref().map(|it| it.plugin_metrics());
        let mut scrape = Self {
            group_offsets: Vec::new(),
            group_lags: Vec::new(),
            end_offsets: Vec::new(),
            start_offsets: Vec::new(),
            partition_bytes: Vec::new(),
            queues,
            pipelines: pipelines.map(|it| it.status()).unwrap_or_default(),
            of_plugins: OfPlugins::new(of_plugins.unwrap_or_default()),
            store: StoreScrape::of(state.data.log.store())?,
            waiting_consumers: state.waiting.count(),
            inflight_bytes: state.intake.held_bytes(),
            unread_bytes: state.unread.held_bytes(),
            requests: state.request_metrics.clone(),
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
                let lag = partition.count_from(offset);
                self.group_offsets.push((labels.clone(), offset as f64));
                self.group_lags.push((labels, lag as f64));
            }
        }
        Ok(())
    }
}

/// What the queues tell.
#[derive(Debug, Default)]
struct QueueValues {
    messages: Values<QueueLabels>,
    ages: Values<QueueNameLabels>,
}

async fn queue_values(state: &State) -> Result<QueueValues, queue::Error> {
    let mut values = QueueValues::default();
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
            values.messages.push((labels, count as f64));
        }
        let labels = QueueNameLabels {
            queue: queue.name().to_string(),
        };
        let age_ms = described.oldest_age_ms.unwrap_or(0);
        values.ages.push((labels, age_ms as f64 / 1e3));
    }
    Ok(values)
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut encoder = Encoder(&mut encoder);
        encoder.gauges(
            "kafka_consumergroup_current_offset",
            "Committed offset of the group",
            &self.group_offsets,
        )?;
        encoder.gauges(
            "kafka_consumergroup_lag",
            "Records that the group has not read",
            &self.group_lags,
        )?;
        encoder.gauges(
            "kafka_topic_partition_current_offset",
            "Offset after the last record of the partition",
            &self.end_offsets,
        )?;
        encoder.gauges(
            "kafka_topic_partition_oldest_offset",
            "First offset of the partition",
            &self.start_offsets,
        )?;
        encoder.gauges(
            "millstream_topic_partition_bytes",
            "Bytes of the partition's batches",
            &self.partition_bytes,
        )?;
        encoder.gauges(
            "millstream_queue_messages",
            "Messages",
            &self.queues.messages,
        )?;
        encoder.gauges(
            "millstream_queue_oldest_seconds",
            "Age of the oldest message, whatever it waits for",
            &self.queues.ages,
        )?;
        encoder.gauge(
            "millstream_http_waiting_consumers",
            "Requests that wait for records or messages",
            self.waiting_consumers as f64,
        )?;
        encoder.gauge(
            "millstream_http_inflight_bytes",
            "Bytes of the bodies of requests under way",
            self.inflight_bytes as f64,
        )?;
        encoder.gauge(
            "millstream_http_unread_bytes",
            "Bytes of answers that clients have not read yet",
            self.unread_bytes as f64,
        )?;
        self.requests.encode(encoder.0)?;
        let spans = trace::span_counts();
        encoder.counter(
            "millstream_traces_exported",
            "Spans of requests that the collector has taken, in part or whole",
            spans.exported as f64,
        )?;
        encoder.counter(
            "millstream_traces_dropped",
            "Spans that were not exported",
            spans.dropped as f64,
        )?;
        self.store.encode(&mut encoder)?;
        pipelines::encode(&self.pipelines, &mut encoder)?;
        self.of_plugins.encode(&mut encoder)
    }
}

#[cfg(test)]
mod tests;
