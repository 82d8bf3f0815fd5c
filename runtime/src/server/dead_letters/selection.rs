//! Which dead letters a request is about.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::problem::{Code, Problem};
use super::super::state::Data;
use crate::model::{PipelineName, QueueName};
use crate::pipeline;
use crate::queue::Queue;
use crate::queue::letter::{DigestStart, Filter, Term};

/// Digests that are told when the start of one is that of several.
const DIGESTS_TOLD: usize = 3;

/// Dead letters of a queue, all of them or some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Selection {
    /// Whose dead letters: `queue:NAME`, or the name of the pipeline that has given up on them.
    #[param(example = "queue:flights-dead")]
    pub source: String,
    /// Only those of which this is so: conditions `FIELD=VALUE` separated by commas, where FIELD is `reason`,
    /// `origin-topic`, `origin-queue`, `pipeline` or `plugin`. Several conditions on one field are alternatives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "reason=trap,reason=deadline")]
    pub filter: Option<String>,
    /// Only those that the component with this SHA-256 has failed on. The start of it will do, if those that are meant
    /// otherwise have no other component whose digest begins so; finding that out takes a look at all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "4f2a")]
    pub plugin_digest: Option<String>,
    /// Only those given up on at this time or later, in ms since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// Dead letters to delete: a [`Selection`], of which a word that is not known is refused, since without it more would be
/// deleted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// As in `GET /dead-letters`.
    pub source: String,
    /// As in `GET /dead-letters`.
    #[serde(default)]
    pub filter: Option<String>,
    /// As in `GET /dead-letters`.
    #[serde(default)]
    pub plugin_digest: Option<String>,
    /// As in `GET /dead-letters`.
    #[serde(default)]
    pub since_ms: Option<u64>,
}

impl From<PurgeRequest> for Selection {
    fn from(request: PurgeRequest) -> Self {
        Self {
            source: request.source,
            filter: request.filter,
            plugin_digest: request.plugin_digest,
            since_ms: request.since_ms,
        }
    }
}

impl Selection {
    /// The queue that holds them.
    pub(super) fn queue(&self, data: &Data) -> Result<Queue, Problem> {
        let source: Source = self.source.parse().map_err(Problem::invalid)?;
        source.queue(data)
    }

    /// What they have in common, with the whole digest of the component.
    pub(super) async fn filter(&self, queue: &Queue) -> Result<Filter, Problem> {
        let mut filter = self.written_filter()?;
        let Some(start) = filter.plugin_digest.clone().filter(|it| !it.is_whole()) else {
            return Ok(filter);
        };
        let mut letters = queue.letters(filter.clone());
        let digests = letters.plugin_digests(DIGESTS_TOLD).await?;
        match digests.len() {
            0 => {}
            1 => {
                // What is malformed is still what begins so; no digest at all would be every letter.
                if let Some(Ok(whole)) = digests.first().map(|it| it.parse::<DigestStart>()) {
                    filter.plugin_digest = Some(whole);
                }
            }
            _ => {
                let digests: Vec<&str> = digests.iter().map(String::as_str).collect();
                return Err(Problem::invalid(format!(
                    "several components whose digest begins with `{start}` have failed on dead letters of the queue `{}`: {}; give more digits, or the name of the plugin as well",
                    queue.name(),
                    digests.join(", ")
                )));
            }
        }
        Ok(filter)
    }

    fn written_filter(&self) -> Result<Filter, Problem> {
        let terms = self.filter.as_deref().unwrap_or_default().split(',');
        let terms = terms.filter(|term| !term.is_empty());
        let terms: Result<Vec<Term>, String> = terms.map(str::parse).collect();
        let digest = self.plugin_digest.as_deref();
        let digest = digest.map(str::parse::<DigestStart>);
        Ok(Filter {
            terms: terms.map_err(Problem::invalid)?,
            plugin_digest: digest.transpose().map_err(Problem::invalid)?,
            since_ms: self.since_ms,
        })
    }
}

/// Whose dead letters: `queue:NAME`, or a pipeline's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
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

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue:{name}"),
            Self::Pipeline(name) => name.fmt(f),
        }
    }
}

impl Source {
    /// The queue that holds the dead letters.
    fn queue(&self, data: &Data) -> Result<Queue, Problem> {
        let name = match self {
            Self::Queue(name) => return Ok(data.queues.queue(name)?),
            Self::Pipeline(name) => name,
        };
        let dead_letters = match pipeline::dead_letter_queue_of(data.log.store(), name) {
            Ok(dead_letters) => dead_letters,
            Err(error) => {
                // Its dead-letter queue is what most people have at hand.
                let as_queue = QueueName::try_from(name.as_str()).ok();
                if as_queue.is_some_and(|queue| data.queues.queue(&queue).is_ok()) {
                    return Err(Problem::invalid(format!(
                        "{error}; did you mean `queue:{name}`?"
                    )));
                }
                return Err(error.into());
            }
        };
        let Some(queue) = dead_letters else {
            return Err(Problem::new(
                Code::InvalidRequest,
                format!(
                    "the pipeline `{name}` has no dead-letter queue; if it had one before, name that: queue:NAME"
                ),
            ));
        };
        Ok(data.queues.queue(&queue)?)
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

    /// Fails when either request takes a word that it does not know.
    #[test]
    fn a_misspelt_condition_is_no_request_for_all() {
        use super::super::redrive::RedriveRequest;
        let misspelt = r#"{"source":"queue:q","plugin":"4f2a"}"#;
        let error = serde_json::from_str::<PurgeRequest>(misspelt).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `plugin`"),
            "{error}"
        );
        assert!(serde_json::from_str::<RedriveRequest>(misspelt).is_err());
        let right = r#"{"source":"queue:q","plugin_digest":"4f2a"}"#;
        let request = serde_json::from_str::<PurgeRequest>(right).unwrap();
        assert_eq!(Selection::from(request).plugin_digest.unwrap(), "4f2a");
        assert!(serde_json::from_str::<RedriveRequest>(right).is_ok());
    }

    #[test]
    fn conditions_are_separated_by_commas() {
        let selection = Selection {
            source: "p".to_owned(),
            filter: Some("reason=trap,reason=deadline,plugin=p@4f".to_owned()),
            ..Selection::default()
        };
        assert_eq!(selection.written_filter().unwrap().terms.len(), 3);
        let selection = Selection {
            filter: Some("raeson=trap".to_owned()),
            ..selection
        };
        assert!(selection.written_filter().is_err());
    }
}
