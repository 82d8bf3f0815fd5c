//! Reads what a dead letter says of itself.

use super::{
    ATTEMPTS, BACKTRACE, DEAD_LETTERED_AT, ERROR, FIRST_FAILED_AT, ORIGIN, Origin, PIPELINE,
    PLUGIN, REASON, REDRIVE_COUNT, REDRIVEN_FROM, REPLAY,
};
use crate::model::HeadersRef;

/// The W3C header that says which trace a record belongs to.
const TRACE_PARENT: &str = "traceparent";

/// What a dead letter says of itself. What is missing or malformed is `None`: a message of a dead-letter
/// queue may have come there otherwise, or be too large for these headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// Where it comes from.
    pub origin: Option<Origin>,
    /// Why it was given up on, as a word.
    pub reason: Option<&'a str>,
    /// What happened, for people.
    pub error: Option<&'a str>,
    /// How often it was tried.
    pub attempts: Option<u32>,
    /// The pipeline that gave up on it.
    pub pipeline: Option<&'a str>,
    /// The pipeline's plugin, `NAME@DIGEST`.
    pub plugin: Option<&'a str>,
    /// When it first failed, in ms since the epoch.
    pub first_failed_ms: Option<u64>,
    /// When it was given up on, in ms since the epoch.
    pub dead_lettered_ms: Option<u64>,
    /// The plugin's call stack, innermost first.
    pub backtrace: Option<&'a str>,
    /// The dead letter that it was before it was redriven.
    pub redriven_from: Option<&'a str>,
    /// How often it was redriven before; 0 if never.
    pub redrive_count: u32,
    /// The trace that the record belongs to: the id in its `traceparent`, or all of that if it has
    /// another form.
    pub trace_id: Option<&'a str>,
    /// What the plugin saw when it failed, encoded.
    pub replay: Option<&'a [u8]>,
}

impl<'a> DeadLetter<'a> {
    /// Reads the headers of a message. Of several of one name, the last counts.
    pub fn read(headers: HeadersRef<'a>) -> Self {
        let mut letter = Self::default();
        for (name, value) in headers {
            if name == REPLAY {
                letter.replay = value;
                continue;
            }
            let Some(text) = value.and_then(|value| std::str::from_utf8(value).ok()) else {
                continue;
            };
            match name {
                ORIGIN => letter.origin = text.parse().ok(),
                REASON => letter.reason = Some(text),
                ERROR => letter.error = Some(text),
                ATTEMPTS => letter.attempts = text.parse().ok(),
                PIPELINE => letter.pipeline = Some(text),
                PLUGIN => letter.plugin = Some(text),
                FIRST_FAILED_AT => letter.first_failed_ms = text.parse().ok(),
                DEAD_LETTERED_AT => letter.dead_lettered_ms = text.parse().ok(),
                BACKTRACE => letter.backtrace = Some(text),
                REDRIVEN_FROM => letter.redriven_from = Some(text),
                REDRIVE_COUNT => letter.redrive_count = text.parse().unwrap_or(0),
                TRACE_PARENT => letter.trace_id = Some(trace_id(text)),
                _ => {}
            }
        }
        letter
    }

    /// Whether the message is one that was given up on, as far as its headers say. A letter that is too large for
    /// them, and one that was redriven, is a message like any other.
    pub fn is_marked(&self) -> bool {
        self.reason.is_some()
    }

    /// SHA-256 of the component that failed, as its plugin is written.
    pub fn plugin_digest(&self) -> Option<&'a str> {
        let (_, digest) = self.plugin?.rsplit_once('@')?;
        Some(digest)
    }
}

/// The second field of `VERSION-TRACE-PARENT-FLAGS`.
fn trace_id(trace_parent: &str) -> &str {
    let mut fields = trace_parent.split('-');
    let id = fields.nth(1).filter(|id| id.len() == 32);
    id.unwrap_or(trace_parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HeadersBuf;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &[u8])]) -> HeadersBuf {
        let mut headers = HeadersBuf::new();
        for (name, value) in pairs {
            headers.push(name, Some(value)).unwrap();
        }
        headers
    }

    #[test]
    fn everything_is_read() {
        let headers = headers(&[
            (ORIGIN, b"topic:in/3/137"),
            (REASON, b"trap"),
            (ERROR, b"it trapped"),
            (ATTEMPTS, b"5"),
            (PIPELINE, b"p"),
            (PLUGIN, b"x@abc"),
            (FIRST_FAILED_AT, b"17"),
            (DEAD_LETTERED_AT, b"18"),
            (BACKTRACE, b"at f"),
            (REDRIVEN_FROM, b"queue:d/1"),
            (REDRIVE_COUNT, b"2"),
            (REPLAY, b"\xff"),
            (
                TRACE_PARENT,
                b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
        ]);
        let expected = DeadLetter {
            origin: Some(Origin::Topic {
                topic: "in".parse().unwrap(),
                partition: 3,
                offset: 137,
            }),
            reason: Some("trap"),
            error: Some("it trapped"),
            attempts: Some(5),
            pipeline: Some("p"),
            plugin: Some("x@abc"),
            first_failed_ms: Some(17),
            dead_lettered_ms: Some(18),
            backtrace: Some("at f"),
            redriven_from: Some("queue:d/1"),
            redrive_count: 2,
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736"),
            replay: Some(b"\xff"),
        };
        assert_eq!(DeadLetter::read(headers.as_headers()), expected);
    }

    #[test]
    fn what_is_malformed_is_as_if_it_were_missing() {
        let headers = headers(&[(ORIGIN, b"nowhere"), (ATTEMPTS, b"many"), (REASON, b"\xff")]);
        assert_eq!(
            DeadLetter::read(headers.as_headers()),
            DeadLetter::default()
        );
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let names = [ORIGIN, ATTEMPTS, FIRST_FAILED_AT, REDRIVE_COUNT, TRACE_PARENT];
            let pairs = names.map(|name| (name, value.as_slice()));
            let _ = DeadLetter::read(headers(&pairs).as_headers());
        }
    }
}
