//! Queues and messages as they are shown.

use serde::Serialize;

use crate::cli::output::{self, Output};
use crate::cli::quantity;
use crate::model::QueueName;
use crate::queue::{
    Description, GroupBy, MaxLengthPolicy, MessageState, PeekedMessage, Queue, QueueConfig,
};

/// A queue and what it holds.
#[derive(Debug, Serialize)]
pub(super) struct QueueView {
    pub(super) name: QueueName,
    pub(super) waiting: u64,
    pub(super) delayed: u64,
    pub(super) leased: u64,
    pub(super) oldest_age_ms: Option<u64>,
    pub(super) size_bytes: u64,
    pub(super) dead_letters: Option<u64>,
    visibility_timeout_ms: u64,
    max_deliveries: Option<u32>,
    pub(super) dead_letter: Option<QueueName>,
    delay_ms: u64,
    deduplication_window_ms: u64,
    time_to_live_ms: Option<u64>,
    max_length: Option<u64>,
    max_length_policy: MaxLengthPolicy,
    groups: GroupBy,
    default_priority: u8,
}

impl QueueView {
    /// How a queue is now.
    pub(super) fn of(queue: &Queue, description: &Description) -> Self {
        let config = queue.config();
        let QueueConfig {
            visibility_timeout_ms,
            delay_ms,
            deduplication_window_ms,
            time_to_live_ms,
            max_length,
            max_length_policy,
            groups,
            default_priority,
            ..
        } = *config;
        Self {
            name: queue.name().clone(),
            waiting: description.waiting_count,
            delayed: description.delayed_count,
            leased: description.leased_count,
            oldest_age_ms: description.oldest_age_ms,
            size_bytes: description.size_bytes,
            dead_letters: description.dead_letter.as_ref().map(|(_, count)| *count),
            visibility_timeout_ms,
            max_deliveries: config.effective_max_deliveries(),
            dead_letter: config.dead_letter.clone(),
            delay_ms,
            deduplication_window_ms,
            time_to_live_ms,
            max_length,
            max_length_policy,
            groups,
            default_priority,
        }
    }

    /// Writes everything, one field a line.
    pub(super) fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        let time =
            |ms: Option<u64>, none: &str| ms.map_or_else(|| none.to_owned(), quantity::format_ms);
        let mut lines = vec![
            ("queue", self.name.to_string()),
            ("waiting", self.waiting.to_string()),
            ("delayed", self.delayed.to_string()),
            ("leased", self.leased.to_string()),
            ("oldest-age", time(self.oldest_age_ms, "-")),
            ("bytes", output.bytes(self.size_bytes)),
            (
                "visibility-timeout",
                quantity::format_ms(self.visibility_timeout_ms),
            ),
        ];
        if let (Some(name), Some(max)) = (&self.dead_letter, self.max_deliveries) {
            lines.extend([
                ("max-deliveries", max.to_string()),
                ("dead-letter", name.to_string()),
                ("dead-letters", self.dead_letters.unwrap_or(0).to_string()),
            ]);
        }
        lines.extend([
            ("delay", quantity::format_ms(self.delay_ms)),
            (
                "deduplication-window",
                quantity::format_ms(self.deduplication_window_ms),
            ),
            ("time-to-live", time(self.time_to_live_ms, "forever")),
        ]);
        match self.max_length {
            Some(max) => lines.extend([
                ("max-length", max.to_string()),
                (
                    "max-length-policy",
                    self.max_length_policy.as_str().to_owned(),
                ),
            ]),
            None => lines.push(("max-length", "unlimited".to_owned())),
        }
        lines.extend([
            ("groups", self.groups.as_str().to_owned()),
            ("default-priority", self.default_priority.to_string()),
        ]);
        output.fields(&lines)
    }
}

/// The word for what a message waits for, and the time that it waits for.
pub(super) fn state(message: &PeekedMessage) -> (&'static str, Option<u64>) {
    match message.state {
        MessageState::Ready => ("ready", None),
        MessageState::Behind => ("behind", None),
        MessageState::Delayed { until_ms } => ("delayed", Some(until_ms)),
        MessageState::Leased { deadline_ms } => ("leased", deadline_ms),
    }
}
