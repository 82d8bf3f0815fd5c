//! What a command reads from or writes to: `topic:NAME` or `queue:NAME`.

use std::str::FromStr;

use crate::model::{QueueName, TopicName};

/// A topic or a queue, written as `topic:NAME` or `queue:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// `topic:NAME`
    Topic(TopicName),
    /// `queue:NAME`
    Queue(QueueName),
}

const EXPECTED: &str = "expected `topic:NAME` or `queue:NAME`";

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("topic", name)) => name
                .parse()
                .map(Self::Topic)
                .map_err(|error| format!("{error}")),
            Some(("queue", name)) => name
                .parse()
                .map(Self::Queue)
                .map_err(|error| format!("{error}")),
            Some((kind, _)) => Err(format!("`{kind}:` is no kind of target; {EXPECTED}")),
            None => match text.parse::<TopicName>() {
                Ok(name) => Err(format!("{EXPECTED}; did you mean `topic:{name}`?")),
                Err(_) => Err(EXPECTED.to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!(
            "topic:a.b".parse(),
            Ok(Target::Topic("a.b".parse().unwrap()))
        );
        assert_eq!("queue:q".parse(), Ok(Target::Queue("q".parse().unwrap())));
        for (text, hint) in [
            ("flights", "did you mean `topic:flights`?"),
            ("queue:", "must not be empty"),
            ("topics:q", "`topics:` is no kind"),
            ("topic:", "must not be empty"),
            ("topic:a b", "' ' is not allowed"),
            ("a b", "expected `topic:NAME`"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
