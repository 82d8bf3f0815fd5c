//! What records are read from or written to: `topic:NAME` or `queue:NAME`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{QueueName, TopicName};

/// A topic or a queue, written as `topic:NAME` or `queue:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// `topic:NAME`
    Topic(TopicName),
    /// `queue:NAME`
    Queue(QueueName),
}

impl Target {
    /// The topic's or queue's name, without which of the two it is.
    pub fn name(&self) -> &str {
        match self {
            Self::Topic(name) => name.as_str(),
            Self::Queue(name) => name.as_str(),
        }
    }

    /// The topic, if it is one.
    pub fn topic(&self) -> Option<&TopicName> {
        match self {
            Self::Topic(name) => Some(name),
            Self::Queue(_) => None,
        }
    }

    /// The queue, if it is one.
    pub fn queue(&self) -> Option<&QueueName> {
        match self {
            Self::Queue(name) => Some(name),
            Self::Topic(_) => None,
        }
    }

    /// `topic` or `queue`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Topic(_) => "topic",
            Self::Queue(_) => "queue",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.name())
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
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
        for text in ["topic:a.b", "queue:q"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
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
