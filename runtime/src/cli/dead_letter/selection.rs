//! Which dead letters a command is about.

use std::str::FromStr;

use crate::cli::exit::Usage;
use crate::cli::open::DataDirectory;
use crate::cli::quantity;
use crate::model::{PipelineName, QueueName};
use crate::pipeline;
use crate::queue::letter::{Filter, Term};
use crate::queue::{Letters, Queue};

/// Dead letters of a queue, all of them or some.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Selection {
    /// The dead letters, as queue:NAME or the name of the pipeline that has given up on them
    source: Source,

    /// Only those of which this is so (may be repeated); FIELD is `reason`, `origin-topic`,
    /// `origin-queue`, `pipeline` or `plugin`
    ///
    /// Several conditions on one field are alternatives: `--filter reason=trap --filter
    /// reason=deadline`. A plugin is given as NAME, NAME@DIGEST or with the start of its digest.
    #[arg(long, value_name = "FIELD=VALUE")]
    filter: Vec<Term>,

    /// Only those given up on since: how long ago (`2h`), or a time such as 2013-01-01T00:00:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
}

impl Selection {
    /// The queue that holds them.
    pub(super) fn queue(&self, data: &DataDirectory) -> anyhow::Result<Queue> {
        self.source.queue(data)
    }

    /// Whether all of the queue are meant.
    pub(super) fn is_all(&self) -> bool {
        self.filter.is_empty() && self.since.is_none()
    }

    /// What they have in common.
    pub(super) fn filter(&self, data: &DataDirectory) -> Filter {
        let now_ms = data.log.store().clock().now_ms();
        Filter {
            terms: self.filter.clone(),
            since_ms: self.since.map(|since| since.time_ms(now_ms)),
        }
    }

    /// Goes through them.
    pub(super) fn letters(&self, data: &DataDirectory) -> anyhow::Result<Letters> {
        Ok(self.queue(data)?.letters(self.filter(data)))
    }
}

/// Whose dead letters: `queue:NAME`, or a pipeline's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Source {
    Queue(QueueName),
    Pipeline(PipelineName),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected `queue:NAME` or the name of a pipeline";
        match text.split_once(':') {
            Some(("queue", name)) => name
                .parse()
                .map(Self::Queue)
                .map_err(|error| format!("{error}")),
            Some(("pipeline", name)) => name
                .parse()
                .map(Self::Pipeline)
                .map_err(|error| format!("{error}")),
            Some((kind, _)) => Err(format!("`{kind}:` holds no dead letters; {EXPECTED}")),
            None => text
                .parse()
                .map(Self::Pipeline)
                .map_err(|error| format!("{error}; {EXPECTED}")),
        }
    }
}

impl Source {
    /// The queue that holds the dead letters.
    pub(super) fn queue(&self, data: &DataDirectory) -> anyhow::Result<Queue> {
        let name = match self {
            Self::Queue(name) => return Ok(data.queues.queue(name)?),
            Self::Pipeline(name) => name,
        };
        let described = match pipeline::describe(&data.log, &data.queues, &data.groups, name) {
            Ok(described) => described,
            Err(error) => {
                // Its dead-letter queue is what most people have at hand.
                let as_queue = QueueName::try_from(name.as_str()).ok();
                if as_queue.is_some_and(|queue| data.queues.queue(&queue).is_ok()) {
                    return Err(Usage(format!("{error}; did you mean `queue:{name}`?")).into());
                }
                return Err(error.into());
            }
        };
        let Some(queue) = described.dead_letter else {
            return Err(Usage(format!(
                "the pipeline `{name}` has no dead-letter queue; if it had one before, name that: queue:NAME"
            ))
            .into());
        };
        Ok(data.queues.queue(&queue)?)
    }
}

/// A point in time: how long ago, or when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    AgoMs(u64),
    TimeMs(u64),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ms) = quantity::duration_ms(text) {
            return Ok(Self::AgoMs(ms));
        }
        quantity::time_ms(text)
            .map(Self::TimeMs)
            .map_err(|reason| format!("expected how long ago, such as `2h`, or a time: {reason}"))
    }
}

impl Since {
    fn time_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::AgoMs(ms) => now_ms.saturating_sub(ms),
            Self::TimeMs(ms) => ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        assert_eq!("queue:q".parse(), Ok(Source::Queue("q".parse().unwrap())));
        for text in ["p", "pipeline:p"] {
            assert_eq!(text.parse(), Ok(Source::Pipeline("p".parse().unwrap())));
        }
        for (text, hint) in [
            ("topic:t", "`topic:` holds no dead letters"),
            ("", "expected `queue:NAME`"),
        ] {
            let error = text.parse::<Source>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn since_is_how_long_ago_or_a_time() {
        let time_ms = |text: &str| text.parse::<Since>().map(|since| since.time_ms(10_000));
        assert_eq!(time_ms("3s"), Ok(7_000));
        assert_eq!(time_ms("1h"), Ok(0));
        assert_eq!(time_ms("1970-01-01T00:00:01Z"), Ok(1_000));
        let error = time_ms("yesterday").unwrap_err();
        assert!(
            error.contains("expected how long ago, such as `2h`"),
            "{error}"
        );
    }
}
