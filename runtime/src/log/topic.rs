//! A topic: its settings and its partitions.

use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{Compression, TopicName, limits};
use crate::storage::Partition;

/// A day, in ms.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What happens to old records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleanup {
    /// They go when they are older than `retention_ms`, or more than `retention_bytes` follow.
    #[default]
    Delete,
    /// The newest record of each key stays for ever, earlier ones go.
    Compact,
}

/// The settings of a topic; names and defaults are Kafka's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TopicConfig {
    /// Number of partitions; fixed once the topic exists.
    pub partitions: u32,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// `delete`: records older than this many ms go; `None` keeps them for ever.
    pub retention_ms: Option<u64>,
    /// `delete`: the oldest batches of a partition go as long as this much remains, as in Kafka, so
    /// that a partition is up to one batch larger; `None` = no limit.
    pub retention_bytes: Option<u64>,
    /// Compression of batches that Millstream itself builds; `None` = as the producer sent them.
    pub compression: Option<CompressionName>,
    /// `compact`: a tombstone stays at least this many ms after the cleaner first passed it.
    pub tombstone_delay_ms: u64,
    /// `compact`: the part of a partition that must be uncleaned before the cleaner runs, 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// The largest batch that the topic takes, in bytes.
    pub max_batch_bytes: usize,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            partitions: 1,
            cleanup: Cleanup::Delete,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            compression: None,
            tombstone_delay_ms: DAY_MS,
            min_cleanable_dirty_ratio: 0.5,
            max_batch_bytes: limits::DEFAULT_MAX_BATCH_BYTES,
        }
    }
}

/// A compression as it is written in a topic's stored settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CompressionName(pub Compression);

impl TryFrom<String> for CompressionName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
            .map(Self)
            .map_err(|error: <Compression as std::str::FromStr>::Err| error.to_string())
    }
}

impl From<CompressionName> for String {
    fn from(name: CompressionName) -> Self {
        name.0.to_string()
    }
}

impl TopicConfig {
    /// The compression of batches that Millstream builds for the topic.
    pub fn batch_compression(&self) -> Compression {
        self.compression.map_or(Compression::None, |name| name.0)
    }

    pub(super) fn validate(&self, name: &TopicName) -> Result<(), Error> {
        let invalid = |reason: String| {
            Err(Error::InvalidConfig {
                name: name.clone(),
                reason,
            })
        };
        if self.partitions == 0 || self.partitions > limits::MAX_PARTITIONS {
            return invalid(format!(
                "{} partitions; expected 1 to {}",
                self.partitions,
                limits::MAX_PARTITIONS
            ));
        }
        if self.max_batch_bytes < 1024 || self.max_batch_bytes > limits::MAX_BATCH_BYTES {
            let (bytes, most) = (self.max_batch_bytes, limits::MAX_BATCH_BYTES);
            return invalid(format!(
                "max-batch-bytes is {bytes}; expected 1024 to {most}"
            ));
        }
        if !(0.0..=1.0).contains(&self.min_cleanable_dirty_ratio) {
            let ratio = self.min_cleanable_dirty_ratio;
            return invalid(format!(
                "min-cleanable-dirty-ratio is {ratio}; expected a number from 0 to 1"
            ));
        }
        Ok(())
    }
}

/// A topic of an open data directory. Clones share it.
#[derive(Clone, Debug)]
pub struct Topic(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    id: u32,
    name: TopicName,
    config: RwLock<TopicConfig>,
    partitions: Vec<Arc<Partition>>,
}

impl Topic {
    pub(super) fn new(
        id: u32,
        name: TopicName,
        config: TopicConfig,
        partitions: Vec<Arc<Partition>>,
    ) -> Self {
        Self(Arc::new(Shared {
            id,
            name,
            config: RwLock::new(config),
            partitions,
        }))
    }

    /// The id under which its data is stored; never given to another topic.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Its name.
    pub fn name(&self) -> &TopicName {
        &self.0.name
    }

    /// Its settings.
    pub fn config(&self) -> TopicConfig {
        self.0.config.read().clone()
    }

    pub(super) fn set_config(&self, config: TopicConfig) {
        *self.0.config.write() = config;
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> &[Arc<Partition>] {
        &self.0.partitions
    }

    /// Number of partitions.
    pub fn partition_count(&self) -> u32 {
        // Checked against `limits::MAX_PARTITIONS` when the topic was created.
        self.0.partitions.len() as u32
    }

    /// One partition.
    ///
    /// # Errors
    /// [`Error::UnknownPartition`]
    pub fn partition(&self, index: u32) -> Result<&Arc<Partition>, Error> {
        self.0
            .partitions
            .get(index as usize)
            .ok_or_else(|| Error::UnknownPartition {
                name: self.name().clone(),
                partition: index,
                last: self.partition_count().saturating_sub(1),
            })
    }
}
