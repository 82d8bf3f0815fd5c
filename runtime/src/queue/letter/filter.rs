//! Selects dead letters by what they say.

use std::fmt;
use std::str::FromStr;

use super::{DeadLetter, Origin};

/// One condition, `FIELD=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    field: Field,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Reason,
    OriginTopic,
    OriginQueue,
    Pipeline,
    Plugin,
}

const FIELDS: [(&str, Field); 5] = [
    ("reason", Field::Reason),
    ("origin-topic", Field::OriginTopic),
    ("origin-queue", Field::OriginQueue),
    ("pipeline", Field::Pipeline),
    ("plugin", Field::Plugin),
];

impl FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected FIELD=VALUE, where FIELD is `reason`, `origin-topic`, `origin-queue`, `pipeline` or `plugin`";
        let (name, value) = text.split_once('=').ok_or(EXPECTED)?;
        let known = FIELDS.iter().find(|(known, _)| *known == name);
        let (_, field) = known.ok_or_else(|| format!("`{name}` is no field; {EXPECTED}"))?;
        Ok(Self {
            field: *field,
            value: value.to_owned(),
        })
    }
}

impl Term {
    fn matches(&self, letter: &DeadLetter<'_>) -> bool {
        let value = self.value.as_str();
        match self.field {
            Field::Reason => letter.reason == Some(value),
            Field::OriginTopic => {
                matches!(&letter.origin, Some(Origin::Topic { topic, .. }) if topic.as_str() == value)
            }
            Field::OriginQueue => {
                matches!(&letter.origin, Some(Origin::Queue { queue, .. }) if queue.as_str() == value)
            }
            Field::Pipeline => letter.pipeline == Some(value),
            Field::Plugin => letter.plugin.is_some_and(|plugin| is_plugin(plugin, value)),
        }
    }
}

/// Digits of a whole digest.
const DIGEST_DIGITS: usize = 64;

/// The SHA-256 of a component, or the start of it, as lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestStart(String);

impl FromStr for DigestStart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match is_hexadecimal && (1..=DIGEST_DIGITS).contains(&text.len()) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(format!(
                "`{text}` is no digest; expected the SHA-256 of a component or the start of it, 1 to {DIGEST_DIGITS} hexadecimal digits"
            )),
        }
    }
}

impl fmt::Display for DigestStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl DigestStart {
    /// Whether it is a whole digest.
    pub fn is_whole(&self) -> bool {
        self.0.len() == DIGEST_DIGITS
    }

    fn matches(&self, letter: &DeadLetter<'_>) -> bool {
        let digest = letter.plugin_digest();
        digest.is_some_and(|digest| digest.starts_with(&self.0))
    }
}

/// Whether `wanted` is the name of a plugin `NAME@DIGEST`, or that with the start of its digest.
fn is_plugin(plugin: &str, wanted: &str) -> bool {
    match plugin.strip_prefix(wanted) {
        Some(rest) => rest.is_empty() || rest.starts_with('@') || wanted.contains('@'),
        None => false,
    }
}

/// Which dead letters are meant. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// For each field that is named at least one of its conditions must be met.
    pub terms: Vec<Term>,
    /// Only what a component with this digest, or one that begins so, has failed on.
    pub plugin_digest: Option<DigestStart>,
    /// Only what was given up on at this time or later, in ms since the epoch.
    pub since_ms: Option<u64>,
}

impl Filter {
    /// Whether all are meant.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a dead letter is meant.
    pub fn matches(&self, letter: &DeadLetter<'_>) -> bool {
        let is_recent = self
            .since_ms
            .is_none_or(|since_ms| letter.dead_lettered_ms >= Some(since_ms));
        let is_of_component = self
            .plugin_digest
            .as_ref()
            .is_none_or(|digest| digest.matches(letter));
        let mut terms = self.terms.iter();
        is_recent
            && is_of_component
            && terms.all(|term| {
                let mut same_field = self.terms.iter().filter(|other| other.field == term.field);
                same_field.any(|term| term.matches(letter))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(terms: &[&str]) -> Filter {
        Filter {
            terms: terms.iter().map(|term| term.parse().unwrap()).collect(),
            ..Filter::default()
        }
    }

    #[test]
    fn conditions_on_one_field_are_alternatives() {
        let letter = DeadLetter {
            origin: "topic:in/0/1".parse().ok(),
            reason: Some("trap"),
            pipeline: Some("p"),
            plugin: Some("flights@4f2a"),
            dead_lettered_ms: Some(100),
            ..DeadLetter::default()
        };
        for (terms, expected) in [
            (&[][..], true),
            (&["reason=trap"], true),
            (&["reason=tra"], false),
            (&["reason=memory", "reason=trap"], true),
            (&["reason=trap", "origin-topic=out"], false),
            (&["origin-topic=in", "pipeline=p"], true),
            (&["origin-queue=in"], false),
            (&["plugin=flights"], true),
            (&["plugin=flight"], false),
            (&["plugin=flights@4f"], true),
            (&["plugin=flights@4e"], false),
        ] {
            assert_eq!(filter(terms).matches(&letter), expected, "{terms:?}");
        }
        let since = |since_ms| Filter {
            since_ms: Some(since_ms),
            ..Filter::default()
        };
        assert!(since(100).matches(&letter));
        assert!(!since(101).matches(&letter));
        assert!(!since(0).matches(&DeadLetter::default()));
    }

    #[test]
    fn a_digest_is_asked_for_besides_the_conditions() {
        let of = |plugin: Option<&'static str>| DeadLetter {
            reason: Some("trap"),
            plugin,
            ..DeadLetter::default()
        };
        let letter = of(Some("flights@4f2a"));
        for (digest, term, expected) in [
            ("4", "reason=trap", true),
            ("4F2A", "reason=trap", true),
            ("4f2a0", "reason=trap", false),
            ("f2a", "reason=trap", false),
            ("4f", "reason=deadline", false),
            ("4f", "plugin=other", false),
        ] {
            let filter = Filter {
                plugin_digest: Some(digest.parse().unwrap()),
                ..filter(&[term])
            };
            assert!(!filter.is_all());
            assert_eq!(filter.matches(&letter), expected, "{digest} {term}");
            assert!(!filter.matches(&of(Some("4f2a"))), "a name is no digest");
            assert!(!filter.matches(&of(None)));
        }
    }

    #[test]
    fn what_is_no_digest_is_told() {
        let whole = "a0".repeat(32);
        assert!(whole.parse::<DigestStart>().unwrap().is_whole());
        assert!(!"a0".parse::<DigestStart>().unwrap().is_whole());
        let long = format!("{whole}a");
        for text in ["", "4g", "flights@4f", " 4f", "é", &long] {
            let error = text.parse::<DigestStart>().unwrap_err();
            assert!(error.contains("SHA-256"), "{text}: {error}");
        }
    }

    #[test]
    fn a_mistake_names_the_fields() {
        for text in ["", "reason", "raeson=trap"] {
            let error = text.parse::<Term>().unwrap_err();
            assert!(error.contains("`origin-topic`"), "{text}: {error}");
        }
    }
}
