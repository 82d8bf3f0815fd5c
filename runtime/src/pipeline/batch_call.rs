//! One call of a task's plugin on records of a batch, and what of its outputs counts.

use hashbrown::HashSet;
use tokio::task::block_in_place;

use super::TaskError;
use super::batch_run::{Batch, Failed};
use super::batch_runner::BatchRunner;
use super::call_counts::Call;
use super::call_trace::CallTrace;
use super::checkpoint::Checkpoint;
use super::outputs::OutputError;
use super::processor::{Changes, Processed};
use super::retry::{Cause, GroupId};
use crate::manifest::RetryOrder;
use crate::plugin::{Fault, Output};
use crate::trace;

/// Bytes of what a part of a batch may lead to: what a commit takes (128 MiB), less a fold of earlier state and
/// what dead letters keep for a replay.
const MAX_PART_BYTES: usize = 96 << 20;
/// What a record that failed takes besides its own bytes: where it comes from, and why it failed.
const KEPT_BYTES: usize = 2 << 10;

/// What a call into the plugin led to.
pub(super) enum Called {
    /// It succeeded, but for these records; its outputs are in the checkpoint.
    Succeeded {
        failed: Vec<Failed>,
        /// Indexes of records that must run again later, behind one that failed: nothing of them is in the
        /// checkpoint.
        overtaken: Vec<usize>,
        changes: Changes,
        /// All of its outputs.
        output: Processed,
    },
    /// It succeeded, but with records that had to wait behind one that failed, and what they led to cannot be
    /// told from what the others did. Their indexes; the checkpoint is of no use.
    Mixed(Vec<usize>),
    /// The plugin faulted; if it is known on which record, its index in the batch.
    Faulted(Fault, Option<usize>),
    /// An output takes nothing now.
    Blocked(String),
}

impl BatchRunner {
    /// Calls the plugin on some records of a batch and adds its outputs to the checkpoint. After a
    /// fault there is a new instance, and the checkpoint is of no use.
    pub(super) fn call(
        &mut self,
        batch: &Batch,
        selection: &[usize],
        checkpoint: &mut Checkpoint,
    ) -> Result<Called, TaskError> {
        let is_whole = selection.len() == batch.columns.len();
        if !is_whole {
            let whole = &batch.columns;
            self.part.start(whole.input(), whole.partition());
            for index in selection {
                self.part.push_from(whole, *index);
            }
        }
        let columns = if is_whole { &batch.columns } else { &self.part };
        let tracer = trace::active();
        let traced = tracer.and_then(|tracer| CallTrace::begin(tracer, columns));
        let begun = self.meter.begin();
        let processed = self.processor.process(columns);
        let taken = self.meter.end(&begun);
        self.status.note_call(&Call {
            records: columns.len() as u64,
            input_bytes: columns.size_bytes() as u64,
            output_bytes: processed.as_ref().map_or(0, Processed::size_bytes),
            ..taken
        });
        if let (Some(tracer), Some(traced)) = (tracer, &traced) {
            let result = processed.as_ref().map(Processed::failed_count);
            traced.end(tracer, &self.pipeline, columns, result);
        }
        self.outputs.set_trace(traced);
        self.memory.note(&self.processor);
        self.recorder.note_call(&mut self.processor);
        match processed {
            Ok(processed) => self.take_outputs(batch, selection, processed, checkpoint),
            Err(fault) => {
                self.status.note_fault(&fault);
                let said = self.processor.trapping_at();
                let said = said.and_then(|at| selection.get(at)).copied();
                self.reopen()?;
                Ok(Called::Faulted(fault, said))
            }
        }
    }

    /// Adds the outputs of a call that succeeded to the checkpoint, without those of records that have to wait.
    fn take_outputs(
        &mut self,
        batch: &Batch,
        selection: &[usize],
        processed: Processed,
        checkpoint: &mut Checkpoint,
    ) -> Result<Called, TaskError> {
        let index_of = |at: usize| selection.get(at).copied().unwrap_or_default();
        let mut failed = match &processed {
            Processed::Plugin(output) => failed_of(output, index_of),
            Processed::Native => Vec::new(),
        };
        let changes = self.processor.take_changes();
        if !failed.is_empty() && self.pipeline.spec.retry.order != RetryOrder::None {
            self.know_groups(batch);
        }
        let overtaken = self.overtaken(batch, selection, &failed);
        let can_be_told_apart = || changes.is_empty() && processed.has_sources();
        if !overtaken.is_empty() && !can_be_told_apart() {
            // What this call has changed in the instance must not count.
            self.reopen()?;
            return Ok(Called::Mixed(overtaken));
        }
        let is_overtaken = |index: usize| overtaken.binary_search(&index).is_ok();
        failed.retain(|(index, _)| !is_overtaken(*index));
        let is_kept = |at: usize| overtaken.is_empty() || !is_overtaken(index_of(at));
        let (now_ms, commit) = (self.now_ms(), &mut checkpoint.commit);
        let is_whole = selection.len() == batch.columns.len();
        let columns = if is_whole { &batch.columns } else { &self.part };
        let outputs = &mut self.outputs;
        let routed = self
            .processor
            .route(&processed, columns, is_kept, now_ms, outputs, commit)
            .and_then(|()| outputs.finish(commit));
        let records_out = match routed {
            Ok(count) => count,
            Err(error) => {
                self.outputs.discard();
                self.reopen()?;
                return Ok(match error {
                    OutputError::Blocked { reason } => Called::Blocked(reason),
                    OutputError::Record { source, reason } => {
                        let fault = Fault::Output { reason };
                        self.status.note_fault(&fault);
                        Called::Faulted(fault, source.map(index_of))
                    }
                });
            }
        };
        self.blocked_pause = None;
        checkpoint.counts.records_out += records_out;
        Ok(Called::Succeeded {
            failed,
            overtaken,
            changes,
            output: processed,
        })
    }

    /// Runs the shadow, if there is one, on what the last call has run, before what that has changed is applied.
    pub(super) fn run_shadow(&mut self, batch: &Batch, selection: &[usize], output: &Processed) {
        let (Some(shadow), Processed::Plugin(output)) = (&mut self.shadow, output) else {
            return;
        };
        let is_whole = selection.len() == batch.columns.len();
        let columns = if is_whole { &batch.columns } else { &self.part };
        block_in_place(|| shadow.run(columns, output));
    }

    /// The selected records that succeeded, or failed, although one of their group before them is to
    /// be tried again.
    fn overtaken(&self, batch: &Batch, selection: &[usize], failed: &[Failed]) -> Vec<usize> {
        let mut overtaken = Vec::new();
        // Parked records of one group leave it in their order, whatever order was asked for when they were parked.
        let has_order = self.pipeline.spec.retry.order != RetryOrder::None || batch.is_parked();
        if failed.is_empty() || !has_order {
            return overtaken;
        }
        let mut waiting: HashSet<GroupId> = HashSet::new();
        let mut failed = failed.iter().peekable();
        for index in selection.iter().copied() {
            let failure = failed.next_if(|(at, _)| *at == index);
            if waiting.is_empty() && failure.is_none() {
                continue;
            }
            let group = self.group(batch, index);
            match failure {
                _ if waiting.contains(&group) => overtaken.push(index),
                Some((_, cause)) if !self.is_given_up(batch, index, cause) => {
                    waiting.insert(group);
                }
                _ => {}
            }
        }
        overtaken
    }
}

impl Batch {
    /// What a record takes in a commit that parks it, or makes it a dead letter, about.
    pub(super) fn kept_bytes(&self, index: usize) -> usize {
        self.columns.record_bytes(index) + KEPT_BYTES
    }
}

/// Bytes of what a part of a batch may lead to.
pub(super) fn max_part_bytes() -> usize {
    // Tests need not fill so much memory.
    fail::fail_point!("batch::max-part-bytes", |bytes| {
        bytes
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(MAX_PART_BYTES)
    });
    MAX_PART_BYTES
}

/// What is wrong with records that lead to more.
pub(super) fn too_large(bytes: usize) -> Fault {
    Fault::Output {
        reason: format!(
            "what the records lead to takes {bytes} bytes (output, state, timers and records that failed together), and {} go into one commit; lower `limits.output` or `batch.max-bytes`, or write less state",
            max_part_bytes()
        ),
    }
}

fn failed_of(output: &Output, index_of: impl Fn(usize) -> usize) -> Vec<Failed> {
    let failures = output.failed().iter();
    failures
        .map(|failure| (index_of(failure.index), Cause::of_failure(failure)))
        .collect()
}
