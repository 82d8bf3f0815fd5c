//! A topic's settings as they are shown.

use crate::cli::output::{self, Output};
use crate::cli::quantity;
use crate::log::Cleanup;
use crate::server::TopicConfigView;

/// The word for what happens to old records.
pub(super) fn cleanup(config: &TopicConfigView) -> &'static str {
    match config.cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    }
}

/// What is kept: the retention, or the newest record of each key.
pub(super) fn kept(config: &TopicConfigView, output: &Output) -> String {
    if config.cleanup == Cleanup::Compact {
        return "newest per key".to_owned();
    }
    match config.retention_bytes {
        Some(bytes) => format!("{}, {} per partition", age(config), output.bytes(bytes)),
        None => age(config),
    }
}

fn age(config: &TopicConfigView) -> String {
    config
        .retention_ms
        .map_or_else(|| "forever".to_owned(), quantity::format_ms)
}

/// Writes every setting that has an effect.
pub(super) fn write(config: &TopicConfigView, output: &mut Output) -> Result<(), output::Error> {
    let mut lines = vec![
        ("partitions", config.partitions.to_string()),
        ("cleanup", cleanup(config).to_owned()),
    ];
    match config.cleanup {
        Cleanup::Delete => {
            let bytes = config
                .retention_bytes
                .map_or_else(|| "unlimited".to_owned(), |bytes| output.bytes(bytes));
            lines.extend([("retention", age(config)), ("retention-bytes", bytes)]);
        }
        Cleanup::Compact => {
            let delay = quantity::format_ms(config.tombstone_delay_ms);
            let ratio = config.min_cleanable_dirty_ratio.to_string();
            lines.extend([
                ("tombstone-delay", delay),
                ("min-cleanable-dirty-ratio", ratio),
            ]);
        }
    }
    lines.push(("compression", config.compression.clone()));
    lines.push((
        "max-batch-bytes",
        output.bytes(config.max_batch_bytes as u64),
    ));
    output.fields(&lines)
}
