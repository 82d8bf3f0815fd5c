//! A task of a pipeline that takes records: pull a batch, call the plugin, make a checkpoint.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::checkpoint::Checkpoints;
use super::outputs::{OutputError, Outputs};
use super::processor::{Processed, Processor};
use super::runtime::PipelineRuntime;
use super::status::TaskStatus;
use super::task_state::TaskState;
use super::{PositionAfterFailure, TaskError};
use crate::log::{self, Cursor};
use crate::manifest::{Delivery, Start};
use crate::plugin::{Columns, FailureKind, Fault, Output};
use crate::storage::schema::group_offset::CommittedOffset;
use crate::storage::{self, Commit};

/// How long a fault is looked for in a batch, besides the call that is running then.
const LOCATE_TIME: Duration = Duration::from_secs(10);

/// One task: the pipeline on one partition of each of its inputs.
pub(super) struct ConsumerTask {
    pipeline: Arc<PipelineRuntime>,
    task: u32,
    inputs: Vec<Input>,
    /// The input read last; the next one has its turn first.
    turn: usize,
    state: Arc<Mutex<TaskState>>,
    processor: Processor,
    batch: Columns,
    outputs: Outputs,
    checkpoints: Checkpoints,
    status: Arc<TaskStatus>,
}

struct Input {
    /// Its index in the manifest's `from`.
    index: u32,
    cursor: Cursor,
}

impl ConsumerTask {
    /// Opens the plugin and goes to the committed offsets. `status` has the task's inputs in the
    /// order of [`PipelineRuntime::task_inputs`].
    pub(super) fn open(
        pipeline: Arc<PipelineRuntime>,
        task: u32,
        status: Arc<TaskStatus>,
    ) -> Result<Self, TaskError> {
        let store = pipeline.log.store().clone();
        let mut inputs = Vec::new();
        for ((index, partition), input) in
            pipeline.task_inputs(task).into_iter().zip(&status.inputs)
        {
            let offset = pipeline.start_offset(&partition)?;
            input.offset.store(offset, Ordering::Release);
            inputs.push(Input {
                index,
                cursor: Cursor::new(store.clone(), partition, offset),
            });
        }
        let state = pipeline.state(task)?;
        let processor =
            Processor::open(&pipeline, task, &state, &pipeline.metrics).map_err(TaskError::Open)?;
        Ok(Self {
            outputs: pipeline.outputs(),
            checkpoints: Checkpoints::new(store),
            turn: 0,
            batch: Columns::new(),
            pipeline,
            task,
            inputs,
            state,
            processor,
            status,
        })
    }

    /// Runs until it is told to stop or fails. What is under way is finished before it returns.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), TaskError> {
        let ended = self.run_until_stopped(&mut stop).await;
        // A checkpoint that failed is the cause of whatever came after it.
        self.checkpoints.settle(&self.status).await?;
        ended
    }

    async fn run_until_stopped(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        self.commit_start().await?;
        while !*stop.borrow() {
            let Some(turn) = self.next_input() else {
                self.checkpoints.settle(&self.status).await?;
                wait_for_records(&self.inputs, &self.status, stop).await;
                continue;
            };
            self.turn = turn;
            self.fill(turn, stop).await?;
            if self.batch.is_empty() {
                self.skip(turn).await?;
            } else {
                self.process(turn, stop).await?;
            }
        }
        Ok(())
    }

    /// Commits where the inputs start that have no position yet: `latest`, or a time, is meant once,
    /// and not again by each run until records come.
    async fn commit_start(&mut self) -> Result<(), TaskError> {
        if matches!(self.pipeline.spec.start, Start::Earliest) {
            return Ok(());
        }
        let now_ms = self.pipeline.log.store().clock().now_ms();
        let mut commit = Commit::new();
        for (turn, input) in self.inputs.iter().enumerate() {
            let group = &self.pipeline.spec.group;
            let partition = input.cursor.partition();
            if self.pipeline.groups.committed(group, partition)?.is_none() {
                self.commit_offset(turn, now_ms, &mut commit);
            }
        }
        if !commit.is_empty() {
            self.pipeline.log.store().commit(commit).await?;
        }
        Ok(())
    }

    /// Commits that there is nothing to process before the cursor: retention or cleaning took it.
    async fn skip(&mut self, turn: usize) -> Result<(), TaskError> {
        let now_ms = self.pipeline.log.store().clock().now_ms();
        let mut commit = Commit::new();
        self.commit_offset(turn, now_ms, &mut commit);
        self.checkpoints.submit(commit, 0, 0, &self.status).await?;
        self.show_offset(turn);
        Ok(())
    }

    /// The next input that has records, in turn.
    fn next_input(&self) -> Option<usize> {
        let count = self.inputs.len();
        (1..=count)
            .map(|step| (self.turn + step) % count)
            .find(|turn| !self.inputs[*turn].cursor.is_at_end())
    }

    /// Reads the next batch of an input. Waits `max-wait` for a batch that is not full.
    async fn fill(
        &mut self,
        turn: usize,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let limits = self.pipeline.spec.batch;
        let Self {
            inputs,
            batch,
            pipeline,
            ..
        } = self;
        let Some(input) = inputs.get_mut(turn) else {
            return Ok(());
        };
        batch.start(input.index, input.cursor.partition().index());
        let mut bytes = 0;
        let deadline = Instant::now() + limits.max_wait;
        loop {
            let max_records = (limits.max_records as usize).saturating_sub(batch.len());
            let max_bytes = limits.max_bytes.saturating_sub(bytes);
            let read = block_in_place(|| {
                input.cursor.read(max_records, max_bytes, |record| {
                    bytes += record.size_bytes();
                    batch.push(record);
                })
            });
            match read {
                Ok(_) => {}
                Err(log::Error::Storage(storage::Error::OffsetOutOfRange {
                    offset,
                    start,
                    ..
                })) if offset < start => {
                    let (pipeline, topic) = (
                        &pipeline.spec.name,
                        &pipeline.spec.inputs[input.index as usize],
                    );
                    let lost = start - offset;
                    tracing::warn!(%pipeline, %topic, offset, start, lost, "retention has deleted records before they were read; going on at the first that is left");
                    input.cursor.seek(start);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let is_full = batch.len() >= limits.max_records as usize || bytes >= limits.max_bytes;
            if is_full || batch.is_empty() || limits.max_wait.is_zero() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return Ok(()),
                () = input.cursor.wait() => {}
                _ = stop.changed() => return Ok(()),
            }
        }
    }

    async fn process(
        &mut self,
        turn: usize,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let now_ms = self.pipeline.log.store().clock().now_ms();
        let mut commit = Commit::new();
        if self.pipeline.spec.delivery == Delivery::AtMostOnce {
            // Progress first: after a crash these records are not seen again.
            let mut progress = Commit::new();
            self.commit_offset(turn, now_ms, &mut progress);
            self.checkpoints.settle(&self.status).await?;
            self.pipeline.log.store().commit(progress).await?;
        } else {
            self.commit_offset(turn, now_ms, &mut commit);
        }
        let records_out = {
            let _permit = self.pipeline.calls.clone().acquire_owned().await.ok();
            block_in_place(|| self.call(turn, now_ms, stop, &mut commit))?
        };
        let records_in = self.batch.len() as u64;
        self.checkpoints
            .submit(commit, records_in, records_out, &self.status)
            .await?;
        self.show_offset(turn);
        Ok(())
    }

    fn show_offset(&self, turn: usize) {
        if let (Some(input), Some(status)) = (self.inputs.get(turn), self.status.inputs.get(turn)) {
            status
                .offset
                .store(input.cursor.offset(), Ordering::Release);
        }
    }

    fn commit_offset(&self, turn: usize, now_ms: u64, commit: &mut Commit) {
        if let Some(input) = self.inputs.get(turn) {
            let committed = CommittedOffset {
                offset: input.cursor.offset(),
                committed_at_ms: now_ms,
            };
            let partition = input.cursor.partition();
            commit.commit_offset(
                self.pipeline.spec.group.as_str(),
                partition.topic_id(),
                partition.index(),
                committed,
            );
        }
    }

    /// Runs the processor on the batch and adds what comes of it to the commit.
    fn call(
        &mut self,
        turn: usize,
        now_ms: u64,
        stop: &watch::Receiver<bool>,
        commit: &mut Commit,
    ) -> Result<u64, TaskError> {
        let processed = match self.processor.process(&self.batch) {
            Ok(processed) => processed,
            Err(fault) => return Err(self.locate(turn, fault, stop)),
        };
        if let Processed::Plugin(output) = &processed
            && let Some(error) = self.failed_record(turn, output)
        {
            return Err(error);
        }
        let before = commit.record_count();
        let routed = self
            .processor
            .route(&processed, &self.batch, now_ms, &mut self.outputs, commit)
            .and_then(|()| self.outputs.finish(commit));
        if let Err(OutputError { source, reason }) = routed {
            return Err(self.fault_at(turn, source.unwrap_or(0), Fault::Output { reason }));
        }
        let changes = self.processor.take_state_changes();
        self.state.lock().apply(changes, commit);
        Ok(commit.record_count() - before)
    }

    /// The error for the first record that the plugin could not process.
    fn failed_record(&self, turn: usize, output: &Output) -> Option<TaskError> {
        let failure = output.failed().first()?;
        Some(TaskError::Record {
            topic: self.topic_name(turn),
            partition: self.batch.partition(),
            offset: self.batch.offset(failure.index),
            verdict: match failure.kind {
                FailureKind::Retry { .. } => "asks to retry",
                FailureKind::Reject => "rejected",
            },
            reason: failure.reason.clone(),
            position: self.position_after_failure(),
        })
    }

    /// Finds the record on which the plugin faults: bisects the batch with fresh instances, whose
    /// outputs, state changes and metrics are thrown away. Gives up after a while, or when the task
    /// is told to stop; then the first record that may be the one stands for it.
    fn locate(&self, turn: usize, fault: Fault, stop: &watch::Receiver<bool>) -> TaskError {
        let give_up = Instant::now() + LOCATE_TIME + self.pipeline.limits.deadline;
        let (mut good, mut bad) = (0, self.batch.len());
        let (mut fault, mut reproduced) = (fault, false);
        while good + 1 < bad {
            if *stop.borrow() || Instant::now() >= give_up {
                return self.fault_at(turn, good, fault);
            }
            let middle = good + (bad - good) / 2;
            match self.fault_of_first(turn, middle) {
                Ok(None) => good = middle,
                Ok(Some(again)) => (bad, fault, reproduced) = (middle, again, true),
                Err(_) => break,
            }
        }
        // If no prefix faults but the whole batch did, the last record is the one, unless the fault
        // does not come again at all; then the batch's first offset stands for it.
        let at = if reproduced || bad == good + 1 {
            bad.saturating_sub(1)
        } else {
            0
        };
        self.fault_at(turn, at, fault)
    }

    /// The error for a fault on the record with this index in the batch.
    fn fault_at(&self, turn: usize, index: usize, fault: Fault) -> TaskError {
        TaskError::Fault {
            topic: self.topic_name(turn),
            partition: self.batch.partition(),
            offset: self.batch.offset(index),
            fault,
            position: self.position_after_failure(),
        }
    }

    fn position_after_failure(&self) -> PositionAfterFailure {
        match self.pipeline.spec.delivery {
            Delivery::AtMostOnce => PositionAfterFailure::BehindBatch,
            Delivery::ExactlyOnce | Delivery::AtLeastOnce => PositionAfterFailure::Kept,
        }
    }

    /// What a fresh instance makes of the first `count` records of the batch.
    fn fault_of_first(&self, turn: usize, count: usize) -> Result<Option<Fault>, TaskError> {
        let Some(input) = self.inputs.get(turn) else {
            return Ok(None);
        };
        let partition = Arc::clone(input.cursor.partition());
        let store = self.pipeline.log.store().clone();
        let mut cursor = Cursor::new(store, partition, self.batch.offset(0));
        let mut batch = Columns::new();
        batch.start(self.batch.input(), self.batch.partition());
        cursor.read(count, usize::MAX, |record| batch.push(record))?;
        let opened = Processor::open(&self.pipeline, self.task, &self.state, &Arc::default());
        Ok(opened
            .and_then(|mut processor| processor.process(&batch))
            .err())
    }

    fn topic_name(&self, turn: usize) -> crate::model::TopicName {
        let index = self
            .inputs
            .get(turn)
            .map_or(0, |input| input.index as usize);
        self.pipeline.spec.inputs[index].clone()
    }
}

/// Waits until an input has records, or the task is told to stop.
async fn wait_for_records(inputs: &[Input], status: &TaskStatus, stop: &mut watch::Receiver<bool>) {
    let mut waits: Vec<_> = inputs
        .iter()
        .map(|input| Box::pin(input.cursor.wait()))
        .collect();
    let any = std::future::poll_fn(|context| {
        let is_ready = waits
            .iter_mut()
            .any(|wait| wait.as_mut().poll(context).is_ready());
        if is_ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    });
    status.set_idle(true);
    tokio::select! {
        () = any => {}
        _ = stop.changed() => {}
    }
    status.set_idle(false);
}
