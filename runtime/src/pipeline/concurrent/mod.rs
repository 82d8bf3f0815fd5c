//! A task that runs several instances of its plugin at a time: `concurrency` beyond partitions.
//!
//! The task reads records and hands them to *lanes* (`lane.rs`), each of which runs batches as a task with one
//! instance does: calls, retries, dead letters and checkpoints of its own. Records that must stay in order
//! have the same group and are at one lane at a time (`backlog.rs`); which lane is free, or, if the plugin keeps
//! state, always the same one. How far the inputs are processed is put together from what the lanes have
//! finished (`lane_progress.rs`).
//!
//! A record that takes long delays those of its group, and no others. If so many of these wait that others
//! would have to wait for them, they are parked behind it, in their order, and come back when it is done
//! (`parking.rs`).

mod backlog;
mod lane;
mod parking;
mod swap;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::block_in_place;
use tokio::time::Instant;

use self::backlog::{Backlog, Fetched};
use self::lane::{Done, Lane, Lanes};
use self::parking::STALL_PAUSE;
use self::swap::LaneSwap;
use super::TaskError;
use super::batch_run::{Batch, Origin};
use super::batch_runner::{BatchRunner, open_parked, parked_input};
use super::checkpoint::Checkpoints;
use super::control::TaskControl;
use super::input::{Input, Source, commit_start};
use super::lane_progress::{LaneProgress, OffsetRanges, SharedProgress};
use super::retry::{NoRoom, Parked, ROOM_PAUSE, note_room};
use super::runtime::PipelineRuntime;
use super::status::TaskStatus;
use super::timers::{self, TaskTimers};
use crate::plugin::{Columns, Fault};
use crate::storage::Commit;

/// How long a task waits at most that has nothing to do, before it looks again.
const LONG_PAUSE: Duration = Duration::from_secs(3600);
/// How long a task waits at most for the time of a parked record or a timer before it looks at the clock
/// again, which may have been set.
const CLOCK_PAUSE: Duration = Duration::from_secs(60);
/// How long it waits until it commits an offset for which no other commit comes.
const BEHIND_PAUSE: Duration = Duration::from_millis(50);
/// How long it waits until it looks again whether the last checkpoints are in the store.
const SETTLE_PAUSE: Duration = Duration::from_millis(2);
/// How long a call should take. A batch is as large as takes about that, so that a record which takes long
/// has few neighbours, and quick ones share the cost of a call.
const CALL_TARGET: Duration = Duration::from_millis(2);

/// What a lane runs in turn.
struct LaneTurns {
    timers: Arc<Mutex<TaskTimers>>,
    /// Whether the lane ran timers last, of those and new records: these have their turn then.
    had_timers: bool,
    /// Whether the lane ran parked records last: timers and new records have their turn then.
    had_parked: bool,
}

/// A task with several instances.
pub(in crate::pipeline) struct ConcurrentTask {
    pipeline: Arc<PipelineRuntime>,
    task: u32,
    inputs: Vec<Input>,
    /// By input: what an earlier run has done beyond the offset at which this one starts.
    resumed: Vec<OffsetRanges>,
    turn: usize,
    parked: Arc<Mutex<Parked>>,
    backlog: Backlog,
    lanes: Lanes,
    /// By lane.
    turns: Vec<LaneTurns>,
    done: mpsc::UnboundedReceiver<Done>,
    progress: SharedProgress,
    /// What this task does by itself, beside the lanes.
    own_progress: LaneProgress,
    own_checkpoints: Checkpoints,
    control: Arc<TaskControl>,
    /// The lanes are being given another version of the plugin.
    swapping: Option<LaneSwap>,
    status: Arc<TaskStatus>,
    /// Why it takes no new records, as of the last turn.
    no_room: Option<NoRoom>,
    /// What a record takes, in seconds, as of late.
    record_seconds: f64,
    /// Since when all that is read waits for lanes that are busy, while others are free.
    stalled_since: Option<Instant>,
}

impl ConcurrentTask {
    /// Opens all instances and goes to the committed offsets.
    pub(in crate::pipeline) async fn open(
        pipeline: Arc<PipelineRuntime>,
        task: u32,
        control: Arc<TaskControl>,
        status: Arc<TaskStatus>,
    ) -> Result<Self, TaskError> {
        let count = pipeline.spec.concurrency;
        let mut inputs = Input::open_all(&pipeline, task, &status)?;
        commit_start(&pipeline, &inputs).await?;
        let progress = SharedProgress::open(&pipeline, &status, count + 1).await?;
        let parked = block_in_place(|| open_parked(&pipeline, task, &status))?;
        let (report, done) = mpsc::unbounded_channel();
        let (mut lanes, mut turns) = (Vec::new(), Vec::new());
        for number in 0..count {
            let lane = LaneProgress::new(number, progress.clone());
            let (parked, status) = (Arc::clone(&parked), Arc::clone(&status));
            let runner = block_in_place(|| {
                let control = TaskControl::new();
                BatchRunner::open(
                    Arc::clone(&pipeline),
                    task,
                    parked,
                    Some(lane),
                    control,
                    status,
                )
            })?;
            turns.push(LaneTurns {
                timers: Arc::clone(&runner.timers),
                had_timers: false,
                had_parked: false,
            });
            lanes.push(Lane::start(number, runner, report.clone()));
        }
        let mut resumed = vec![OffsetRanges::default(); inputs.len()];
        let positions = progress.lock().await;
        for (turn, input) in inputs.iter_mut().enumerate() {
            if let (Source::Topic(cursor), Some((low, done))) =
                (&mut input.source, positions.position(turn))
            {
                cursor.seek(low);
                resumed[turn] = done;
            }
        }
        drop(positions);
        Ok(Self {
            own_progress: LaneProgress::new(count, progress.clone()),
            own_checkpoints: Checkpoints::new(pipeline.log.store().clone()),
            backlog: Backlog::new(&pipeline),
            lanes: Lanes::new(lanes),
            turns,
            turn: 0,
            record_seconds: CALL_TARGET.as_secs_f64(),
            stalled_since: None,
            no_room: None,
            pipeline,
            task,
            inputs,
            resumed,
            parked,
            done,
            progress,
            control,
            swapping: None,
            status,
        })
    }

    /// Runs until it is told to stop or fails. What is under way is finished before it returns.
    pub(in crate::pipeline) async fn run(mut self) -> Result<(), TaskError> {
        let mut stop = self.control.subscribe();
        let ended = self.run_until_stopped(&mut stop).await;
        let finished = self.lanes.finish(&mut self.done).await;
        let committed = self.commit_progress().await;
        self.give_back().await;
        ended.and(finished).and(committed)
    }

    async fn run_until_stopped(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        self.restore_order(stop).await?;
        while !*stop.borrow_and_update() {
            self.swap_if_asked().await;
            let now_ms = self.now_ms();
            block_in_place(|| self.backlog.keep_leases(now_ms))?;
            while let Ok(done) = self.done.try_recv() {
                self.take_done(done)?;
            }
            self.note_room();
            let dispatched = self.dispatch()?;
            let fetched = self.fetch(stop).await?;
            if !dispatched && !fetched {
                self.make_room().await?;
                self.wait(stop).await?;
            } else {
                self.stalled_since = None;
            }
        }
        Ok(())
    }

    /// Gives the lanes another version of the plugin, if that is asked for, and notes when they have it.
    async fn swap_if_asked(&mut self) {
        if self.swapping.as_ref().is_some_and(LaneSwap::is_finished)
            && let Some(mut swap) = self.swapping.take()
        {
            let result = swap.finished().await;
            self.take_swapped(swap, result);
        }
        if let Some(shadow) = self.control.take_shadow() {
            for lane in self.lanes.controls() {
                lane.ask_shadow(shadow.clone());
            }
        }
        if self.swapping.is_none()
            && let Some(swap) = self.control.take_swap()
        {
            let from = Arc::clone(&self.pipeline);
            if swap.pipeline.trial.is_some() {
                self.control.set_trial(swap.pipeline.trial.clone());
            }
            self.swapping = Some(LaneSwap::start(swap, self.lanes.controls(), from));
        }
    }

    fn take_swapped(&mut self, swap: LaneSwap, result: Result<(), Fault>) {
        if let Some(pipeline) = swap.answer(result) {
            self.pipeline = pipeline;
        }
        self.control.set_trial(self.pipeline.trial.clone());
    }

    fn take_done(&mut self, done: Done) -> Result<(), TaskError> {
        self.backlog.release(done.lane);
        self.lanes.free(done.lane);
        let seconds = done.took.as_secs_f64() / done.record_count.max(1) as f64;
        // Slow at once, quick by and by: a batch that is too large makes records wait.
        self.record_seconds = match seconds > self.record_seconds {
            true => seconds,
            false => self.record_seconds * 0.8 + seconds * 0.2,
        };
        done.result
    }

    fn now_ms(&self) -> u64 {
        self.pipeline.log.store().clock().now_ms()
    }

    /// Records of a batch.
    fn batch_len(&self) -> usize {
        let target = CALL_TARGET.as_secs_f64() / self.record_seconds.max(1e-9);
        let max_records = self.pipeline.spec.batch.max_records as usize;
        (target as usize).clamp(1, max_records)
    }

    /// Gives free lanes something to do. Returns whether there was anything.
    fn dispatch(&mut self) -> Result<bool, TaskError> {
        let mut has_dispatched = false;
        let len = self.batch_len();
        for lane in self.lanes.all_free() {
            if let Some(batch) = self.next_batch(lane, len)? {
                self.lanes.send(lane, batch)?;
                has_dispatched = true;
            }
        }
        Ok(has_dispatched)
    }

    /// Parked records that are due, or something new, for a lane: in turn, if there are both. A key of which much is
    /// parked leaves the others of its lane their turn.
    fn next_batch(&mut self, lane: u32, len: usize) -> Result<Option<Batch>, TaskError> {
        let turns = self.turns.get_mut(lane as usize);
        let had_parked = turns.is_some_and(|turns| std::mem::take(&mut turns.had_parked));
        if had_parked && let Some(batch) = self.next_new(lane, len)? {
            return Ok(Some(batch));
        }
        let parked = self.next_parked(lane, len)?;
        if let (Some(_), Some(turns)) = (&parked, self.turns.get_mut(lane as usize)) {
            turns.had_parked = true;
        }
        match parked {
            None if !had_parked => self.next_new(lane, len),
            parked => Ok(parked),
        }
    }

    /// Timers that are due, or records, for a lane: in turn, if there are both.
    fn next_new(&mut self, lane: u32, len: usize) -> Result<Option<Batch>, TaskError> {
        let turns = self.turns.get_mut(lane as usize);
        let had_timers = turns.is_some_and(|turns| std::mem::take(&mut turns.had_timers));
        if !had_timers && let Some(batch) = self.next_timers(lane, len)? {
            return Ok(Some(batch));
        }
        let records = self.backlog.next_batch(lane, len, &mut self.parked.lock());
        match records {
            None if had_timers => self.next_timers(lane, len),
            records => Ok(records),
        }
    }

    /// Timers of a lane that are due. The lane is free, so that what it has set is in the store.
    fn next_timers(&mut self, lane: u32, len: usize) -> Result<Option<Batch>, TaskError> {
        if self.no_room.is_some() {
            return Ok(None);
        }
        let mut parked = self.parked.lock();
        let Some(of_lane) = self.turns.get_mut(lane as usize) else {
            return Ok(None);
        };
        let (pipeline, task) = (&self.pipeline, self.task);
        let due =
            block_in_place(|| timers::due_batch(pipeline, task, &mut of_lane.timers.lock(), len))?;
        let Some(mut batch) = due else {
            return Ok(None);
        };
        batch.reserved = Some(parked.reserve(batch.columns.len() as u64));
        of_lane.had_timers = true;
        Ok(Some(batch))
    }

    /// Parked records that are due, for a lane.
    fn next_parked(&mut self, lane: u32, len: usize) -> Result<Option<Batch>, TaskError> {
        let store = self.pipeline.log.store();
        let now_ms = store.clock().now_ms();
        let mut parked = self.parked.lock();
        if parked.next_due_ms().is_none_or(|due_ms| due_ms > now_ms) {
            return Ok(None);
        }
        let max_bytes = self.pipeline.spec.batch.max_bytes;
        let backlog = &self.backlog;
        let waiting = block_in_place(|| {
            parked.take_due(now_ms, len, max_bytes, |group| {
                !backlog.may_run(group, lane)
            })
        })?;
        drop(parked);
        let Some(first) = waiting.first() else {
            return Ok(None);
        };
        let index = parked_input(&self.pipeline, first.parked.input)?;
        let input = self.inputs.iter().find(|input| input.index == index);
        let partition = input.map_or(self.task, |input| input.partition().index());
        for waiting in &waiting {
            self.backlog.occupy(waiting.group, lane);
        }
        Ok(Some(Batch::of_parked(waiting, index, partition)?))
    }

    /// Reads records, if there is room for them. Returns whether there were any.
    async fn fetch(&mut self, stop: &mut watch::Receiver<bool>) -> Result<bool, TaskError> {
        if self.no_room.is_some() {
            return Ok(false);
        }
        let count = self.inputs.len();
        for step in 1..=count {
            let turn = (self.turn + step) % count;
            let mut limits = self.pipeline.spec.batch;
            limits.max_wait = Duration::ZERO;
            let is_queue = matches!(self.inputs[turn].source, Source::Queue(_));
            if is_queue {
                // What is leased should run at once: leases end.
                let room = self.batch_len() * self.lanes.all_free().len();
                limits.max_records = limits.max_records.min(room.try_into().unwrap_or(u32::MAX));
            }
            let has_room = limits.max_records > 0 && self.backlog.has_room();
            if !has_room || !self.inputs[turn].has_records()? {
                continue;
            }
            self.turn = turn;
            return self.fill(turn, limits, stop).await;
        }
        Ok(false)
    }

    fn note_room(&mut self) {
        let parked = self.parked.lock();
        self.no_room = note_room(&self.pipeline, self.task, &self.status, &parked);
    }

    async fn fill(
        &mut self,
        turn: usize,
        limits: crate::manifest::BatchSpec,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<bool, TaskError> {
        let input = &mut self.inputs[turn];
        let from = match &input.source {
            Source::Topic(cursor) => cursor.offset(),
            Source::Queue(_) => 0,
        };
        let mut columns = Columns::new();
        let origin = input
            .fill(turn, &mut columns, &self.pipeline, limits, stop)
            .await?;
        if let Origin::Input { next_offset, .. } = origin {
            // Offsets without a record count as done.
            let mut progress = self.progress.lock().await;
            let mut at = from;
            for offset in columns.offsets() {
                if *offset > at {
                    progress.skip(turn, at..*offset, &self.status);
                }
                at = offset + 1;
            }
            progress.skip(turn, at..next_offset, &self.status);
        }
        let resumed = self.resumed.get(turn);
        let is_done = |offset| resumed.is_some_and(|resumed| resumed.contains(offset));
        self.backlog.add(
            Fetched {
                turn,
                columns,
                origin,
            },
            is_done,
        );
        Ok(true)
    }

    /// Commits how far everything is done, if that is further than what was committed.
    async fn commit_progress(&mut self) -> Result<(), TaskError> {
        let now_ms = self.pipeline.log.store().clock().now_ms();
        let mut progress = self.progress.lock().await;
        let mut commit = Commit::new();
        progress.add_to(now_ms, &mut commit);
        if !commit.is_empty() {
            self.pipeline.log.store().commit(commit).await?;
        }
        Ok(())
    }

    /// Waits until a lane is done, there is something to read or to try again, or the task is to stop.
    async fn wait(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), TaskError> {
        let has_nothing = self.lanes.are_free() && self.backlog.is_empty();
        let is_settled = self.lanes.are_settled();
        let is_idle = has_nothing && is_settled;
        let pause = self.pause_until_due();
        if is_idle && pause == Some(Duration::ZERO) {
            return Ok(());
        }
        let is_behind = is_idle && self.progress.lock().await.is_behind();
        let has_room = self.backlog.has_room() && self.no_room.is_none();
        let readable: &[Input] = match has_room && self.lanes.any_free() {
            true => &self.inputs,
            false => &[],
        };
        self.status.set_idle(is_idle);
        let tick = match (is_behind, pause) {
            (true, Some(pause)) => pause.min(BEHIND_PAUSE),
            (true, None) => BEHIND_PAUSE,
            (false, pause) => pause.unwrap_or(LONG_PAUSE),
        };
        // A lane that is done does not say when its checkpoint is.
        let tick = match has_nothing && !is_settled {
            true => tick.min(SETTLE_PAUSE),
            false => tick,
        };
        let extend_at_ms = self.backlog.extend_at_ms();
        let until_extended =
            extend_at_ms.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(self.now_ms())));
        let until_parked = self
            .stalled_since
            .map(|since| STALL_PAUSE.saturating_sub(since.elapsed()));
        let until_room = match self.no_room {
            Some(NoRoom::Disk) => Some(ROOM_PAUSE),
            Some(NoRoom::Groups) | None => None,
        };
        let tick = [until_extended, until_parked, until_room]
            .into_iter()
            .flatten()
            .fold(tick, Duration::min);
        let started = Instant::now();
        let mut finished = None;
        let mut swapped = None;
        tokio::select! {
            done = self.done.recv() => finished = done,
            result = lanes_swapped(&mut self.swapping) => swapped = Some(result),
            () = super::input::any_readable(readable) => {}
            () = tokio::time::sleep(tick) => {}
            _ = stop.changed() => {}
        }
        self.status.set_idle(false);
        if let Some(result) = swapped
            && let Some(swap) = self.swapping.take()
        {
            self.take_swapped(swap, result);
        }
        if let Some(done) = finished {
            return self.take_done(done);
        }
        if is_behind && started.elapsed() >= BEHIND_PAUSE {
            self.commit_progress().await?;
        }
        Ok(())
    }

    /// How long until a parked record is due that may run, or a timer.
    fn pause_until_due(&self) -> Option<Duration> {
        let free = self.lanes.all_free();
        if free.is_empty() {
            return None;
        }
        let now_ms = self.pipeline.log.store().clock().now_ms();
        let can_run = |group| free.iter().any(|lane| self.backlog.may_run(group, *lane));
        let parked = self.parked.lock();
        let parked_ms = parked.next_due_ms_of(can_run);
        let parked_ms = parked_ms.map(|due_ms| due_ms.saturating_sub(now_ms));
        let of_lane = |lane: &u32| {
            let of_lane = self.turns.get(*lane as usize)?;
            timers::pause_ms(&self.pipeline, &of_lane.timers.lock())
        };
        let timers_ms = match self.no_room {
            Some(_) => None,
            None => free.iter().filter_map(of_lane).min(),
        };
        let pause_ms = parked_ms.into_iter().chain(timers_ms).min()?;
        // The clock may be set meanwhile.
        Some(Duration::from_millis(pause_ms).min(CLOCK_PAUSE))
    }
}

/// Waits until a swap is done; for ever without one.
async fn lanes_swapped(swapping: &mut Option<LaneSwap>) -> Result<(), Fault> {
    match swapping {
        Some(swap) => swap.finished().await,
        None => std::future::pending().await,
    }
}
