//! What a dead letter says besides the record: headers with fixed names. All values but one are text,
//! numbers decimal.
//!
//! [`DeadLetter`] reads them, [`Filter`] selects by them, [`redriven`] takes them off again.

mod filter;
mod origin;
mod read;

pub use filter::{DigestStart, Filter, Term};
pub use origin::Origin;
pub use read::DeadLetter;

use super::attributes::{DELAY, EXPIRES_AT, NOT_BEFORE, TIME_TO_LIVE};
use crate::model::{HeadersBuf, HeadersRef, QueueName, batch};

/// Where it comes from: `queue:NAME/OFFSET`, `topic:NAME/PARTITION/OFFSET`, or, if it was a timer,
/// `timer:PIPELINE/TASK/KEY@DUE`.
pub const ORIGIN: &str = "millstream-origin";
/// Why it was given up on, as a word.
pub const REASON: &str = "millstream-reason";
/// What happened, for people.
pub const ERROR: &str = "millstream-error";
/// How often it was delivered.
pub const ATTEMPTS: &str = "millstream-attempts";
/// The pipeline that gave up on it.
pub const PIPELINE: &str = "millstream-pipeline";
/// The pipeline's plugin, `NAME@DIGEST`.
pub const PLUGIN: &str = "millstream-plugin";
/// When it first failed, in ms since the epoch.
pub const FIRST_FAILED_AT: &str = "millstream-first-failed-at";
/// When it was given up on, in ms since the epoch.
pub const DEAD_LETTERED_AT: &str = "millstream-dead-lettered-at";
/// The plugin's call stack when it faulted, innermost first; at most 4 KiB.
pub const BACKTRACE: &str = "millstream-backtrace";
/// What the plugin saw when it failed: bytes, for `dead-letter replay`; at most 256 KiB.
pub const REPLAY: &str = "millstream-replay";

/// On a record that was redriven: the dead letter that it was, `queue:NAME/OFFSET`.
pub const REDRIVEN_FROM: &str = "millstream-redriven-from";
/// On a record that was redriven: how often.
pub const REDRIVE_COUNT: &str = "millstream-redrive-count";

/// Whether a dead letter does not take this header over from the record: an earlier dead letter has
/// put it there, or it is a time that meant something to the queue before.
pub fn is_replaced(header: &str) -> bool {
    [
        ORIGIN,
        REASON,
        ERROR,
        ATTEMPTS,
        PIPELINE,
        PLUGIN,
        FIRST_FAILED_AT,
        DEAD_LETTERED_AT,
        BACKTRACE,
        REPLAY,
        DELAY,
        NOT_BEFORE,
        TIME_TO_LIVE,
        EXPIRES_AT,
    ]
    .contains(&header)
}

/// The headers of a dead letter that goes back to where it comes from: those of the record, and that and
/// how often it was redriven. `into` is cleared first.
///
/// # Errors
/// More or larger headers than a record takes.
pub fn redriven(
    headers: HeadersRef<'_>,
    queue: &QueueName,
    offset: u64,
    into: &mut HeadersBuf,
) -> Result<(), batch::Error> {
    into.clear();
    let count = DeadLetter::read(headers).redrive_count.saturating_add(1);
    for (name, value) in headers {
        if !is_replaced(name) && name != REDRIVEN_FROM && name != REDRIVE_COUNT {
            into.push(name, value)?;
        }
    }
    let from = format!("queue:{queue}/{offset}");
    into.push(REDRIVEN_FROM, Some(from.as_bytes()))?;
    into.push(REDRIVE_COUNT, Some(count.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redriven_record_has_its_own_headers_and_says_where_it_was() {
        let mut letter = HeadersBuf::new();
        for (name, value) in [
            ("h", "1"),
            (ORIGIN, "topic:in/0/7"),
            (REASON, "trap"),
            ("h", "2"),
            (BACKTRACE, "at f"),
            ("millstream-priority", "9"),
            (REDRIVEN_FROM, "queue:dead/3"),
            (REDRIVE_COUNT, "2"),
        ] {
            letter.push(name, Some(value.as_bytes())).unwrap();
        }
        let mut headers = HeadersBuf::new();
        let queue = "dead".parse().unwrap();
        redriven(letter.as_headers(), &queue, 12, &mut headers).unwrap();
        let left: Vec<_> = headers
            .as_headers()
            .iter()
            .map(|(name, value)| {
                (
                    name.to_owned(),
                    String::from_utf8_lossy(value.unwrap()).into_owned(),
                )
            })
            .collect();
        let expected = [
            ("h", "1"),
            ("h", "2"),
            ("millstream-priority", "9"),
            (REDRIVEN_FROM, "queue:dead/12"),
            (REDRIVE_COUNT, "3"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(left, expected);
    }
}
