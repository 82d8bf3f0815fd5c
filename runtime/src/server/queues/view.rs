//! Queues as the API shows them, and their settings as it takes them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::extract::object;
use crate::model::QueueName;
use crate::queue::{Description, GroupBy, MaxLengthPolicy, Queue, QueueConfig};

/// A queue and what it holds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: QueueName,
    /// Messages that can be leased, now or when those of their group before them are done with.
    pub waiting: u64,
    /// Messages that wait for a time.
    pub delayed: u64,
    /// Messages that are leased, or being settled.
    pub leased: u64,
    /// How long ago the oldest message is dated; null if there is none.
    pub oldest_age_ms: Option<u64>,
    /// Bytes of the stored batches.
    pub size_bytes: u64,
    /// Messages in the queue of its dead letters; null if it has none.
    pub dead_letters: Option<u64>,
    /// Its settings.
    #[serde(flatten)]
    pub config: QueueConfigView,
}

/// A queue's settings.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueConfigView {
    /// How long a lease lasts, unless it asks otherwise.
    pub visibility_timeout_ms: u64,
    /// How often a message is delivered before it is a dead letter; null without end.
    pub max_deliveries: Option<u32>,
    /// The queue that takes what this one gives up on; null if there is none.
    #[schema(value_type = Option<String>)]
    pub dead_letter: Option<QueueName>,
    /// How long messages wait before their first delivery, unless they say otherwise.
    pub delay_ms: u64,
    /// How long deduplication ids are remembered.
    pub deduplication_window_ms: u64,
    /// Messages that have waited for longer expire; null for never.
    pub time_to_live_ms: Option<u64>,
    /// Messages that the queue holds at most; null without limit.
    pub max_length: Option<u64>,
    /// What happens when it is full: `reject` or `drop-oldest`.
    #[schema(value_type = PolicyName)]
    pub max_length_policy: MaxLengthPolicy,
    /// What makes messages a FIFO group: `header` or `key`.
    #[schema(value_type = GroupsName)]
    pub groups: GroupBy,
    /// The priority of messages that do not say theirs, 0 to 9.
    #[schema(minimum = 0, maximum = 9)]
    pub default_priority: u8,
}

/// Settings of a queue; the default where one is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// How long a lease lasts, unless it asks otherwise; 30,000 by default.
    pub visibility_timeout_ms: Option<u64>,
    /// How often a message is delivered before it is a dead letter; null without end, 5 if there is a queue for them.
    pub max_deliveries: Option<u32>,
    /// The queue that takes what this one gives up on; it is created if it does not exist.
    #[schema(value_type = Option<String>)]
    pub dead_letter: Option<QueueName>,
    /// How long messages wait before their first delivery, unless they say otherwise; 0 by default.
    pub delay_ms: Option<u64>,
    /// How long deduplication ids are remembered; 300,000 by default.
    pub deduplication_window_ms: Option<u64>,
    /// Messages that have waited for longer expire; null for never.
    pub time_to_live_ms: Option<u64>,
    /// Messages that the queue holds at most; null without limit.
    pub max_length: Option<u64>,
    /// What happens when it is full: `reject` (the default) or `drop-oldest`.
    #[schema(value_type = Option<PolicyName>)]
    pub max_length_policy: Option<MaxLengthPolicy>,
    /// What makes messages a FIFO group: `header` (the default) or `key`.
    #[schema(value_type = Option<GroupsName>)]
    pub groups: Option<GroupBy>,
    /// The priority of messages that do not say theirs, 0 to 9; 4 by default.
    #[schema(minimum = 0, maximum = 9)]
    pub default_priority: Option<u8>,
}

/// What happens when a queue is full.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "the schema of a type below the API")]
enum PolicyName {
    Reject,
    DropOldest,
}

/// What makes messages a FIFO group.
#[derive(ToSchema)]
#[schema(rename_all = "kebab-case")]
#[expect(dead_code, reason = "the schema of a type below the API")]
enum GroupsName {
    Header,
    Key,
}

/// A queue to create.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewQueue {
    /// Its name: 1 to 249 letters, digits, `.`, `_` and `-`.
    #[schema(value_type = String, min_length = 1, max_length = 249, pattern = "^[a-zA-Z0-9._-]+$")]
    pub name: QueueName,
    /// Its settings.
    #[serde(default, deserialize_with = "object")]
    pub settings: QueueSettings,
}

/// Messages that are gone.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RemovedMessages {
    /// The queue.
    #[schema(value_type = String)]
    pub name: QueueName,
    /// How many.
    pub messages: u64,
}

impl QueueView {
    /// How a queue is now.
    pub(crate) fn of(queue: &Queue, description: &Description) -> Self {
        let config = queue.config();
        Self {
            name: queue.name().clone(),
            waiting: description.waiting_count,
            delayed: description.delayed_count,
            leased: description.leased_count,
            oldest_age_ms: description.oldest_age_ms,
            size_bytes: description.size_bytes,
            dead_letters: description.dead_letter.as_ref().map(|(_, count)| *count),
            config: QueueConfigView::of(&config),
        }
    }
}

impl QueueConfigView {
    fn of(config: &QueueConfig) -> Self {
        Self {
            visibility_timeout_ms: config.visibility_timeout_ms,
            max_deliveries: config.effective_max_deliveries(),
            dead_letter: config.dead_letter.clone(),
            delay_ms: config.delay_ms,
            deduplication_window_ms: config.deduplication_window_ms,
            time_to_live_ms: config.time_to_live_ms,
            max_length: config.max_length,
            max_length_policy: config.max_length_policy,
            groups: config.groups,
            default_priority: config.default_priority,
        }
    }
}

impl QueueSettings {
    /// The settings, with the defaults where none is given.
    pub(crate) fn config(&self) -> QueueConfig {
        let default = QueueConfig::default();
        QueueConfig {
            visibility_timeout_ms: self
                .visibility_timeout_ms
                .unwrap_or(default.visibility_timeout_ms),
            max_deliveries: self.max_deliveries,
            dead_letter: self.dead_letter.clone(),
            delay_ms: self.delay_ms.unwrap_or(default.delay_ms),
            deduplication_window_ms: self
                .deduplication_window_ms
                .unwrap_or(default.deduplication_window_ms),
            time_to_live_ms: self.time_to_live_ms,
            max_length: self.max_length,
            max_length_policy: self.max_length_policy.unwrap_or_default(),
            groups: self.groups.unwrap_or_default(),
            default_priority: self.default_priority.unwrap_or(default.default_priority),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_the_default() {
        let config = QueueSettings::default().config();
        assert_eq!(config, QueueConfig::default());
        let settings: QueueSettings =
            serde_json::from_str(r#"{"max_length":7,"max_length_policy":"drop-oldest"}"#).unwrap();
        let expected = QueueConfig {
            max_length: Some(7),
            max_length_policy: MaxLengthPolicy::DropOldest,
            ..QueueConfig::default()
        };
        assert_eq!(settings.config(), expected);
    }

    #[test]
    fn what_is_shown_is_taken_as_settings() {
        let config = QueueConfig {
            visibility_timeout_ms: 7,
            max_deliveries: Some(2),
            dead_letter: Some("d".parse().unwrap()),
            delay_ms: 3,
            deduplication_window_ms: 4,
            time_to_live_ms: Some(5),
            max_length: Some(6),
            max_length_policy: MaxLengthPolicy::DropOldest,
            groups: GroupBy::Key,
            default_priority: 9,
        };
        let shown = serde_json::to_string(&QueueConfigView::of(&config)).unwrap();
        let settings: QueueSettings = serde_json::from_str(&shown).unwrap();
        assert_eq!(settings.config(), config);
    }

    /// A setting that is misspelt would be the default without a word.
    #[test]
    fn a_setting_that_is_not_known_is_refused() {
        let misspelt = r#"{"name":"q","settings":{"max_deliverys":3}}"#;
        let error = serde_json::from_str::<NewQueue>(misspelt).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `max_deliverys`"),
            "{error}"
        );
    }
}
