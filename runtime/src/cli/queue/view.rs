//! Queues as they are shown.

use crate::cli::output::{self, Output};
use crate::cli::quantity;
use crate::server::QueueView;

/// Writes everything, one field a line.
pub(super) fn write(queue: &QueueView, output: &mut Output) -> Result<(), output::Error> {
    let time =
        |ms: Option<u64>, none: &str| ms.map_or_else(|| none.to_owned(), quantity::format_ms);
    let config = &queue.config;
    let mut lines = vec![
        ("queue", queue.name.to_string()),
        ("waiting", queue.waiting.to_string()),
        ("delayed", queue.delayed.to_string()),
        ("leased", queue.leased.to_string()),
        ("oldest-age", time(queue.oldest_age_ms, "-")),
        ("bytes", output.bytes(queue.size_bytes)),
        (
            "visibility-timeout",
            quantity::format_ms(config.visibility_timeout_ms),
        ),
    ];
    if let (Some(name), Some(max)) = (&config.dead_letter, config.max_deliveries) {
        lines.extend([
            ("max-deliveries", max.to_string()),
            ("dead-letter", name.to_string()),
            ("dead-letters", queue.dead_letters.unwrap_or(0).to_string()),
        ]);
    }
    lines.extend([
        ("delay", quantity::format_ms(config.delay_ms)),
        (
            "deduplication-window",
            quantity::format_ms(config.deduplication_window_ms),
        ),
        ("time-to-live", time(config.time_to_live_ms, "forever")),
    ]);
    match config.max_length {
        Some(max) => lines.extend([
            ("max-length", max.to_string()),
            (
                "max-length-policy",
                config.max_length_policy.as_str().to_owned(),
            ),
        ]),
        None => lines.push(("max-length", "unlimited".to_owned())),
    }
    lines.extend([
        ("groups", config.groups.as_str().to_owned()),
        ("default-priority", config.default_priority.to_string()),
    ]);
    output.fields(&lines)
}
