//! The settings of a topic on the command line, named as in a manifest.

use crate::cli::quantity::{self, Bound};
use crate::log::Cleanup;
use crate::server::TopicSettings;

/// Settings of a topic, named as in a manifest.
#[derive(Debug, Default, PartialEq, clap::Args)]
pub(in crate::cli) struct Settings {
    /// What happens to old records
    #[arg(long, value_enum)]
    cleanup: Option<CleanupArg>,
    /// How long records are kept: a duration such as `7d`, or `forever`; 7d for a new topic
    #[arg(long, value_name = "DURATION", value_parser = quantity::retention, allow_negative_numbers = true)]
    retention: Option<Bound>,
    /// How many bytes each partition keeps: a size such as `10GiB`, or `unlimited`, as a new topic has it
    #[arg(long, value_name = "SIZE", value_parser = quantity::retention_bytes, allow_negative_numbers = true)]
    retention_bytes: Option<Bound>,
    /// How batches are compressed; `producer`: as their producer sent them, and in a new topic
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
    /// How long a tombstone stays in a compacted topic after it was cleaned; 1d for a new topic
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    tombstone_delay: Option<u64>,
    /// The part of a partition, 0 to 1, that must be uncleaned before it is compacted; 0.5 for a new topic
    #[arg(long, value_name = "RATIO", value_parser = quantity::ratio)]
    min_cleanable_dirty_ratio: Option<f64>,
    /// The largest batch the topic takes, such as `16MiB`; 1048588 bytes for a new topic
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    max_batch_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CleanupArg {
    /// Records beyond the retention go
    Delete,
    /// The newest record of each key stays
    Compact,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CompressionArg {
    Producer,
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CompressionArg {
    fn name(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl From<Settings> for TopicSettings {
    fn from(settings: Settings) -> Self {
        Self {
            cleanup: settings.cleanup.map(|cleanup| match cleanup {
                CleanupArg::Delete => Cleanup::Delete,
                CleanupArg::Compact => Cleanup::Compact,
            }),
            retention_ms: settings.retention.map(|Bound(ms)| ms),
            retention_bytes: settings.retention_bytes.map(|Bound(bytes)| bytes),
            compression: settings.compression.map(|it| it.name().to_owned()),
            tombstone_delay_ms: settings.tombstone_delay,
            min_cleanable_dirty_ratio: settings.min_cleanable_dirty_ratio,
            max_batch_bytes: settings.max_batch_bytes,
        }
    }
}
