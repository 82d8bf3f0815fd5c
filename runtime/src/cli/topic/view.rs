//! Topics as they are shown.

use std::sync::Arc;

use serde::Serialize;

use crate::cli::output::{self, Output};
use crate::cli::quantity;
use crate::log::{Cleanup, Topic};
use crate::model::TopicName;
use crate::storage::Partition;

/// A topic.
#[derive(Debug, Serialize)]
pub(super) struct TopicView {
    pub(super) name: TopicName,
    #[serde(flatten)]
    pub(super) config: ConfigView,
    pub(super) records: u64,
    pub(super) size_bytes: u64,
}

/// A topic's settings.
#[derive(Debug, Serialize)]
pub(super) struct ConfigView {
    pub(super) partitions: u32,
    cleanup: Cleanup,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    compression: String,
    tombstone_delay_ms: u64,
    min_cleanable_dirty_ratio: f64,
    max_batch_bytes: usize,
}

/// What a partition holds.
#[derive(Debug, Serialize)]
pub(super) struct PartitionView {
    pub(super) partition: u32,
    pub(super) start_offset: u64,
    pub(super) end_offset: u64,
    pub(super) size_bytes: u64,
}

/// A topic and its partitions.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    #[serde(flatten)]
    pub(super) topic: TopicView,
    pub(super) offsets: Vec<PartitionView>,
}

impl TopicView {
    /// How a topic is now.
    pub(super) fn of(topic: &Topic) -> Self {
        let config = topic.config();
        let partitions = topic.partitions();
        let records = |p: &Arc<Partition>| p.high_watermark().saturating_sub(p.start_offset());
        Self {
            name: topic.name().clone(),
            config: ConfigView {
                partitions: config.partitions,
                cleanup: config.cleanup,
                retention_ms: config.retention_ms,
                retention_bytes: config.retention_bytes,
                compression: config
                    .compression
                    .map_or_else(|| "producer".to_owned(), String::from),
                tombstone_delay_ms: config.tombstone_delay_ms,
                min_cleanable_dirty_ratio: config.min_cleanable_dirty_ratio,
                max_batch_bytes: config.max_batch_bytes,
            },
            records: partitions.iter().map(records).sum(),
            size_bytes: partitions.iter().map(|p| p.size_bytes()).sum(),
        }
    }
}

impl ConfigView {
    /// The word for what happens to old records.
    pub(super) fn cleanup(&self) -> &'static str {
        match self.cleanup {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        }
    }

    /// What is kept: the retention, or the newest record of each key.
    pub(super) fn kept(&self, output: &Output) -> String {
        if self.cleanup == Cleanup::Compact {
            return "newest per key".to_owned();
        }
        let age = self
            .retention_ms
            .map_or_else(|| "forever".to_owned(), quantity::format_ms);
        match self.retention_bytes {
            Some(bytes) => format!("{age}, {} per partition", output.bytes(bytes)),
            None => age,
        }
    }

    /// Writes every setting that has an effect.
    pub(super) fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        let mut lines = vec![
            ("partitions", self.partitions.to_string()),
            ("cleanup", self.cleanup().to_owned()),
        ];
        match self.cleanup {
            Cleanup::Delete => {
                let age = self
                    .retention_ms
                    .map_or_else(|| "forever".to_owned(), quantity::format_ms);
                let bytes = self
                    .retention_bytes
                    .map_or_else(|| "unlimited".to_owned(), |bytes| output.bytes(bytes));
                lines.extend([("retention", age), ("retention-bytes", bytes)]);
            }
            Cleanup::Compact => {
                let delay = quantity::format_ms(self.tombstone_delay_ms);
                let ratio = self.min_cleanable_dirty_ratio.to_string();
                lines.extend([
                    ("tombstone-delay", delay),
                    ("min-cleanable-dirty-ratio", ratio),
                ]);
            }
        }
        lines.push(("compression", self.compression.clone()));
        lines.push(("max-batch-bytes", output.bytes(self.max_batch_bytes as u64)));
        output.fields(&lines)
    }
}
