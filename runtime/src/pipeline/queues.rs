//! The queues that a manifest declares, in the data directory.

use crate::manifest::{QueueSpec, ResolvedManifest};
use crate::queue::{self, QueueConfig, Queues};

/// Creates the manifest's queues, and gives those that exist its settings.
///
/// # Errors
/// What [`Queues::ensure_queue`] finds wrong with one.
pub async fn ensure_queues(
    queues: &Queues,
    manifest: &ResolvedManifest,
) -> Result<(), queue::Error> {
    for spec in &manifest.queues {
        queues.ensure_queue(&spec.name, config(spec)).await?;
    }
    Ok(())
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
