//! Choices of a queue's settings that a manifest and the store write with the same words.

use serde::{Deserialize, Serialize};

/// What happens to a message for which a full queue has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaxLengthPolicy {
    /// It is refused, with an error to who enqueues it.
    #[default]
    Reject,
    /// The oldest messages that wait go instead: to the dead-letter queue, if there is one.
    DropOldest,
}

/// What makes messages a FIFO group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupBy {
    /// The header `millstream-group`; messages without it are in no group.
    #[default]
    Header,
    /// The record's key, unless there is the header; messages with neither are in no group.
    Key,
}

impl MaxLengthPolicy {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::Reject, Self::DropOldest];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::DropOldest => "drop-oldest",
        }
    }
}

impl GroupBy {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Header, Self::Key];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Key => "key",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_that_are_stored() {
        for policy in MaxLengthPolicy::ALL {
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
        }
        for groups in GroupBy::ALL {
            assert_eq!(serde_json::to_value(groups).unwrap(), groups.as_str());
        }
    }
}
