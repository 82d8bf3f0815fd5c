//! A dead letter as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::json_record::Bytes;
use crate::model::RecordRef;
use crate::plugin::Recording;
use crate::queue::letter::{self, DeadLetter};

/// Everything about a dead letter.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LetterView {
    /// Its id: its offset in the queue.
    pub id: u64,
    /// Where the record comes from, as `topic:NAME/PARTITION/OFFSET` or `queue:NAME/OFFSET`.
    pub origin: Option<String>,
    /// Why it was given up on.
    pub reason: Option<String>,
    /// What went wrong, in the words of the plugin or the host.
    pub error: Option<String>,
    /// How often it was tried.
    pub attempts: Option<u32>,
    /// When it failed first, in ms since the epoch.
    pub first_failed_ms: Option<u64>,
    /// When it was given up on, in ms since the epoch.
    pub dead_lettered_ms: Option<u64>,
    /// The pipeline that gave up on it.
    pub pipeline: Option<String>,
    /// Its plugin.
    pub plugin: Option<String>,
    /// SHA-256 of the component.
    pub plugin_digest: Option<String>,
    /// The trace that it belongs to.
    pub trace_id: Option<String>,
    /// How often it was redriven.
    pub redrive_count: u32,
    /// The dead-letter queue from which it was redriven last.
    pub redriven_from: Option<String>,
    /// The record's timestamp.
    pub timestamp_ms: u64,
    /// The record's key.
    pub key: Bytes,
    /// The record's value.
    pub value: Bytes,
    /// The record's headers, and those that say all of this.
    pub headers: Vec<(String, Bytes)>,
    /// What `replay` has to go by.
    pub replay: Option<String>,
    /// The plugin's stack, innermost call first.
    pub backtrace: Option<String>,
}

impl LetterView {
    /// What a message of a dead-letter queue says.
    pub(crate) fn of(id: u64, record: &RecordRef<'_>) -> Self {
        let letter = DeadLetter::read(record.headers);
        let own = |text: Option<&str>| text.map(str::to_owned);
        let plugin = letter.plugin.map(|plugin| {
            let (name, digest) = plugin.rsplit_once('@').unwrap_or((plugin, ""));
            (name.to_owned(), digest.to_owned())
        });
        let headers = record.headers.iter();
        Self {
            id,
            origin: letter.origin.map(|origin| origin.to_string()),
            reason: own(letter.reason),
            error: own(letter.error),
            attempts: letter.attempts,
            first_failed_ms: letter.first_failed_ms,
            dead_lettered_ms: letter.dead_lettered_ms,
            pipeline: own(letter.pipeline),
            plugin_digest: plugin.as_ref().map(|(_, digest)| digest.clone()),
            plugin: plugin.map(|(name, _)| name),
            trace_id: own(letter.trace_id),
            redrive_count: letter.redrive_count,
            redriven_from: own(letter.redriven_from),
            timestamp_ms: record.timestamp_ms,
            key: Bytes::of(record.key),
            value: Bytes::of(record.value),
            replay: letter.replay.map(replay_of),
            headers: headers
                .filter(|(name, _)| *name != letter::REPLAY)
                .map(|(name, value)| (name.to_owned(), Bytes::of(value)))
                .collect(),
            backtrace: own(letter.backtrace),
        }
    }
}

/// What is known of what the plugin saw, in a few words.
fn replay_of(encoded: &[u8]) -> String {
    let seen = match Recording::decode(encoded) {
        Ok(recording) => recording.seen,
        Err(error) => return format!("unreadable: {error}"),
    };
    match seen {
        Ok(seen) if seen.other_outcome.is_some() => "kept, but alone it ended otherwise",
        Ok(_) => "kept",
        Err(reason) => return format!("not kept: {reason}"),
    }
    .to_owned()
}
