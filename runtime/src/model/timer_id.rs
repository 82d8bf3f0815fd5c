//! How a timer is called where a record has its place: in dead letters and idempotency keys.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use bytes::Bytes;

use super::PipelineName;

/// The index of the input of what is no record, but a timer: its key is the timer's, its value the payload,
/// its timestamp the due time.
pub const TIMERS_INPUT: u32 = u32::MAX;

/// A timer of a pipeline's task. As text `timer:PIPELINE/TASK/KEY@DUE`, where the key's bytes other than
/// ASCII letters, digits, `-`, `.` and `_` are percent-encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerId {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The number of its task, which is that of the partition that it works on.
    pub task: u32,
    /// The key that the plugin has set it with.
    pub key: Bytes,
    /// When it was to fire, in ms since the epoch.
    pub due_ms: u64,
}

impl fmt::Display for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timer:{}/{}/", self.pipeline, self.task)?;
        for byte in &self.key {
            if byte.is_ascii_alphanumeric() || b"-._".contains(byte) {
                f.write_char(char::from(*byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        write!(f, "@{}", self.due_ms)
    }
}

impl FromStr for TimerId {
    type Err = String;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, String> {
        read(text)
            .ok_or_else(|| format!("`{text}` is no timer; expected `timer:PIPELINE/TASK/KEY@DUE`"))
    }
}

fn read(text: &str) -> Option<TimerId> {
    let (pipeline, rest) = text.strip_prefix("timer:")?.split_once('/')?;
    let (task, rest) = rest.split_once('/')?;
    let (key, due_ms) = rest.split_once('@')?;
    Some(TimerId {
        pipeline: PipelineName::try_from(pipeline.to_owned()).ok()?,
        task: task.parse().ok()?,
        key: decode(key)?.into(),
        due_ms: due_ms.parse().ok()?,
    })
}

fn decode(encoded: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            decoded.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(key in prop::collection::vec(any::<u8>(), 0..20), task: u32, due_ms: u64) {
            let id = TimerId { pipeline: "p".parse().unwrap(), task, key: key.into(), due_ms };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(timer:)?(p/1/)?.{0,20}(@[0-9]{1,25})?") {
            let _ = text.parse::<TimerId>();
        }
    }

    #[test]
    fn the_text_is_what_the_documentation_says() {
        let id = TimerId {
            pipeline: "line".parse().unwrap(),
            task: 3,
            key: Bytes::from_static(b"user/7 \xff"),
            due_ms: 1_700,
        };
        assert_eq!(id.to_string(), "timer:line/3/user%2F7%20%FF@1700");
    }
}
