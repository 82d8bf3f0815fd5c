//! The settings of a topic on the command line, named as in a manifest.

use crate::cli::exit::Usage;
use crate::cli::quantity::{self, Bound};
use crate::log::{Cleanup, CompressionName, TopicConfig};
use crate::model::Compression;

/// Settings of a topic, named as in a manifest.
#[derive(Debug, Default, PartialEq, clap::Args)]
pub(in crate::cli) struct Settings {
    /// What happens to old records
    #[arg(long, value_enum)]
    cleanup: Option<CleanupArg>,
    /// How long records are kept: a duration such as `7d`, or `forever` [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = quantity::retention, allow_negative_numbers = true)]
    retention: Option<Bound>,
    /// How many bytes each partition keeps: a size such as `10GiB`, or `unlimited` [default: unlimited]
    #[arg(long, value_name = "SIZE", value_parser = quantity::retention_bytes, allow_negative_numbers = true)]
    retention_bytes: Option<Bound>,
    /// How batches are compressed; `producer`: as their producer sent them [default: producer]
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
    /// How long a tombstone stays in a compacted topic after it was cleaned [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    tombstone_delay: Option<u64>,
    /// The part of a partition, 0 to 1, that must be uncleaned before it is compacted [default: 0.5]
    #[arg(long, value_name = "RATIO")]
    min_cleanable_dirty_ratio: Option<f64>,
    /// The largest batch the topic takes, such as `16MiB` [default: 1048588]
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
    fn compression(self) -> Option<CompressionName> {
        match self {
            Self::Producer => None,
            Self::None => Some(CompressionName(Compression::None)),
            Self::Gzip => Some(CompressionName(Compression::Gzip)),
            Self::Snappy => Some(CompressionName(Compression::Snappy)),
            Self::Lz4 => Some(CompressionName(Compression::Lz4)),
            Self::Zstd => Some(CompressionName(Compression::Zstd)),
        }
    }
}

impl Settings {
    /// Changes `config` to these settings, where they are given.
    ///
    /// # Errors
    /// A setting that has no effect under the topic's cleanup: it was given for a reason.
    pub(super) fn apply(&self, config: &mut TopicConfig) -> Result<(), Usage> {
        if let Some(cleanup) = self.cleanup {
            config.cleanup = match cleanup {
                CleanupArg::Delete => Cleanup::Delete,
                CleanupArg::Compact => Cleanup::Compact,
            };
        }
        let of_delete = [
            ("--retention", self.retention.is_some()),
            ("--retention-bytes", self.retention_bytes.is_some()),
        ];
        let of_compact = [
            ("--tombstone-delay", self.tombstone_delay.is_some()),
            (
                "--min-cleanable-dirty-ratio",
                self.min_cleanable_dirty_ratio.is_some(),
            ),
        ];
        let (foreign, needed, has) = match config.cleanup {
            Cleanup::Delete => (of_compact, "compact", "delete"),
            Cleanup::Compact => (of_delete, "delete", "compact"),
        };
        if let Some((option, _)) = foreign.iter().find(|(_, is_given)| *is_given) {
            return Err(Usage(format!(
                "{option} has no effect on a topic with cleanup `{has}`; leave it out, or give --cleanup {needed}"
            )));
        }
        if let Some(Bound(ms)) = self.retention {
            config.retention_ms = ms;
        }
        if let Some(Bound(bytes)) = self.retention_bytes {
            config.retention_bytes = bytes;
        }
        if let Some(compression) = self.compression {
            config.compression = compression.compression();
        }
        if let Some(ms) = self.tombstone_delay {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(settings: &Settings) -> Result<TopicConfig, String> {
        let mut config = TopicConfig::default();
        settings.apply(&mut config).map_err(|Usage(text)| text)?;
        Ok(config)
    }

    #[test]
    fn settings_change_what_they_name_and_nothing_else() {
        let settings = Settings {
            retention: Some(Bound(None)),
            compression: Some(CompressionArg::Zstd),
            ..Settings::default()
        };
        let expected = TopicConfig {
            retention_ms: None,
            compression: Some(CompressionName(Compression::Zstd)),
            ..TopicConfig::default()
        };
        assert_eq!(applied(&settings), Ok(expected));
        assert_eq!(applied(&Settings::default()), Ok(TopicConfig::default()));
    }

    #[test]
    fn a_setting_without_effect_is_refused() {
        let error = applied(&Settings {
            cleanup: Some(CleanupArg::Compact),
            retention: Some(Bound(Some(1))),
            ..Settings::default()
        });
        assert!(error.unwrap_err().starts_with("--retention has no effect"));
        let error = applied(&Settings {
            tombstone_delay: Some(1),
            ..Settings::default()
        });
        assert!(
            error
                .unwrap_err()
                .starts_with("--tombstone-delay has no effect")
        );
    }
}
