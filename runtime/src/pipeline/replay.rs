//! Runs the record of a dead letter again, with what the plugin saw when it failed.

use super::retry::Cause;
use crate::model::{HeadersBuf, PipelineName, RecordRef, batch};
use crate::plugin::{Columns, DecodeError, Fault, Output, Plugin, Recording, StateChanges};
use crate::queue::letter::{self, DeadLetter};

/// Why a dead letter cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It does not say what the plugin saw.
    #[error(
        "it does not say what the plugin saw: no plugin has failed on it, or it was too large for that, or an earlier version of Millstream has written it"
    )]
    NotRecorded,
    /// What it says cannot be read.
    #[error("what the plugin saw cannot be read: {0}")]
    Recording(#[from] DecodeError),
    /// It does not say which pipeline gave up on it.
    #[error("it does not say which pipeline gave up on it")]
    NoPipeline,
    /// The record is larger than records may be.
    #[error(transparent)]
    Batch(#[from] batch::Error),
    /// The component does not take records.
    #[error("the component is no consumer: it does not export millstream:plugin/consumer")]
    NoConsumer,
}

/// A dead letter's record, and what the plugin saw when it failed on it.
pub struct Replay {
    pipeline: PipelineName,
    recording: Recording,
    /// The record alone.
    batch: Columns,
    /// What the letter says happened: a word and a sentence.
    then: RecordOutcome,
}

/// What running a record leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordOutcome {
    /// `success`, or a word for what happened: that of a dead letter, or `retry`.
    pub word: String,
    /// What happened, for people; empty if nothing did.
    pub text: String,
}

/// What a replay has led to.
pub struct Replayed {
    /// How it ended.
    pub outcome: RecordOutcome,
    /// Whether it failed in the way that the dead letter says.
    pub is_same_kind: bool,
    /// Whether it did so with the same words, too.
    pub is_same: bool,
    /// The plugin's call stack if it trapped, innermost first.
    pub backtrace: Option<String>,
    /// What it returned; none if it faulted.
    pub output: Option<Output>,
    /// What it would change of its state.
    pub changes: StateChanges,
    /// How many of its reads of the state asked for what it did not read then: there they found nothing.
    pub unknown_read_count: usize,
}

impl Replay {
    /// Reads a message of a dead-letter queue.
    ///
    /// # Errors
    /// Why it cannot be replayed.
    pub fn of(message: &RecordRef<'_>) -> Result<Self, ReplayError> {
        let letter = DeadLetter::read(message.headers);
        let recording = Recording::decode(letter.replay.ok_or(ReplayError::NotRecorded)?)?;
        let pipeline = letter.pipeline.and_then(|name| name.parse().ok());
        let mut own = HeadersBuf::new();
        for (name, value) in message.headers {
            if !letter::is_replaced(name) {
                own.push(name, value)?;
            }
        }
        let record = RecordRef {
            headers: own.as_headers(),
            ..*message
        };
        Ok(Self {
            pipeline: pipeline.ok_or(ReplayError::NoPipeline)?,
            batch: recording.place.batch_of(&record)?,
            recording,
            then: RecordOutcome {
                word: letter.reason.unwrap_or_default().to_owned(),
                text: letter.error.unwrap_or_default().to_owned(),
            },
        })
    }

    /// The pipeline that gave up on the record.
    pub fn pipeline(&self) -> &PipelineName {
        &self.pipeline
    }

    /// What the plugin saw.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// The record, alone in a batch as the plugin gets it.
    pub fn batch(&self) -> &Columns {
        &self.batch
    }

    /// What happened then, as the letter says.
    pub fn then(&self) -> &RecordOutcome {
        &self.then
    }

    /// Runs the record in a plugin. What the plugin writes to its log is logged.
    ///
    /// # Errors
    /// [`ReplayError::NoConsumer`]
    pub fn run(&self, plugin: &Plugin) -> Result<Replayed, ReplayError> {
        if !plugin.is_consumer() {
            return Err(ReplayError::NoConsumer);
        }
        let call = plugin.replay(&self.pipeline, &self.recording, &self.batch);
        let cause = Cause::of_single(&call.result);
        let then = &self.then;
        let is_same_kind = cause
            .as_ref()
            .is_some_and(|cause| cause.is_of_kind(&then.word));
        Ok(Replayed {
            is_same_kind,
            is_same: cause
                .as_ref()
                .is_some_and(|cause| cause.is_same(&then.word, &then.text)),
            outcome: RecordOutcome::of(cause.as_ref()),
            backtrace: call.result.as_ref().err().and_then(Fault::backtrace),
            output: call.result.ok(),
            changes: call.changes,
            unknown_read_count: call.unknown_read_count,
        })
    }
}

impl RecordOutcome {
    fn of(cause: Option<&Cause>) -> Self {
        let word = match cause {
            None => Cause::SUCCESS,
            Some(Cause::Retry { .. }) => "retry",
            Some(cause) => cause.word(),
        };
        Self {
            word: word.to_owned(),
            text: cause.map(Cause::text).unwrap_or_default(),
        }
    }

    /// Whether the plugin has processed the record.
    pub fn is_success(&self) -> bool {
        self.word == Cause::SUCCESS
    }
}
