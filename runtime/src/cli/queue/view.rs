//! Queues as they are shown.

use crate::cli::output::{self, Output};
use crate::cli::quantity;
use crate::server::QueueView;

/// Writes everything, one field a line.
pub(super) fn write(queue: &QueueView, output: &mut Output) -> Result<(), output::Error> {
    let time =
        |ms: Option<u64>, none: &str| ms.map_or_else(|| none.to_owned(), quantity::format_ms);
    let settings = &queue.settings;
    let mut lines = vec![
        ("queue", queue.name.to_string()),
        ("waiting", queue.waiting.to_string()),
        ("delayed", queue.delayed.to_string()),
        ("leased", queue.leased.to_string()),
        ("oldest-age", time(queue.oldest_age_ms, "-")),
        ("bytes", output.bytes(queue.size_bytes)),
        (
            "visibility-timeout",
            time(settings.visibility_timeout_ms, "-"),
        ),
    ];
    if let (Some(name), Some(max)) = (&settings.dead_letter, settings.max_deliveries) {
        lines.extend([
            ("max-deliveries", max.to_string()),
            ("dead-letter", name.to_string()),
            ("dead-letters", queue.dead_letters.unwrap_or(0).to_string()),
        ]);
    }
    lines.extend([
        ("delay", time(settings.delay_ms, "-")),
        (
            "deduplication-window",
            time(settings.deduplication_window_ms, "-"),
        ),
        ("time-to-live", time(settings.time_to_live_ms, "forever")),
    ]);
    match settings.max_length {
        Some(max) => {
            let policy = settings.max_length_policy.unwrap_or_default().as_str();
            lines.extend([
                ("max-length", max.to_string()),
                ("max-length-policy", policy.to_owned()),
            ]);
        }
        None => lines.push(("max-length", "unlimited".to_owned())),
    }
    let groups = settings.groups.unwrap_or_default().as_str();
    let priority = settings.default_priority;
    lines.extend([
        ("groups", groups.to_owned()),
        (
            "default-priority",
            priority.map_or_else(|| "-".to_owned(), |priority| priority.to_string()),
        ),
    ]);
    output.fields(&lines)
}
