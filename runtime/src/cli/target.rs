//! What a command reads from or writes to: `topic:NAME`.

use std::str::FromStr;

use crate::model::TopicName;

/// A topic, written as `topic:NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target(pub(super) TopicName);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("topic", name)) => name.parse().map(Self).map_err(|error| format!("{error}")),
            Some(("queue", _)) => {
                Err("queues are not supported in this version; expected `topic:NAME`".to_owned())
            }
            Some((kind, _)) => Err(format!(
                "`{kind}:` is no kind of target; expected `topic:NAME`"
            )),
            None => match text.parse::<TopicName>() {
                Ok(name) => Err(format!(
                    "expected `topic:NAME`; did you mean `topic:{name}`?"
                )),
                Err(_) => Err("expected `topic:NAME`".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert_eq!("topic:a.b".parse(), Ok(Target("a.b".parse().unwrap())));
        for (text, hint) in [
            ("flights", "did you mean `topic:flights`?"),
            ("queue:q", "not supported"),
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
