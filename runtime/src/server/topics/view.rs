//! Topics as the API shows them, and their settings as it takes them.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::super::extract::object;
use crate::log::{Cleanup, CompressionName, Topic, TopicConfig};
use crate::model::TopicName;
use crate::server::problem::{Code, Problem};
use crate::storage::Partition;

/// What a topic's `compression` is called when batches stay as their producer sent them.
const AS_PRODUCED: &str = "producer";

/// A topic.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TopicView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TopicName,
    /// Its settings.
    #[serde(flatten)]
    pub config: TopicConfigView,
    /// Offsets that its partitions hold; after a compaction there are fewer records.
    pub records: u64,
    /// Bytes of its batches.
    pub size_bytes: u64,
}

/// A topic's settings.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TopicConfigView {
    /// Number of partitions.
    pub partitions: u32,
    /// What happens to old records: `delete` or `compact`.
    #[schema(value_type = String)]
    pub cleanup: Cleanup,
    /// How long records are kept; null for ever.
    pub retention_ms: Option<u64>,
    /// How many bytes a partition keeps; null without limit.
    pub retention_bytes: Option<u64>,
    /// `producer`, `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// How long a tombstone stays after it was cleaned.
    pub tombstone_delay_ms: u64,
    /// The part of a partition, 0 to 1, that must be uncleaned before it is compacted.
    pub min_cleanable_dirty_ratio: f64,
    /// The largest batch that the topic takes.
    pub max_batch_bytes: usize,
}

/// What a partition holds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PartitionView {
    /// Its number.
    pub partition: u32,
    /// The first offset that can be read.
    pub start_offset: u64,
    /// The offset after the last record.
    pub end_offset: u64,
    /// Bytes of its batches.
    pub size_bytes: u64,
}

/// A topic and its partitions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TopicDescription {
    /// The topic.
    #[serde(flatten)]
    pub topic: TopicView,
    /// Its partitions.
    pub offsets: Vec<PartitionView>,
}

/// A topic to create.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTopic {
    /// Its name: 1 to 249 letters, digits, `.`, `_` and `-`.
    #[schema(value_type = String, min_length = 1, max_length = 249, pattern = "^[a-zA-Z0-9._-]+$")]
    pub name: TopicName,
    /// Number of partitions; it cannot be changed afterwards.
    #[serde(default = "one")]
    #[schema(minimum = 1)]
    pub partitions: u32,
    /// Settings; the default where one is left out.
    #[serde(default, deserialize_with = "object")]
    pub settings: TopicSettings,
}

/// Settings of a topic; one that is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TopicSettings {
    /// What happens to old records: `delete` or `compact`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<CleanupName>)]
    pub cleanup: Option<Cleanup>,
    /// How long records are kept; null for ever.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub retention_ms: Option<Option<u64>>,
    /// How many bytes a partition keeps; null without limit.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub retention_bytes: Option<Option<u64>>,
    /// How batches are compressed: `producer`, `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<String>,
    /// How long a tombstone stays after it was cleaned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tombstone_delay_ms: Option<u64>,
    /// The part of a partition, 0 to 1, that must be uncleaned before it is compacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cleanable_dirty_ratio: Option<f64>,
    /// The largest batch that the topic takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch_bytes: Option<u64>,
}

/// What happens to old records.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "the schema of `Cleanup`, which is below the API")]
enum CleanupName {
    Delete,
    Compact,
}

/// What was deleted with a topic.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeletedTopic {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TopicName,
    /// Offsets that it held.
    pub records: u64,
    /// Bytes of its batches.
    pub size_bytes: u64,
}

/// What a compaction has done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CompactedTopic {
    /// The topic.
    #[schema(value_type = String)]
    pub name: TopicName,
    /// Records that were outdated, and tombstones past their delay.
    pub records_removed: u64,
    /// Records that stay.
    pub records_kept: u64,
    /// Bytes of batches freed.
    pub freed_bytes: u64,
}

fn one() -> u32 {
    1
}

/// Tells a null from a field that is left out.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl TopicView {
    /// How a topic is now.
    pub(crate) fn of(topic: &Topic) -> Self {
        let config = topic.config();
        let partitions = topic.partitions();
        let records = |p: &Arc<Partition>| p.high_watermark().saturating_sub(p.start_offset());
        Self {
            name: topic.name().clone(),
            config: TopicConfigView {
                partitions: config.partitions,
                cleanup: config.cleanup,
                retention_ms: config.retention_ms,
                retention_bytes: config.retention_bytes,
                compression: config
                    .compression
                    .map_or_else(|| AS_PRODUCED.to_owned(), String::from),
                tombstone_delay_ms: config.tombstone_delay_ms,
                min_cleanable_dirty_ratio: config.min_cleanable_dirty_ratio,
                max_batch_bytes: config.max_batch_bytes,
            },
            records: partitions.iter().map(records).sum(),
            size_bytes: partitions.iter().map(|p| p.size_bytes()).sum(),
        }
    }
}

impl TopicDescription {
    /// How a topic and its partitions are now.
    pub(crate) fn of(topic: &Topic) -> Self {
        let offsets = topic.partitions().iter().map(|partition| PartitionView {
            partition: partition.index(),
            start_offset: partition.start_offset(),
            end_offset: partition.high_watermark(),
            size_bytes: partition.size_bytes(),
        });
        Self {
            topic: TopicView::of(topic),
            offsets: offsets.collect(),
        }
    }
}

impl TopicSettings {
    /// Changes `config` to these settings, where they are given.
    ///
    /// # Errors
    /// A setting that has no effect under the topic's cleanup: it was given for a reason.
    pub(crate) fn apply(&self, config: &mut TopicConfig) -> Result<(), Problem> {
        if let Some(cleanup) = self.cleanup {
            config.cleanup = cleanup;
        }
        let of_delete = [
            ("retention", self.retention_ms.is_some()),
            ("retention-bytes", self.retention_bytes.is_some()),
        ];
        let of_compact = [
            ("tombstone-delay", self.tombstone_delay_ms.is_some()),
            (
                "min-cleanable-dirty-ratio",
                self.min_cleanable_dirty_ratio.is_some(),
            ),
        ];
        let (foreign, needed, has) = match config.cleanup {
            Cleanup::Delete => (of_compact, "compact", "delete"),
            Cleanup::Compact => (of_delete, "delete", "compact"),
        };
        if let Some((setting, _)) = foreign.iter().find(|(_, is_given)| *is_given) {
            return Err(Problem::new(
                Code::InvalidSetting,
                format!(
                    "{setting} has no effect on a topic with cleanup `{has}`; leave it out, or set cleanup to `{needed}`"
                ),
            ));
        }
        if self.retention_ms == Some(Some(0)) {
            let expected = "retention is 0 ms; expected at least 1 ms, or null for ever";
            return Err(Problem::new(Code::InvalidSetting, expected));
        }
        config.retention_ms = self.retention_ms.unwrap_or(config.retention_ms);
        config.retention_bytes = self.retention_bytes.unwrap_or(config.retention_bytes);
        if let Some(name) = &self.compression {
            config.compression = compression(name)?;
        }
        if let Some(ms) = self.tombstone_delay_ms {
            config.tombstone_delay_ms = ms;
        }
        if let Some(ratio) = self.min_cleanable_dirty_ratio {
            config.min_cleanable_dirty_ratio = ratio;
        }
        if let Some(bytes) = self.max_batch_bytes {
            config.max_batch_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        Ok(())
    }
}

fn compression(name: &str) -> Result<Option<CompressionName>, Problem> {
    if name == AS_PRODUCED {
        return Ok(None);
    }
    CompressionName::try_from(name.to_owned())
        .map(Some)
        .map_err(|_| {
            let expected = "expected producer, none, gzip, snappy, lz4 or zstd";
            Problem::new(
                Code::InvalidSetting,
                format!("compression is `{name}`; {expected}"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Compression;

    fn applied(settings: &TopicSettings) -> Result<TopicConfig, String> {
        let mut config = TopicConfig::default();
        settings
            .apply(&mut config)
            .map_err(|problem| problem.detail)?;
        Ok(config)
    }

    #[test]
    fn settings_change_what_they_name_and_nothing_else() {
        let settings: TopicSettings =
            serde_json::from_str(r#"{"retention_ms": null, "compression": "zstd"}"#).unwrap();
        let expected = TopicConfig {
            retention_ms: None,
            compression: Some(CompressionName(Compression::Zstd)),
            ..TopicConfig::default()
        };
        assert_eq!(applied(&settings), Ok(expected));
        assert_eq!(
            applied(&TopicSettings::default()),
            Ok(TopicConfig::default())
        );
    }

    #[test]
    fn a_setting_without_effect_is_refused() {
        let error = applied(&TopicSettings {
            cleanup: Some(Cleanup::Compact),
            retention_ms: Some(Some(1)),
            ..TopicSettings::default()
        });
        assert!(error.unwrap_err().starts_with("retention has no effect"));
        let error = applied(&TopicSettings {
            tombstone_delay_ms: Some(1),
            ..TopicSettings::default()
        });
        assert!(
            error
                .unwrap_err()
                .starts_with("tombstone-delay has no effect")
        );
    }
}
