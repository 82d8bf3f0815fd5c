//! What a dead letter says besides the record: headers with fixed names. All values are text, numbers
//! decimal.

use super::attributes::{DELAY, EXPIRES_AT, NOT_BEFORE, TIME_TO_LIVE};

/// Where it comes from: `queue:NAME/OFFSET` or `topic:NAME/PARTITION/OFFSET`.
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
        DELAY,
        NOT_BEFORE,
        TIME_TO_LIVE,
        EXPIRES_AT,
    ]
    .contains(&header)
}
