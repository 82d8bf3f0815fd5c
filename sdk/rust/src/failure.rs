//! Why a record could not be processed, and what to do with it.

use std::fmt::{self, Display};

use crate::columns::FailureKind;

/// Longest reason that is kept, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 1024;

/// The failure of one record (or, from `open` and `finish_batch`, of the plugin).
///
/// Returned from `process`, it takes back the record's outputs and state changes; the other records
/// of the batch stand. Made with [`Reject`] or [`Retry`], or by `?` from any error, which rejects:
/// what an error type says (no number, no JSON) is as a rule as true the second time. Where it is
/// not, say so with [`OrFail::or_retry`].
#[derive(Debug)]
pub struct Failure(Box<Details>);

#[derive(Debug)]
struct Details {
    kind: FailureKind,
    reason: String,
}

impl Failure {
    fn new(kind: FailureKind, reason: String) -> Self {
        Self(Box::new(Details { kind, reason }))
    }

    /// What is to be done with the record.
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// Why, for the person who reads it.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The same failure with a word before its reason: `context: reason`.
    #[must_use]
    pub fn context(mut self, context: impl Display) -> Self {
        self.0.reason = format!("{context}: {}", self.0.reason);
        self
    }

    pub(crate) fn into_parts(self) -> (FailureKind, String) {
        let Details { kind, mut reason } = *self.0;
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        (kind, reason)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason)
    }
}

// `Failure` is no `std::error::Error` itself: that is what lets every error convert into it.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Reject::new(error)
    }
}

/// Failures of records that no later attempt can help: `Err(Reject::new("no carrier"))`.
pub struct Reject;

impl Reject {
    /// The record is never to be tried again, for this reason.
    #[allow(
        clippy::new_ret_no_self,
        reason = "reads as what it means in `Err(Reject::new(…))`"
    )]
    pub fn new(reason: impl Display) -> Failure {
        Failure::new(FailureKind::Reject, reason.to_string())
    }
}

/// Failures of records that may go better later: `Err(Retry::after_ms(500, "service is busy"))`.
pub struct Retry;

impl Retry {
    /// The record is to be tried again after the pipeline's backoff.
    #[allow(
        clippy::new_ret_no_self,
        reason = "reads as what it means in `Err(Retry::new(…))`"
    )]
    pub fn new(reason: impl Display) -> Failure {
        Failure::new(FailureKind::Retry(None), reason.to_string())
    }

    /// The record is to be tried again after `delay_ms` ms.
    pub fn after_ms(delay_ms: u32, reason: impl Display) -> Failure {
        Failure::new(FailureKind::Retry(Some(delay_ms)), reason.to_string())
    }
}

/// Turns results and options into [`Failure`]s with a reason.
pub trait OrFail<T> {
    /// Rejects the record if there is no value: `reason`, followed by the error if there is one.
    fn or_reject(self, reason: impl Display) -> Result<T, Failure>;
    /// Asks for another attempt if there is no value.
    fn or_retry(self, reason: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    #[inline]
    fn or_reject(self, reason: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Reject::new(format_args!("{reason}: {error}")))
    }

    #[inline]
    fn or_retry(self, reason: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Retry::new(format_args!("{reason}: {error}")))
    }
}

impl<T> OrFail<T> for Option<T> {
    #[inline]
    fn or_reject(self, reason: impl Display) -> Result<T, Failure> {
        self.ok_or_else(|| Reject::new(reason))
    }

    #[inline]
    fn or_retry(self, reason: impl Display) -> Result<T, Failure> {
        self.ok_or_else(|| Retry::new(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_mark_rejects() {
        fn parse(text: &str) -> Result<u32, Failure> {
            Ok(text.parse::<u32>()?)
        }
        assert_eq!(parse("7").unwrap(), 7);
        let failure = parse("x").unwrap_err();
        assert!(matches!(failure.kind(), FailureKind::Reject));
        assert_eq!(failure.reason(), "invalid digit found in string");
    }

    #[test]
    fn strings_and_options_convert_with_a_reason() {
        let failed: Result<(), String> = Err("busy".to_owned());
        let failure = failed.or_retry("the service").unwrap_err();
        assert!(matches!(failure.kind(), FailureKind::Retry(None)));
        assert_eq!(failure.to_string(), "the service: busy");
        assert_eq!(
            None::<u8>.or_reject("no carrier").unwrap_err().reason(),
            "no carrier"
        );
        assert!(matches!(
            Retry::after_ms(500, "x").kind(),
            FailureKind::Retry(Some(500))
        ));
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let (_, reason) = Reject::new("ä".repeat(600)).context("a").into_parts();
        assert_eq!(reason.len(), MAX_REASON_BYTES - 1);
        assert!(reason.starts_with("a: ää"));
    }

    #[test]
    fn a_result_is_as_small_as_a_pointer() {
        assert_eq!(size_of::<Result<(), Failure>>(), size_of::<usize>());
    }
}
