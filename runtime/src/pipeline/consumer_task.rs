//! A task of a pipeline that takes records: pull a batch, call the plugin, make a checkpoint.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::TaskError;
use super::batch_run::{Batch, Origin};
use super::checkpoint::{Checkpoint, Checkpoints};
use super::outputs::Outputs;
use super::processor::Processor;
use super::retry::{GroupId, Parked, Waiting};
use super::runtime::PipelineRuntime;
use super::status::TaskStatus;
use super::task_state::TaskState;
use crate::log::{self, Cursor};
use crate::manifest::{Delivery, RetryOrder, Start};
use crate::plugin::Columns;
use crate::storage::schema::group_offset::CommittedOffset;
use crate::storage::{self, Commit};

/// How long a task waits at most that has nothing to do, before it looks again.
const LONG_PAUSE: Duration = Duration::from_secs(3600);

/// How long a task tries parked records again before it turns to new ones, and the other way round if
/// there are both: each change costs the wait for a commit.
const TURN: Duration = Duration::from_millis(5);

/// One task: the pipeline on one partition of each of its inputs.
pub(super) struct ConsumerTask {
    pub(super) pipeline: Arc<PipelineRuntime>,
    pub(super) task: u32,
    inputs: Vec<Input>,
    /// The input read last; the next one has its turn first.
    turn: usize,
    pub(super) state: Arc<Mutex<TaskState>>,
    pub(super) processor: Processor,
    batch: Columns,
    /// Some records of a batch, when not all of it can run.
    pub(super) part: Columns,
    pub(super) parked: Parked,
    /// Groups of a batch of parked records of which one stays parked: those after it must wait.
    pub(super) held_groups: HashSet<GroupId>,
    pub(super) outputs: Outputs,
    /// What the parts of the current batch have led to, and how far its input is processed with it.
    pub(super) gathered: Checkpoint,
    pub(super) gathered_to: Option<(usize, u64)>,
    pub(super) checkpoints: Checkpoints,
    pub(super) status: Arc<TaskStatus>,
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
        let parked = Parked::open(store.clone(), pipeline.id, task)?;
        status.parked.store(parked.len(), Ordering::Release);
        if !parked.is_empty() && parked.max_input() as usize >= pipeline.spec.inputs.len() {
            return Err(TaskError::ParkedInput {
                input: parked.max_input(),
                count: parked.len(),
            });
        }
        let processor =
            Processor::open(&pipeline, task, &state, &pipeline.metrics).map_err(TaskError::Open)?;
        Ok(Self {
            outputs: pipeline.outputs(),
            checkpoints: Checkpoints::new(store),
            turn: 0,
            batch: Columns::new(),
            part: Columns::new(),
            parked,
            held_groups: HashSet::new(),
            gathered: Checkpoint::default(),
            gathered_to: None,
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
        let mut next_retries = Instant::now();
        while !*stop.borrow() {
            let next = if self.must_wait() {
                None
            } else {
                self.next_input()
            };
            let pause = self.pause_until_due();
            let is_due = pause == Some(Duration::ZERO);
            if is_due && (next.is_none() || Instant::now() >= next_retries) {
                self.retry_for(TURN, stop).await?;
                next_retries = Instant::now() + TURN;
                continue;
            }
            let Some(turn) = next else {
                self.checkpoints.settle(&self.status).await?;
                let inputs = if self.must_wait() {
                    &[]
                } else {
                    self.inputs.as_slice()
                };
                wait_for_records(inputs, pause, &self.status, stop).await;
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

    /// Whether no new records may be taken until parked ones are done.
    fn must_wait(&self) -> bool {
        let blocks = self.pipeline.spec.retry.order == RetryOrder::Partition;
        (blocks && !self.parked.is_empty()) || self.parked.is_full()
    }

    /// How long until a parked record is due.
    fn pause_until_due(&self) -> Option<Duration> {
        let due_ms = self.parked.next_due_ms()?;
        Some(Duration::from_millis(due_ms.saturating_sub(self.now_ms())))
    }

    /// Commits where the inputs start that have no position yet: `latest`, or a time, is meant once,
    /// and not again by each run until records come.
    async fn commit_start(&mut self) -> Result<(), TaskError> {
        if matches!(self.pipeline.spec.start, Start::Earliest) {
            return Ok(());
        }
        let mut commit = Commit::new();
        for (turn, input) in self.inputs.iter().enumerate() {
            let group = &self.pipeline.spec.group;
            let partition = input.cursor.partition();
            if self.pipeline.groups.committed(group, partition)?.is_none() {
                self.commit_offset(turn, input.cursor.offset(), &mut commit);
            }
        }
        if !commit.is_empty() {
            self.pipeline.log.store().commit(commit).await?;
        }
        Ok(())
    }

    /// Commits that there is nothing to process before the cursor: retention or cleaning took it.
    async fn skip(&mut self, turn: usize) -> Result<(), TaskError> {
        let offset = self
            .inputs
            .get(turn)
            .map_or(0, |input| input.cursor.offset());
        let mut checkpoint = Checkpoint::default();
        self.commit_offset(turn, offset, &mut checkpoint.commit);
        self.submit(checkpoint).await?;
        self.show_offset(turn, offset);
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
        let next_offset = self
            .inputs
            .get(turn)
            .map_or(0, |input| input.cursor.offset());
        let batch = Batch {
            columns: std::mem::take(&mut self.batch),
            origin: Origin::Input { turn, next_offset },
        };
        let ran = if self.pipeline.spec.delivery == Delivery::AtMostOnce {
            // Progress first: after a crash these records are not seen again.
            let mut progress = Commit::new();
            self.commit_offset(turn, next_offset, &mut progress);
            self.checkpoints.settle(&self.status).await?;
            self.pipeline.log.store().commit(progress).await?;
            self.show_offset(turn, next_offset);
            self.run_batch_once(&batch).await
        } else {
            self.run_batch(&batch, stop).await
        };
        self.batch = batch.columns;
        ran
    }

    /// Tries parked records again until none is due, or the time is over.
    async fn retry_for(
        &mut self,
        turn: Duration,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let end = Instant::now() + turn;
        while self.pause_until_due() == Some(Duration::ZERO) {
            self.retry_due(stop).await?;
            if *stop.borrow() || Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    /// Tries parked records again that are due, if there are any.
    async fn retry_due(&mut self, stop: &watch::Receiver<bool>) -> Result<(), TaskError> {
        // They are read from the store.
        self.checkpoints.settle(&self.status).await?;
        let limits = self.pipeline.spec.batch;
        let now_ms = self.now_ms();
        let max_records = limits.max_records as usize;
        let waiting =
            block_in_place(|| self.parked.take_due(now_ms, max_records, limits.max_bytes))?;
        let Some(first) = waiting.first() else {
            return Ok(());
        };
        let input = first.parked.input;
        let partition = self.inputs.iter().find(|of| of.index == input);
        let partition = partition.map_or(self.task, |of| of.cursor.partition().index());
        let mut columns = Columns::new();
        columns.start(input, partition);
        for Waiting { parked, .. } in &waiting {
            let delivery_count = parked.attempt_count.saturating_add(1);
            let records = parked.record.records().map_err(log::Error::from)?;
            for record in &records {
                columns.push_delivery(&record.map_err(log::Error::from)?, delivery_count);
            }
        }
        let batch = Batch {
            columns,
            origin: Origin::Parked(waiting),
        };
        self.run_batch(&batch, stop).await
    }

    pub(super) fn show_offset(&self, turn: usize, offset: u64) {
        if let Some(status) = self.status.inputs.get(turn) {
            status.offset.store(offset, Ordering::Release);
        }
    }

    pub(super) fn commit_offset(&self, turn: usize, offset: u64, commit: &mut Commit) {
        if let Some(input) = self.inputs.get(turn) {
            let committed = CommittedOffset {
                offset,
                committed_at_ms: self.now_ms(),
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
}

/// Waits until an input has records, the task is told to stop, or
/// `pause` is over.
async fn wait_for_records(
    inputs: &[Input],
    pause: Option<Duration>,
    status: &TaskStatus,
    stop: &mut watch::Receiver<bool>,
) {
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
        () = tokio::time::sleep(pause.unwrap_or(LONG_PAUSE)) => {}
        _ = stop.changed() => {}
    }
    status.set_idle(false);
}
