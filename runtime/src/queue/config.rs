//! The settings of a queue.

use serde::{Deserialize, Serialize};

use super::Error;
use super::attributes::MAX_PRIORITY;
use crate::model::{GroupBy, MaxLengthPolicy, QueueName};

/// How often a message is delivered at most when a dead-letter queue is named and no number is;
/// the number that SQS's console proposes is 10, that of most job systems 3 to 5.
pub const DEFAULT_MAX_DELIVERIES: u32 = 5;
/// SQS's.
const DEFAULT_VISIBILITY_TIMEOUT_MS: u64 = 30_000;
/// SQS's, where it is fixed.
const DEFAULT_DEDUPLICATION_WINDOW_MS: u64 = 5 * 60_000;
/// JMS's (10 priorities, of which 0 to 4 are normal), so that there is room on both sides.
const DEFAULT_PRIORITY: u8 = 4;
/// SQS's.
pub const MAX_VISIBILITY_TIMEOUT_MS: u64 = 12 * 60 * 60_000;
const MAX_MS: u64 = 365 * 24 * 60 * 60_000;

/// The settings of a queue. Times are in ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct QueueConfig {
    /// How long a lease lasts, unless it asks otherwise; 1 ms to 12 hours.
    pub visibility_timeout_ms: u64,
    /// How often a message is delivered before it goes to the dead-letter queue; `None` = for ever, or
    /// [`DEFAULT_MAX_DELIVERIES`] if there is a dead-letter queue.
    pub max_deliveries: Option<u32>,
    /// The queue that takes what this one gives up on.
    pub dead_letter: Option<QueueName>,
    /// How long messages wait before their first delivery, unless they say otherwise.
    pub delay_ms: u64,
    /// How long a deduplication id is remembered; 0 = not at all.
    pub deduplication_window_ms: u64,
    /// Messages that have waited for longer expire; `None` = never.
    pub time_to_live_ms: Option<u64>,
    /// Messages that the queue holds at most, leased ones included; `None` = no limit.
    pub max_length: Option<u64>,
    /// What happens when it is full.
    pub max_length_policy: MaxLengthPolicy,
    /// What makes messages a FIFO group.
    pub groups: GroupBy,
    /// The priority of messages that do not say theirs, 0 to 9; 9 is delivered first.
    pub default_priority: u8,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            visibility_timeout_ms: DEFAULT_VISIBILITY_TIMEOUT_MS,
            max_deliveries: None,
            dead_letter: None,
            delay_ms: 0,
            deduplication_window_ms: DEFAULT_DEDUPLICATION_WINDOW_MS,
            time_to_live_ms: None,
            max_length: None,
            max_length_policy: MaxLengthPolicy::default(),
            groups: GroupBy::default(),
            default_priority: DEFAULT_PRIORITY,
        }
    }
}

impl QueueConfig {
    /// How often a message is delivered before it goes to the dead-letter queue; `None` = for ever.
    pub fn effective_max_deliveries(&self) -> Option<u32> {
        self.dead_letter
            .as_ref()
            .map(|_| self.max_deliveries.unwrap_or(DEFAULT_MAX_DELIVERIES))
    }

    pub(super) fn validate(&self, name: &QueueName) -> Result<(), Error> {
        let invalid = |reason: String| {
            Err(Error::InvalidConfig {
                name: name.clone(),
                reason,
            })
        };
        let times = [
            (
                "visibility-timeout",
                self.visibility_timeout_ms,
                1,
                MAX_VISIBILITY_TIMEOUT_MS,
            ),
            ("delay", self.delay_ms, 0, MAX_MS),
            (
                "deduplication-window",
                self.deduplication_window_ms,
                0,
                MAX_MS,
            ),
            ("time-to-live", self.time_to_live_ms.unwrap_or(1), 1, MAX_MS),
        ];
        for (setting, value, least, most) in times {
            if value < least || value > most {
                return invalid(format!(
                    "{setting} is {value} ms; expected {least} to {most} ms"
                ));
            }
        }
        if self.max_deliveries == Some(0) {
            return invalid("max-deliveries is 0; expected 1 or more".to_owned());
        }
        if self.max_deliveries.is_some() && self.dead_letter.is_none() {
            return invalid(
                "max-deliveries needs a dead-letter: name the queue that takes the messages"
                    .to_owned(),
            );
        }
        if self.dead_letter.as_ref() == Some(name) {
            return invalid("dead-letter is the queue itself".to_owned());
        }
        if self.max_length == Some(0) {
            return invalid("max-length is 0; expected 1 or more".to_owned());
        }
        if self.default_priority > MAX_PRIORITY {
            let priority = self.default_priority;
            return invalid(format!("default-priority is {priority}; expected 0 to 9"));
        }
        Ok(())
    }
}
