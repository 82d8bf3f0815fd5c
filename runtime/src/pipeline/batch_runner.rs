//! What runs a task's batches: an instance of the plugin, and what its calls have led to so far.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::task::block_in_place;

use super::TaskError;
use super::call_counts::{CallMeter, InstanceUse};
use super::checkpoint::{Checkpoint, Checkpoints};
use super::control::TaskControl;
use super::lane_progress::LaneProgress;
use super::outputs::Outputs;
use super::processor::Processor;
use super::retry::{GroupId, Parked, Recorder};
use super::runtime::PipelineRuntime;
use super::shadow::ShadowRun;
use super::status::{InputStatus, TaskStatus};
use super::task_state::TaskState;
use super::timers::TaskTimers;
use crate::plugin::Columns;
use crate::storage::Commit;
use crate::storage::schema::group_offset::CommittedOffset;

/// Reads which records of a task are parked.
pub(super) fn open_parked(
    pipeline: &PipelineRuntime,
    task: u32,
    status: &TaskStatus,
) -> Result<Arc<Mutex<Parked>>, TaskError> {
    let parked = Parked::open(pipeline.log.store().clone(), pipeline.id, task)?;
    status.set_parked(parked.len(), parked.group_count());
    for number in parked.inputs() {
        if let Err(error) = parked_input(pipeline, *number)
            && parked.has_record_of(*number)?
        {
            return Err(error);
        }
    }
    Ok(Arc::new(Mutex::new(parked)))
}

/// The index in `from` of the input that parked records came from.
pub(super) fn parked_input(pipeline: &PipelineRuntime, number: u32) -> Result<u32, TaskError> {
    let index = pipeline.input_index(number);
    index.map_err(|input| TaskError::ParkedInput { input })
}

/// Under which number of a task a lane keeps its state and its timers; there are far fewer tasks than fit below it.
fn state_slot(task: u32, lane: u32) -> u32 {
    task | lane << 16
}

fn warn_of_timers(pipeline: &PipelineRuntime, task: u32, timers: &TaskTimers) {
    if timers.next_due_ms().is_some() && !pipeline.plugin.handles_timers() {
        let (name, plugin) = (&pipeline.spec.name, &pipeline.spec.plugin);
        tracing::warn!(pipeline = %name, task, %plugin, "timers are set, and the plugin does not export millstream:plugin/timer-handler: they wait for one that does");
    }
}

/// Runs batches (`batch_run.rs`) and puts what they lead to into checkpoints (`settle.rs`).
pub(super) struct BatchRunner {
    pub(super) pipeline: Arc<PipelineRuntime>,
    pub(super) task: u32,
    pub(super) state: Arc<Mutex<TaskState>>,
    pub(super) processor: Processor,
    pub(super) meter: CallMeter,
    pub(super) memory: InstanceUse,
    /// Keeps what the plugin saw with a record that is given up on.
    pub(super) recorder: Recorder,
    /// Some records of a batch, when not all of it can run.
    pub(super) part: Columns,
    pub(super) parked: Arc<Mutex<Parked>>,
    /// Whether a record was parked, or is not any more, or a timer was set or is not any more, since the last
    /// checkpoint that was waited for.
    pub(super) has_parked: bool,
    /// Groups of a batch of parked records of which one stays parked: those after it must wait.
    pub(super) held_groups: HashSet<GroupId>,
    /// The groups of the batch's records, once one of them had to be known.
    pub(super) groups: Vec<GroupId>,
    pub(super) timers: Arc<Mutex<TaskTimers>>,
    /// Timers that the parts of a batch of timers have set and cancelled so far.
    pub(super) changed_timers: HashSet<(u64, Bytes)>,
    pub(super) outputs: Outputs,
    /// What the parts of the current batch have led to, and how far its input is processed with it.
    pub(super) gathered: Checkpoint,
    pub(super) gathered_to: Option<(usize, u64)>,
    /// When the first lease of the current batch's messages ends, in ms since the epoch.
    pub(super) leased_until_ms: u64,
    /// The next pause if an output takes nothing; `None` while the last call was not blocked.
    pub(super) blocked_pause: Option<Duration>,
    /// Set if this is one of several that run at a time.
    pub(super) lane: Option<LaneProgress>,
    pub(super) checkpoints: Checkpoints,
    /// Another version that runs beside, if it is asked for.
    pub(super) shadow: Option<ShadowRun>,
    pub(super) control: Arc<TaskControl>,
    pub(super) status: Arc<TaskStatus>,
}

impl BatchRunner {
    /// Opens the plugin, its state and its timers.
    pub(super) fn open(
        pipeline: Arc<PipelineRuntime>,
        task: u32,
        parked: Arc<Mutex<Parked>>,
        lane: Option<LaneProgress>,
        control: Arc<TaskControl>,
        status: Arc<TaskStatus>,
    ) -> Result<Self, TaskError> {
        let store = pipeline.log.store().clone();
        let lane_number = lane.as_ref().map_or(0, LaneProgress::number);
        let slot = state_slot(task, lane_number);
        let state = pipeline.state(slot)?;
        let timers = TaskTimers::open(store.clone(), pipeline.id, slot)?;
        warn_of_timers(&pipeline, task, &timers);
        let processor =
            Processor::open(&pipeline, task, &state, &pipeline.metrics).map_err(TaskError::Open)?;
        let mut memory = InstanceUse::new(&status);
        memory.note(&processor);
        Ok(Self {
            meter: CallMeter::new(),
            memory,
            outputs: pipeline.outputs(),
            recorder: Recorder::new(&pipeline, task),
            checkpoints: Checkpoints::new(store),
            part: Columns::new(),
            parked,
            has_parked: false,
            held_groups: HashSet::new(),
            groups: Vec::new(),
            timers: Arc::new(Mutex::new(timers)),
            changed_timers: HashSet::new(),
            gathered: Checkpoint::default(),
            gathered_to: None,
            leased_until_ms: u64::MAX,
            blocked_pause: None,
            lane,
            pipeline,
            task,
            state,
            processor,
            shadow: None,
            control,
            status,
        })
    }

    /// Goes on with another version of the plugin, if that is asked for: state, timers, parked records and
    /// progress are the task's, not the instance's. A version that cannot be opened is not taken.
    pub(super) async fn swap_if_asked(&mut self) {
        if let Some(shadow) = self.control.take_shadow() {
            self.shadow =
                shadow.map(|shadow| ShadowRun::new(shadow, self.task, Arc::clone(&self.state)));
        }
        if !self.control.has_swap() {
            return;
        }
        let _running = self.pipeline.calls.start().await;
        let Some(swap) = self.control.take_swap() else {
            return;
        };
        let pipeline = Arc::clone(&swap.pipeline);
        let opened = block_in_place(|| {
            Processor::open(&pipeline, self.task, &self.state, &pipeline.metrics)
        });
        let processor = match opened {
            Ok(processor) => processor,
            Err(fault) => return swap.answer(Err(fault)),
        };
        self.processor = processor;
        self.memory.note(&self.processor);
        self.recorder = Recorder::new(&pipeline, self.task);
        warn_of_timers(&pipeline, self.task, &self.timers.lock());
        match &pipeline.trial {
            Some(trial) => self.parked.lock().hold(trial.held_until_ms),
            None if self.pipeline.trial.is_some() => self.parked.lock().release(),
            None => {}
        }
        self.control.set_trial(pipeline.trial.clone());
        self.pipeline = pipeline;
        swap.answer(Ok(()));
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.pipeline.log.store().clock().now_ms()
    }

    /// Waits until the checkpoint under way is durable.
    pub(super) async fn settle_checkpoint(&mut self) -> Result<(), TaskError> {
        self.checkpoints.settle(&self.status).await?;
        if let Some(lane) = &mut self.lane {
            lane.acknowledged(&self.status).await;
        }
        self.has_parked = false;
        Ok(())
    }

    /// Shows how far an input is processed.
    pub(super) fn show_offset(&self, turn: usize, offset: u64) {
        if let Some(input) = self.status.inputs.get(turn) {
            input.set_offset(offset);
        }
    }

    /// Adds to a commit how far an input is processed.
    pub(super) fn commit_offset(&self, turn: usize, offset: u64, commit: &mut Commit) {
        let Some(InputStatus::Topic { partition, .. }) = self.status.inputs.get(turn) else {
            return;
        };
        let committed = CommittedOffset {
            offset,
            committed_at_ms: self.now_ms(),
        };
        commit.commit_offset(
            self.pipeline.spec.group.as_str(),
            partition.topic_id(),
            partition.index(),
            committed,
        );
    }
}

impl Drop for BatchRunner {
    fn drop(&mut self) {
        self.control.close();
    }
}
