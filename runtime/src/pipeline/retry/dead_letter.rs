//! Records that a pipeline gives up on: messages in its dead-letter queue, written by the checkpoint
//! that goes past them.

use std::sync::Arc;

use super::Cause;
use crate::model::{HeadersBuf, HeadersRef, batch};
use crate::plugin::EncodedHeaders;
use crate::queue::{self, MessageBatch, Queue, letter};
use crate::storage::Commit;

/// Bytes of a plugin's backtrace that are kept.
const MAX_BACKTRACE_BYTES: usize = 4096;

/// Collects the dead letters of one checkpoint.
pub(in crate::pipeline) struct DeadLetters {
    batch: MessageBatch,
    headers: HeadersBuf,
    original: HeadersBuf,
    pipeline: Arc<str>,
    plugin: Arc<str>,
}

/// A record that is given up on.
pub(in crate::pipeline) struct Letter<'a> {
    pub(in crate::pipeline) timestamp_ms: u64,
    pub(in crate::pipeline) key: Option<&'a [u8]>,
    pub(in crate::pipeline) value: Option<&'a [u8]>,
    pub(in crate::pipeline) headers: EncodedHeaders<'a>,
    /// `topic:NAME/PARTITION/OFFSET`.
    pub(in crate::pipeline) origin: String,
    pub(in crate::pipeline) cause: &'a Cause,
    pub(in crate::pipeline) attempt_count: u32,
    pub(in crate::pipeline) first_failed_ms: u64,
    pub(in crate::pipeline) now_ms: u64,
    /// What the plugin saw, encoded.
    pub(in crate::pipeline) recording: Option<Vec<u8>>,
}

impl DeadLetters {
    /// Dead letters of a pipeline, whose plugin is called `NAME@DIGEST`.
    pub(in crate::pipeline) fn new(queue: &Queue, pipeline: &str, plugin: &str) -> Self {
        Self {
            batch: queue.batch(),
            headers: HeadersBuf::new(),
            original: HeadersBuf::new(),
            pipeline: pipeline.into(),
            plugin: plugin.into(),
        }
    }

    /// Adds a record to a checkpoint's dead letters.
    pub(in crate::pipeline) fn push(&mut self, letter: &Letter<'_>) -> Result<(), queue::Error> {
        self.original.clear();
        letter.headers.write_to(&mut self.original)?;
        let (timestamp_ms, key, value) = (letter.timestamp_ms, letter.key, letter.value);
        let batch = &mut self.batch;
        let (pipeline, plugin) = (&self.pipeline, &self.plugin);
        // Too large with what it says besides: better with less, or as it was, than not at all.
        for recording in [letter.recording.as_deref(), None] {
            let original = self.original.as_headers();
            let marked = mark(letter, original, pipeline, plugin, &mut self.headers)
                .and_then(|()| add_recording(recording, &mut self.headers));
            let marked = marked.map_err(queue::Error::from);
            let pushed = marked.and_then(|()| {
                batch.push_dead_letter(timestamp_ms, key, value, self.headers.as_headers())
            });
            match pushed {
                Err(queue::Error::Batch(_)) => {}
                pushed => return pushed,
            }
        }
        batch.push_large_dead_letter(timestamp_ms, key, value, self.original.as_headers())
    }

    /// Adds what was pushed to the checkpoint's commit.
    pub(in crate::pipeline) fn add_to(&mut self, commit: &mut Commit) -> Result<(), queue::Error> {
        self.batch.add_dead_letters_to(commit)
    }
}

fn add_recording(recording: Option<&[u8]>, into: &mut HeadersBuf) -> Result<(), batch::Error> {
    recording.map_or(Ok(()), |bytes| into.push(letter::REPLAY, Some(bytes)))
}

/// A record's headers, without those that an earlier dead letter or a queue has put there, and with what
/// this one says.
fn mark(
    letter: &Letter<'_>,
    original: HeadersRef<'_>,
    pipeline: &str,
    plugin: &str,
    into: &mut HeadersBuf,
) -> Result<(), batch::Error> {
    into.clear();
    for (name, value) in original {
        if !letter::is_replaced(name) {
            into.push(name, value)?;
        }
    }
    let mut add = |name: &str, value: &str| into.push(name, Some(value.as_bytes()));
    add(letter::ORIGIN, &letter.origin)?;
    add(letter::REASON, letter.cause.word())?;
    add(letter::ERROR, &letter.cause.text())?;
    add(letter::ATTEMPTS, &letter.attempt_count.to_string())?;
    add(letter::PIPELINE, pipeline)?;
    add(letter::PLUGIN, plugin)?;
    add(letter::FIRST_FAILED_AT, &letter.first_failed_ms.to_string())?;
    add(letter::DEAD_LETTERED_AT, &letter.now_ms.to_string())?;
    if let Cause::Fault(fault) = letter.cause
        && let Some(trace) = fault.backtrace()
    {
        let kept = trace.floor_char_boundary(MAX_BACKTRACE_BYTES);
        add(letter::BACKTRACE, &trace[..kept])?;
    }
    Ok(())
}
