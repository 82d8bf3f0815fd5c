//! Where a dead letter comes from.

use std::fmt;
use std::str::FromStr;

use crate::model::{QueueName, TimerId, TopicName};

/// The place of a record before it became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `topic:NAME/PARTITION/OFFSET`
    Topic {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// The record's offset in it.
        offset: u64,
    },
    /// `queue:NAME/OFFSET`
    Queue {
        /// The queue.
        queue: QueueName,
        /// The message's offset in it.
        offset: u64,
    },
    /// `timer:PIPELINE/TASK/KEY@DUE`
    Timer(TimerId),
}

impl FromStr for Origin {
    type Err = String;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, String> {
        read(text).ok_or_else(|| {
            format!(
                "`{text}` is no origin; expected `topic:NAME/PARTITION/OFFSET`, `queue:NAME/OFFSET` or `timer:PIPELINE/TASK/KEY@DUE`"
            )
        })
    }
}

fn read(text: &str) -> Option<Origin> {
    if text.starts_with("timer:") {
        return text.parse().ok().map(Origin::Timer);
    }
    let (kind, place) = text.split_once(':')?;
    let (place, offset) = place.rsplit_once('/')?;
    let offset = offset.parse().ok()?;
    match kind {
        "queue" => Some(Origin::Queue {
            queue: place.parse().ok()?,
            offset,
        }),
        "topic" => {
            let (topic, partition) = place.rsplit_once('/')?;
            Some(Origin::Topic {
                topic: topic.parse().ok()?,
                partition: partition.parse().ok()?,
                offset,
            })
        }
        _ => None,
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic {
                topic,
                partition,
                offset,
            } => write!(f, "topic:{topic}/{partition}/{offset}"),
            Self::Queue { queue, offset } => write!(f, "queue:{queue}/{offset}"),
            Self::Timer(timer) => timer.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(
            name in "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}",
            partition: u32,
            offset: u64,
        ) {
            for origin in [
                Origin::Topic { topic: name.parse().unwrap(), partition, offset },
                Origin::Queue { queue: name.parse().unwrap(), offset },
                Origin::Timer(TimerId {
                    pipeline: name.parse().unwrap(),
                    task: partition,
                    key: name.into(),
                    due_ms: offset,
                }),
            ] {
                prop_assert_eq!(origin.to_string().parse(), Ok(origin));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(topic|queue|timer)?:?.{0,40}") {
            let _ = text.parse::<Origin>();
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "topic:in",
            "topic:in/0",
            "topic:in/-1/2",
            "queue:q",
            "file:f/1",
            "queue:a/b/1",
            "timer:p/0/k",
            "timer:p/k@7",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
