//! The settings of a queue on the command line, named as in a manifest.

use crate::cli::quantity;
use crate::model::QueueName;
use crate::queue::{GroupBy, MaxLengthPolicy};
use crate::server::QueueSettings;

/// Settings of a queue, named as in a manifest.
#[derive(Debug, Default, PartialEq, clap::Args)]
pub(in crate::cli) struct Settings {
    /// How long a lease lasts, unless it asks otherwise [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    visibility_timeout: Option<u64>,
    /// The queue that takes what this one gives up on; it is created if it does not exist
    #[arg(long, value_name = "QUEUE")]
    dead_letter: Option<QueueName>,
    /// How often a message is delivered before it is a dead letter [default: 5]
    #[arg(long, value_name = "COUNT", requires = "dead_letter")]
    max_deliveries: Option<u32>,
    /// How long messages wait before their first delivery, unless they say otherwise [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    delay: Option<u64>,
    /// How long deduplication ids are remembered [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    deduplication_window: Option<u64>,
    /// How long messages are of use, unless they say otherwise [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration_ms)]
    time_to_live: Option<u64>,
    /// Messages that the queue holds at most [default: no limit]
    #[arg(long, value_name = "COUNT")]
    max_length: Option<u64>,
    /// What happens when it is full [default: reject]
    #[arg(long, value_enum, requires = "max_length")]
    max_length_policy: Option<PolicyArg>,
    /// What makes messages a FIFO group [default: header]
    #[arg(long, value_enum)]
    groups: Option<GroupsArg>,
    /// The priority of messages that do not say theirs, 0 to 9 [default: 4]
    #[arg(long, value_name = "PRIORITY", value_parser = clap::value_parser!(u8).range(0..=9))]
    default_priority: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PolicyArg {
    /// New messages are refused
    Reject,
    /// The oldest messages go
    DropOldest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GroupsArg {
    /// The header `millstream-group`
    Header,
    /// The key
    Key,
}

impl From<Settings> for QueueSettings {
    fn from(settings: Settings) -> Self {
        Self {
            visibility_timeout_ms: settings.visibility_timeout,
            max_deliveries: settings.max_deliveries,
            dead_letter: settings.dead_letter,
            delay_ms: settings.delay,
            deduplication_window_ms: settings.deduplication_window,
            time_to_live_ms: settings.time_to_live,
            max_length: settings.max_length,
            max_length_policy: settings.max_length_policy.map(|policy| match policy {
                PolicyArg::Reject => MaxLengthPolicy::Reject,
                PolicyArg::DropOldest => MaxLengthPolicy::DropOldest,
            }),
            groups: settings.groups.map(|groups| match groups {
                GroupsArg::Header => GroupBy::Header,
                GroupsArg::Key => GroupBy::Key,
            }),
            default_priority: settings.default_priority,
        }
    }
}
