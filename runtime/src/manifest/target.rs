//! What a manifest says of targets: `topic:NAME` and `queue:NAME`.

use std::collections::BTreeSet;
use std::ops::Range;

use super::error::{Error, Place, Problem, Report};
use super::read::{Value, name};
use super::resolved::ResolvedManifest;
use super::words::{Key, describe, quoted};
use crate::model::{Target, TopicName, suggest};

/// A topic or queue that a pipeline names and the manifest does not declare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalTarget {
    /// The topic or queue.
    pub target: Target,
    /// A declared one with a similar name, if there is one: the author may have meant that.
    pub similar: Option<Target>,
    /// Where it is first named.
    pub place: Place,
}

/// A target that a pipeline names, and where.
pub(super) struct TargetUse {
    pub(super) target: Target,
    pub(super) span: Range<usize>,
}

/// Reads one target.
pub(super) fn read(what: &str, value: Value<'_>, report: &mut Report<'_>) -> Option<TargetUse> {
    let text = value.get_ref().as_str().unwrap_or_default();
    let span = value.span();
    let help = match text.split_once(':') {
        Some(("topic", topic)) => {
            let target = Target::Topic(name("a topic's name", topic, value.span(), report)?);
            return Some(TargetUse { target, span });
        }
        Some(("queue", queue)) => {
            let target = Target::Queue(name("a queue's name", queue, value.span(), report)?);
            return Some(TargetUse { target, span });
        }
        Some((kind, name)) => match suggest(kind, ["topic", "queue"]) {
            Some(kind) => format!("did you mean {}?", quoted(&format!("{kind}:{name}"))),
            None => "the kinds of targets are `topic` and `queue`".to_owned(),
        },
        None if text.parse::<TopicName>().is_ok() => {
            format!("did you mean {}?", quoted(&format!("topic:{text}")))
        }
        None => "for example \"topic:flights\"".to_owned(),
    };
    let message = format!(
        "{what} must be \"topic:NAME\" or \"queue:NAME\", found {}",
        describe(value)
    );
    report.error(span, message, help);
    None
}

/// The targets that pipelines name and the manifest does not declare, by first use.
pub(super) fn external<'a>(
    declared: &[Target],
    uses: impl Iterator<Item = &'a TargetUse>,
    report: &Report<'_>,
) -> Vec<ExternalTarget> {
    let mut seen = BTreeSet::new();
    uses.filter(|named| !declared.contains(&named.target) && seen.insert(&named.target))
        .map(|named| ExternalTarget {
            target: named.target.clone(),
            similar: similar(&named.target, declared),
            place: report.place(&named.span),
        })
        .collect()
}

/// A declared target of the same kind with a similar name, or one with this name of the other kind.
fn similar(target: &Target, declared: &[Target]) -> Option<Target> {
    let of_kind = declared
        .iter()
        .filter(|other| other.kind() == target.kind());
    let name = suggest(target.name(), of_kind.map(Target::name));
    let named = |other: &&Target| match name {
        Some(name) => other.kind() == target.kind() && other.name() == name,
        None => other.name() == target.name(),
    };
    declared.iter().find(named).cloned()
}

impl ResolvedManifest {
    /// Checks that every topic and queue which is named but not declared exists.
    ///
    /// # Errors
    ///
    /// One problem for each that does not.
    pub fn check_external_targets(&self, exists: impl Fn(&Target) -> bool) -> Result<(), Error> {
        let problems: Vec<_> = self
            .external_targets
            .iter()
            .filter(|external| !exists(&external.target))
            .map(|external| {
                let (kind, name) = (external.target.kind(), external.target.name());
                let message = format!(
                    "unknown {kind} `{name}`: expected one that is declared here or exists already"
                );
                let help = match &external.similar {
                    Some(similar) => format!("did you mean `{similar}`?"),
                    None => format!("declare it with `[{kind}s.{}]`", Key(name)),
                };
                Problem::new(&self.path, &external.place, message).with_help(help)
            })
            .collect();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(problems))
        }
    }
}
