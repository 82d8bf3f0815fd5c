//! `retry` and `dead-letter` of a pipeline: reads them, and writes them with every default filled in.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::error::Report;
use super::quantity::format_duration;
use super::read::{Table, name};
use super::resolved::word;
use super::words::{or_default, quoted};
use crate::model::{PipelineName, QueueName};

const MAX_ATTEMPTS: RangeInclusive<u64> = 1..=1_000_000;
const DEFAULT_MAX_ATTEMPTS: u64 = 5;
const DEFAULT_INITIAL: Duration = Duration::from_secs(1);
const DEFAULT_MAX: Duration = Duration::from_secs(60);
const PAUSE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 60 * 60);
const DEFAULT_MULTIPLIER: f64 = 2.0;
const MULTIPLIER: RangeInclusive<f64> = 1.0..=1000.0;
/// The word of `dead-letter` that asks for no dead letters.
const STOP: &str = "stop";

/// What happens to records that fail.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrySpec {
    /// How often a record is tried, the first time included, before it is given up on.
    pub max_attempts: u32,
    /// The pause after the first failure.
    pub initial: Duration,
    /// By what the pause grows with each failure.
    pub multiplier: f64,
    /// The longest pause.
    pub max: Duration,
    /// How much of the pause is random.
    pub jitter: Jitter,
    /// Who waits for a record that is tried again.
    pub order: RetryOrder,
}

/// How much of a pause is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jitter {
    /// All of it: between nothing and the pause.
    Full,
    /// Half of it.
    Equal,
    /// Nothing.
    None,
}

/// Who waits for a record that is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOrder {
    /// Later records of the same key.
    #[default]
    Key,
    /// All later records of the partition.
    Partition,
    /// Nobody.
    None,
}

/// Where a record goes that is given up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetter {
    /// To this queue; it is created if it does not exist.
    Queue(QueueName),
    /// Nowhere: the pipeline stops at the record.
    Stop,
}

const JITTERS: [(&str, Jitter); 3] = [
    ("full", Jitter::Full),
    ("equal", Jitter::Equal),
    ("none", Jitter::None),
];

const ORDERS: [(&str, RetryOrder); 3] = [
    ("key", RetryOrder::Key),
    ("partition", RetryOrder::Partition),
    ("none", RetryOrder::None),
];

/// Reads `retry`, with defaults for what is left out.
pub(super) fn read(retry: &Table<'_>, report: &mut Report<'_>) -> Option<RetrySpec> {
    let attempts = retry.integer("max-attempts", MAX_ATTEMPTS, DEFAULT_MAX_ATTEMPTS, report);
    let (initial, max) = read_pauses(retry, report);
    Some(RetrySpec {
        max_attempts: u32::try_from(attempts).ok()?,
        initial,
        multiplier: retry.number("multiplier", MULTIPLIER, DEFAULT_MULTIPLIER, report),
        max,
        jitter: retry.choice("jitter", &JITTERS, report),
        order: retry.choice("order", &ORDERS, report),
    })
}

/// Reads `initial` and `max`. What is left out gives way to what is written.
fn read_pauses(retry: &Table<'_>, report: &mut Report<'_>) -> (Duration, Duration) {
    let mut read = |key, default| {
        let advice = || or_default(quoted(&format_duration(default)));
        retry.duration_or(key, PAUSE, advice, report)
    };
    let (initial, max) = (read("initial", DEFAULT_INITIAL), read("max", DEFAULT_MAX));
    let (Some(initial), Some(max)) = (initial, max) else {
        let initial =
            initial.unwrap_or_else(|| max.map_or(DEFAULT_INITIAL, |max| max.min(DEFAULT_INITIAL)));
        return (initial, max.unwrap_or_else(|| initial.max(DEFAULT_MAX)));
    };
    if initial > max {
        let (longer, longest) = (format_duration(initial), format_duration(max));
        let message =
            format!("`initial` is \"{longer}\", longer than `max`, which is \"{longest}\"");
        let help = "`initial` is the pause after the first failure, and no pause is longer than `max`: lower `initial` or raise `max`";
        let span = retry.value("initial").map(|value| value.span());
        report.error(
            span.unwrap_or_else(|| retry.key_span("initial")),
            message,
            help,
        );
    }
    (initial, max)
}

/// Reads `dead-letter` of a pipeline's table; by default the queue `PIPELINE.dead-letters`.
pub(super) fn read_dead_letter(
    table: &Table<'_>,
    pipeline: Option<&PipelineName>,
    report: &mut Report<'_>,
) -> Option<DeadLetter> {
    const EXPECTED: &str = "\"queue:NAME\" or \"stop\"";
    let Some(value) = table.value("dead-letter") else {
        let default = format!("{}.dead-letters", pipeline?);
        return match default.parse() {
            Ok(queue) => Some(DeadLetter::Queue(queue)),
            Err(_) => {
                let message = format!("`{default}` is too long for a queue's name");
                let help = "name the queue of the dead letters: dead-letter = \"queue:NAME\"";
                report.error(table.key_span("dead-letter"), message, help);
                None
            }
        };
    };
    match value.get_ref() {
        DeValue::String(text) if text == STOP => Some(DeadLetter::Stop),
        DeValue::String(text) if text.starts_with("queue:") => {
            let queue = text.trim_start_matches("queue:");
            name("a queue's name", queue, value.span(), report).map(DeadLetter::Queue)
        }
        _ => {
            let help = or_default("the queue `PIPELINE.dead-letters`");
            table.wrong("dead-letter", value, EXPECTED, help, report);
            None
        }
    }
}

impl Jitter {
    /// As it is written in a manifest.
    pub fn as_str(self) -> &'static str {
        word(&JITTERS, &self)
    }
}

impl RetryOrder {
    /// As it is written in a manifest.
    pub fn as_str(self) -> &'static str {
        word(&ORDERS, &self)
    }
}

impl fmt::Display for RetrySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{{ max-attempts = {}, initial = \"{}\", multiplier = {:?}, max = \"{}\", jitter = \"{}\", order = \"{}\" }}",
            self.max_attempts,
            format_duration(self.initial),
            self.multiplier,
            format_duration(self.max),
            self.jitter.as_str(),
            self.order.as_str(),
        )
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(queue) => write!(f, "queue:{queue}"),
            Self::Stop => f.write_str(STOP),
        }
    }
}
