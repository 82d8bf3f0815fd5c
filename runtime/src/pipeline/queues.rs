//! The queues that a manifest declares, in the data directory.

use super::Error;
use crate::manifest::{self, QueueSpec, ResolvedManifest};
use crate::model::QueueName;
use crate::queue::{self, PlannedQueues, QueueConfig, Queues};

/// Plans to create the manifest's queues, and to give those that exist its settings; those of `needed` are created
/// with the default settings if there are none.
///
/// # Errors
/// [`Error::Manifest`] if one does not go with those that exist, [`Error::Queue`]
pub(super) async fn plan_queues(
    queues: &Queues,
    manifest: &ResolvedManifest,
    needed: Vec<QueueName>,
) -> Result<PlannedQueues, Error> {
    let specs = manifest.queues.iter();
    let wanted = specs.map(|spec| (spec.name.clone(), config(spec)));
    let planned = queues.plan(wanted, needed).await;
    planned.map_err(|error| with_place(manifest, error))
}

/// Says where the manifest has the queue that the error is about.
fn with_place(manifest: &ResolvedManifest, error: queue::Error) -> Error {
    let queue::Error::InvalidConfig { name, .. } = &error else {
        return error.into();
    };
    match manifest.queues.iter().find(|spec| spec.name == *name) {
        Some(spec) => {
            let problem = manifest.problem(&spec.place, error.to_string());
            manifest::Error::from(problem).into()
        }
        None => error.into(),
    }
}

/// The settings of a queue as its manifest has them.
fn config(spec: &QueueSpec) -> QueueConfig {
    QueueConfig {
        visibility_timeout_ms: spec.visibility_timeout_ms,
        max_deliveries: spec.max_deliveries,
        dead_letter: spec.dead_letter.clone(),
        delay_ms: spec.delay_ms,
        deduplication_window_ms: spec.deduplication_window_ms,
        time_to_live_ms: spec.time_to_live_ms,
        max_length: spec.max_length,
        max_length_policy: spec.max_length_policy,
        groups: spec.groups,
        default_priority: spec.default_priority,
    }
}
