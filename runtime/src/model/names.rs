//! Validated names.
//!
//! All names follow Kafka's rules for topics: 1 to 249 bytes out of `a-z A-Z 0-9 . _ -`, and
//! neither `.` nor `..`. So every name can be part of a path, a URL, a metric label or a storage
//! key without escaping. A name is cheap to clone (a shared string).

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::limits::MAX_NAME_BYTES;

/// Why a string is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name has no characters.
    #[error("a {kind} name must not be empty")]
    Empty {
        /// What was to be named, for example `topic`.
        kind: &'static str,
    },
    /// The name is longer than [`MAX_NAME_BYTES`].
    #[error("a {kind} name may have {MAX_NAME_BYTES} bytes at most, this one has {len_bytes}")]
    TooLong {
        /// What was to be named.
        kind: &'static str,
        /// Its length.
        len_bytes: usize,
    },
    /// The name is `.` or `..`.
    #[error("`{name}` is not a {kind} name: `.` and `..` are reserved")]
    Reserved {
        /// What was to be named.
        kind: &'static str,
        /// The name itself.
        name: String,
    },
    /// The name has a character outside the allowed set.
    #[error(
        "{character:?} is not allowed in a {kind} name: use letters, digits, `.`, `_` and `-` only"
    )]
    Character {
        /// What was to be named.
        kind: &'static str,
        /// The first character that is not allowed.
        character: char,
    },
}

/// Checks `name` against the rules of this module; `kind` is used in the error's text only.
///
/// # Errors
/// The rule that `name` breaks.
pub fn validate(kind: &'static str, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::Empty { kind });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::TooLong {
            kind,
            len_bytes: name.len(),
        });
    }
    if name == "." || name == ".." {
        return Err(Error::Reserved {
            kind,
            name: name.to_owned(),
        });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|&c| !allowed(c)) {
        Some(character) => Err(Error::Character { kind, character }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// What this names, as used in error messages.
            pub const KIND: &'static str = $kind;

            /// The name as a string.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $type {
            type Error = Error;

            fn try_from(name: &str) -> Result<Self, Error> {
                validate($kind, name)?;
                Ok(Self(Arc::from(name)))
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(name: String) -> Result<Self, Error> {
                Self::try_from(name.as_str())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self, Error> {
                Self::try_from(name)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        // `Hash`, `Eq` and `Ord` of the shared string are those of `str`, so maps keyed by a name
        // can be searched with a plain `&str`.
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::try_from(name.as_str()).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// The name of a topic.
    TopicName,
    "topic"
);
name!(
    /// The name of a queue.
    QueueName,
    "queue"
);
name!(
    /// The name of a consumer group.
    GroupName,
    "group"
);
name!(
    /// The name of a pipeline.
    PipelineName,
    "pipeline"
);
name!(
    /// The name of a plugin.
    PluginName,
    "plugin"
);
name!(
    /// The name of an access token.
    TokenName,
    "token"
);
name!(
    /// The name of one of a pipeline's outputs.
    PortName,
    "port"
);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn accepts_kafkas_names() {
        for name in ["a", "flights", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(name.parse::<TopicName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_everything_else() {
        let topic = |name: &str| TopicName::try_from(name).unwrap_err();
        assert_eq!(topic(""), Error::Empty { kind: "topic" });
        assert_eq!(
            topic(".."),
            Error::Reserved {
                kind: "topic",
                name: "..".into()
            }
        );
        assert_eq!(
            topic("."),
            Error::Reserved {
                kind: "topic",
                name: ".".into()
            }
        );
        assert_eq!(
            topic(&"x".repeat(250)),
            Error::TooLong {
                kind: "topic",
                len_bytes: 250
            }
        );
        for (name, character) in [("a b", ' '), ("a/b", '/'), ("é", 'é'), ("a\0", '\0')] {
            assert_eq!(
                topic(name),
                Error::Character {
                    kind: "topic",
                    character
                }
            );
        }
        assert_eq!(
            GroupName::try_from("a:b").unwrap_err().to_string(),
            "':' is not allowed in a group name: use letters, digits, `.`, `_` and `-` only"
        );
    }

    #[test]
    fn is_a_plain_string_to_serde_and_to_maps() {
        let name: TopicName = serde_json::from_str("\"flights\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"flights\"");
        assert!(serde_json::from_str::<TopicName>("\"a b\"").is_err());
        let map = HashMap::from([(name, 1)]);
        assert_eq!(map.get("flights"), Some(&1));
    }

    #[test]
    fn pads_in_tables() {
        let name: PortName = "out".parse().unwrap();
        assert_eq!(format!("{name:>5}|{name:?}"), "  out|\"out\"");
    }
}
