//! A task of a pipeline that takes records: pull a batch, call the plugin, make a checkpoint.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::TaskError;
use super::batch_run::{Batch, Origin};
use super::batch_runner::{BatchRunner, open_parked, parked_input};
use super::checkpoint::Checkpoint;
use super::control::TaskControl;
use super::input::{Input, any_readable, commit_start};
use super::retry::{NoRoom, ROOM_PAUSE, note_room};
use super::runtime::PipelineRuntime;
use super::status::TaskStatus;
use super::timers;
use crate::manifest::{Delivery, RetryOrder};
use crate::plugin::Columns;

/// How long a task waits at most that has nothing to do, before it looks again.
const LONG_PAUSE: Duration = Duration::from_secs(3600);

/// How long a task waits at most for the time of a parked record or a timer before it looks at the clock
/// again, which may have been set.
const CLOCK_PAUSE: Duration = Duration::from_secs(60);

/// How long a task tries parked records again and tells of timers before it turns to new records, and
/// the other way round if there are both: each change costs the wait for a commit.
const TURN: Duration = Duration::from_millis(5);

/// One task: the pipeline on one partition of each of its inputs.
pub(super) struct ConsumerTask {
    runner: BatchRunner,
    inputs: Vec<Input>,
    /// The input read last; the next one has its turn first.
    turn: usize,
    batch: Columns,
    /// Why it takes no new records, as of the last turn.
    no_room: Option<NoRoom>,
}

impl ConsumerTask {
    /// Opens the plugin and goes to the committed offsets. `status` has the task's inputs in the
    /// order of [`PipelineRuntime::task_inputs`].
    pub(super) fn open(
        pipeline: Arc<PipelineRuntime>,
        task: u32,
        control: Arc<TaskControl>,
        status: Arc<TaskStatus>,
    ) -> Result<Self, TaskError> {
        let inputs = Input::open_all(&pipeline, task, &status)?;
        let parked = open_parked(&pipeline, task, &status)?;
        Ok(Self {
            runner: BatchRunner::open(pipeline, task, parked, None, control, status)?,
            turn: 0,
            batch: Columns::new(),
            no_room: None,
            inputs,
        })
    }

    /// Runs until it is told to stop or fails. What is under way is finished before it returns.
    pub(super) async fn run(mut self) -> Result<(), TaskError> {
        let mut stop = self.runner.control.subscribe();
        let ended = self.run_until_stopped(&mut stop).await;
        // A checkpoint that failed is the cause of whatever came after it.
        self.runner.submit_gathered().await?;
        self.runner.settle_checkpoint().await?;
        ended
    }

    async fn run_until_stopped(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        commit_start(&self.runner.pipeline, &self.inputs).await?;
        let mut next_due_turn = Instant::now();
        while !*stop.borrow_and_update() {
            if self.runner.control.has_swap() {
                self.runner.settle_checkpoint().await?;
            }
            self.runner.swap_if_asked().await;
            self.note_room();
            let next = if self.must_wait() {
                None
            } else {
                self.next_input()?
            };
            let pause = self.pause_until_due();
            let is_due = pause == Some(Duration::ZERO);
            if is_due && (next.is_none() || Instant::now() >= next_due_turn) {
                self.run_due_for(TURN, stop).await?;
                next_due_turn = Instant::now() + TURN;
                continue;
            }
            let Some(turn) = next else {
                self.runner.submit_gathered().await?;
                self.runner.settle_checkpoint().await?;
                let inputs = if self.must_wait() {
                    &[]
                } else {
                    self.inputs.as_slice()
                };
                let pause = match self.no_room {
                    Some(NoRoom::Disk) => Some(pause.map_or(ROOM_PAUSE, |it| it.min(ROOM_PAUSE))),
                    Some(NoRoom::Groups) | None => pause,
                };
                wait_for_records(inputs, pause, &self.runner.status, stop).await;
                continue;
            };
            self.turn = turn;
            self.take_batch(turn, stop).await?;
        }
        Ok(())
    }

    fn note_room(&mut self) {
        let runner = &self.runner;
        let parked = runner.parked.lock();
        self.no_room = note_room(&runner.pipeline, runner.task, &runner.status, &parked);
    }

    /// Whether no new records may be taken until parked ones are done.
    fn must_wait(&self) -> bool {
        let parked = self.runner.parked.lock();
        let blocks = self.runner.pipeline.spec.retry.order == RetryOrder::Partition;
        (blocks && !parked.is_empty()) || self.no_room.is_some()
    }

    /// How long until a parked record is due, or a timer.
    fn pause_until_due(&self) -> Option<Duration> {
        let due_ms = self.runner.parked.lock().next_due_ms();
        let parked_ms = due_ms.map(|due_ms| due_ms.saturating_sub(self.runner.now_ms()));
        let timers_ms = match self.must_wait() {
            true => None,
            false => timers::pause_ms(&self.runner.pipeline, &self.runner.timers.lock()),
        };
        let pause_ms = parked_ms.into_iter().chain(timers_ms).min()?;
        Some(Duration::from_millis(pause_ms))
    }

    /// The next input that has records, in turn.
    fn next_input(&self) -> Result<Option<usize>, TaskError> {
        let count = self.inputs.len();
        for step in 1..=count {
            let turn = (self.turn + step) % count;
            if self.inputs[turn].has_records()? {
                return Ok(Some(turn));
            }
        }
        Ok(None)
    }

    /// Reads a batch of an input and runs it.
    async fn take_batch(
        &mut self,
        turn: usize,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let pipeline = Arc::clone(&self.runner.pipeline);
        let mut limits = pipeline.spec.batch;
        if !self.runner.gathered.commit.is_empty() {
            // What retries have led to is committed with this batch, and should not wait for it.
            limits.max_wait = Duration::ZERO;
        } else if let Some(pause) = self.pause_until_due() {
            // What is due does not wait until a batch is full.
            limits.max_wait = limits.max_wait.min(pause);
        }
        let Some(input) = self.inputs.get_mut(turn) else {
            return Ok(());
        };
        let filled = input.fill(turn, &mut self.batch, &pipeline, limits, stop);
        let origin = filled.await?;
        if self.batch.is_empty() {
            return self.skip(&origin).await;
        }
        let batch = Batch {
            columns: std::mem::take(&mut self.batch),
            origin,
            reserved: None,
        };
        let ran = if pipeline.spec.delivery == Delivery::AtMostOnce {
            self.runner.run_batch_once(&batch, stop).await
        } else {
            self.runner.run_batch(&batch, stop).await
        };
        self.batch = batch.columns;
        ran
    }

    /// Commits that there is nothing to process before the cursor: retention or cleaning took it.
    async fn skip(&mut self, origin: &Origin) -> Result<(), TaskError> {
        if let Origin::Input { turn, next_offset } = *origin {
            let mut checkpoint = Checkpoint::default();
            self.runner
                .commit_offset(turn, next_offset, &mut checkpoint.commit);
            self.runner.submit(checkpoint).await?;
            self.runner.show_offset(turn, next_offset);
        }
        Ok(())
    }

    /// Tries parked records again, and tells of timers, until none is due, or the time is over.
    async fn run_due_for(
        &mut self,
        turn: Duration,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let end = Instant::now() + turn;
        while self.pause_until_due() == Some(Duration::ZERO) {
            self.retry_due(stop).await?;
            if !*stop.borrow() && !self.must_wait() {
                self.runner.fire_due(stop).await?;
            }
            if *stop.borrow() || Instant::now() >= end {
                break;
            }
        }
        Ok(())
    }

    /// Tries parked records again that are due, if there are any.
    async fn retry_due(&mut self, stop: &watch::Receiver<bool>) -> Result<(), TaskError> {
        let limits = self.runner.pipeline.spec.batch;
        let now_ms = self.runner.now_ms();
        let max_records = limits.max_records as usize;
        let parked = &self.runner.parked;
        if parked.lock().is_due_in_store(now_ms, max_records) {
            // A checkpoint may park some of them.
            self.runner.submit_gathered().await?;
            self.runner.settle_checkpoint().await?;
        }
        let parked = &self.runner.parked;
        let waiting = block_in_place(|| {
            let mut parked = parked.lock();
            parked.take_due(now_ms, max_records, limits.max_bytes, |_| false)
        })?;
        let Some(first) = waiting.first() else {
            return Ok(());
        };
        let index = parked_input(&self.runner.pipeline, first.parked.input)?;
        let input = self.inputs.iter().find(|input| input.index == index);
        let partition = input.map_or(self.runner.task, |input| input.partition().index());
        let batch = Batch::of_parked(waiting, index, partition)?;
        if self.runner.pipeline.spec.delivery == Delivery::AtMostOnce {
            return self.runner.run_batch_once(&batch, stop).await;
        }
        // The next batch of records is committed at the same time, so that retries cost no commits of their own.
        self.runner.gather_batch(&batch, stop).await?;
        Ok(())
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
    let pause = pause.map_or(LONG_PAUSE, |pause| pause.min(CLOCK_PAUSE));
    status.set_idle(true);
    tokio::select! {
        () = any_readable(inputs) => {}
        () = tokio::time::sleep(pause) => {}
        _ = stop.changed() => {}
    }
    status.set_idle(false);
}
