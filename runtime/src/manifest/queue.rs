//! `[queues.NAME]`: reads one, and writes it with every default filled in.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::error::{Place, Report};
use super::quantity::format_duration;
use super::read::{KeyRef, NAME_EXPECTED, Table, Value, name};
use super::resolve::whole_ms;
use super::schema;
use super::words::Key;
use crate::model::{GroupBy, MaxLengthPolicy, QueueName};

const MS: Duration = Duration::from_millis(1);
/// As SQS.
const DEFAULT_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);
/// As SQS.
const MAX_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(12 * 60 * 60);
/// As SQS, where it is fixed.
const DEFAULT_DEDUPLICATION_WINDOW: Duration = Duration::from_secs(5 * 60);
/// The longest delay, window and time to live.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Deliveries when there is a dead-letter queue and no number.
const DEFAULT_MAX_DELIVERIES: u64 = 5;
const DEFAULT_PRIORITY: u64 = 4;
const MAX_PRIORITY: u64 = 9;

/// A queue as the manifest wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// The queue's name.
    pub name: QueueName,
    /// How long a lease lasts unless it asks otherwise, in ms.
    pub visibility_timeout_ms: u64,
    /// Deliveries after which a message goes to the dead-letter queue; `None` without one.
    pub max_deliveries: Option<u32>,
    /// The queue that takes the dead letters.
    pub dead_letter: Option<QueueName>,
    /// How long messages wait before their first delivery, in ms.
    pub delay_ms: u64,
    /// How long deduplication ids are remembered, in ms.
    pub deduplication_window_ms: u64,
    /// How long messages are of use, in ms; `None` = for ever.
    pub time_to_live_ms: Option<u64>,
    /// Messages at most; `None` = no limit.
    pub max_length: Option<u64>,
    /// What happens when it is full.
    pub max_length_policy: MaxLengthPolicy,
    /// What makes messages a FIFO group.
    pub groups: GroupBy,
    /// The priority of messages that do not say theirs.
    pub default_priority: u8,
    /// Where the manifest declares it.
    pub place: Place,
}

/// The words of `max-length-policy`.
const POLICIES: [(&str, MaxLengthPolicy); 2] = [
    (MaxLengthPolicy::Reject.as_str(), MaxLengthPolicy::Reject),
    (
        MaxLengthPolicy::DropOldest.as_str(),
        MaxLengthPolicy::DropOldest,
    ),
];

/// The words of `groups`.
const GROUPS: [(&str, GroupBy); 2] = [
    (GroupBy::Header.as_str(), GroupBy::Header),
    (GroupBy::Key.as_str(), GroupBy::Key),
];

/// A queue, and where its dead-letter queue is named.
pub(super) struct Read {
    pub(super) spec: QueueSpec,
    pub(super) dead_letter_span: Range<usize>,
}

pub(super) fn read(key: KeyRef<'_>, value: Value<'_>, report: &mut Report<'_>) -> Option<Read> {
    let label = format!("`[queues.{}]`", Key(key.get_ref()));
    let queue_name = name("a queue's name", key.get_ref(), key.span(), report);
    let table = Table::read(&schema::QUEUE, label, key.span(), value, report)?;

    let mut time = |key: &str, least: Duration, most: Duration, default: Duration| {
        let duration = table.duration(key, least..=most, default, report);
        whole_ms(&table, key, duration, report)
    };
    let visibility_timeout_ms = time(
        "visibility-timeout",
        MS,
        MAX_VISIBILITY_TIMEOUT,
        DEFAULT_VISIBILITY_TIMEOUT,
    );
    let delay_ms = time("delay", Duration::ZERO, MAX_TIME, Duration::ZERO);
    let deduplication_window_ms = time(
        "deduplication-window",
        Duration::ZERO,
        MAX_TIME,
        DEFAULT_DEDUPLICATION_WINDOW,
    );
    let forever = || "leave it out if messages do not expire".to_owned();
    let time_to_live = table.duration_or("time-to-live", MS..=MAX_TIME, forever, report);
    let time_to_live_ms = time_to_live.map(|life| whole_ms(&table, "time-to-live", life, report));
    let dead_letter = dead_letter(&table, report);
    let most_deliveries = u64::from(u32::MAX);
    let max_deliveries = table.integer(
        "max-deliveries",
        1..=most_deliveries,
        DEFAULT_MAX_DELIVERIES,
        report,
    );
    let unlimited = || "leave it out for any number of messages".to_owned();
    let max_length = table.integer_or("max-length", 1..=i64::MAX as u64, unlimited, report);
    let max_length_policy = table.choice("max-length-policy", &POLICIES, report);
    let groups = table.choice("groups", &GROUPS, report);
    let priority = table.integer(
        "default-priority",
        0..=MAX_PRIORITY,
        DEFAULT_PRIORITY,
        report,
    );
    refuse_without_effect(&table, report);

    let has_dead_letter = table.value("dead-letter").is_some();
    let spec = QueueSpec {
        name: queue_name?,
        visibility_timeout_ms,
        max_deliveries: has_dead_letter.then_some(u32::try_from(max_deliveries).ok()?),
        dead_letter,
        delay_ms,
        deduplication_window_ms,
        time_to_live_ms,
        max_length,
        max_length_policy,
        groups,
        default_priority: u8::try_from(priority).ok()?,
        place: report.place(&key.span()),
    };
    Some(Read {
        spec,
        dead_letter_span: table.span_of("dead-letter"),
    })
}

fn dead_letter(table: &Table<'_>, report: &mut Report<'_>) -> Option<QueueName> {
    const KEY: &str = "dead-letter";
    let value = table.value(KEY)?;
    let Some(text) = value.get_ref().as_str() else {
        let help = "for example `dead-letter = \"rebook-failed\"`";
        table.wrong(KEY, value, NAME_EXPECTED, help, report);
        return None;
    };
    if let Some(bare) = text.strip_prefix("queue:") {
        let help = format!("a dead-letter is always a queue: write `dead-letter = \"{bare}\"`");
        table.wrong(KEY, value, "a queue's name", help, report);
        return None;
    }
    name("`dead-letter`", text, value.span(), report)
}

/// Notes keys that mean nothing without another.
fn refuse_without_effect(table: &Table<'_>, report: &mut Report<'_>) {
    for (key, needed, example) in [
        (
            "max-deliveries",
            "dead-letter",
            "dead-letter = \"rebook-failed\"",
        ),
        ("max-length-policy", "max-length", "max-length = 100000"),
    ] {
        if table.value(key).is_some() && table.value(needed).is_none() {
            report.error(
                table.key_span(key),
                format!("`{key}` has no effect without `{needed}`"),
                format!("remove it, or add one, for example `{example}`"),
            );
        }
    }
}

impl fmt::Display for QueueSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ms: u64| format_duration(Duration::from_millis(ms));
        writeln!(f, "[queues.{}]", Key(self.name.as_str()))?;
        let visibility_timeout = time(self.visibility_timeout_ms);
        writeln!(f, "visibility-timeout = \"{visibility_timeout}\"")?;
        if let (Some(dead_letter), Some(max_deliveries)) = (&self.dead_letter, self.max_deliveries)
        {
            writeln!(f, "max-deliveries = {max_deliveries}")?;
            writeln!(f, "dead-letter = \"{dead_letter}\"")?;
        }
        writeln!(f, "delay = \"{}\"", time(self.delay_ms))?;
        let window = time(self.deduplication_window_ms);
        writeln!(f, "deduplication-window = \"{window}\"")?;
        if let Some(ms) = self.time_to_live_ms {
            writeln!(f, "time-to-live = \"{}\"", time(ms))?;
        }
        if let Some(max_length) = self.max_length {
            writeln!(f, "max-length = {max_length}")?;
            let policy = self.max_length_policy.as_str();
            writeln!(f, "max-length-policy = \"{policy}\"")?;
        }
        writeln!(f, "groups = \"{}\"", self.groups.as_str())?;
        writeln!(f, "default-priority = {}", self.default_priority)
    }
}
