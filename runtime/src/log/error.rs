//! What can go wrong with topics.

use crate::model::{self, TopicName};
use crate::storage;

/// An error of the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such topic.
    #[error("there is no topic `{name}`{hint}")]
    UnknownTopic {
        /// The name asked for.
        name: TopicName,
        /// `; did you mean …?` or `; create it with …`.
        hint: String,
    },
    /// The topic exists already.
    #[error("the topic `{name}` exists already")]
    TopicExists {
        /// Its name.
        name: TopicName,
    },
    /// The topic exists with another number of partitions.
    #[error(
        "the topic `{name}` has {existing} partitions, {wanted} are asked for; partitions cannot be changed afterwards, since keys would move"
    )]
    PartitionCount {
        /// Its name.
        name: TopicName,
        /// Partitions it has.
        existing: u32,
        /// Partitions asked for.
        wanted: u32,
    },
    /// The topic has no such partition.
    #[error("the topic `{name}` has partitions 0 to {last}, there is no partition {partition}")]
    UnknownPartition {
        /// The topic.
        name: TopicName,
        /// The partition asked for.
        partition: u32,
        /// Its last partition.
        last: u32,
    },
    /// A setting is outside its limits.
    #[error("topic `{name}`: {reason}")]
    InvalidConfig {
        /// The topic.
        name: TopicName,
        /// Which setting, its value and the limits.
        reason: String,
    },
    /// There are as many topics as the data directory takes.
    #[error("the data directory holds {limit} topics, which is the limit; delete one first")]
    TooManyTopics {
        /// The limit.
        limit: u32,
    },
    /// A batch is larger than its topic takes.
    #[error(
        "topic `{topic}` takes batches of at most {limit} bytes (max-batch-bytes), this one has {bytes}"
    )]
    BatchTooLarge {
        /// The topic.
        topic: TopicName,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A record without a key for a compacted topic.
    #[error("topic `{topic}` is compacted: every record needs a key")]
    KeyRequired {
        /// The topic.
        topic: TopicName,
    },
    /// A record or batch is malformed or too large.
    #[error(transparent)]
    Batch(#[from] model::batch::Error),
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}
