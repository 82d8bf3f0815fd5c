//! Selects dead letters by what they say.

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
        let mut terms = self.terms.iter();
        is_recent
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
            since_ms: None,
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
    fn a_mistake_names_the_fields() {
        for text in ["", "reason", "raeson=trap"] {
            let error = text.parse::<Term>().unwrap_err();
            assert!(error.contains("`origin-topic`"), "{text}: {error}");
        }
    }
}
