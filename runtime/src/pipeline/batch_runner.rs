//! What runs a task's batches: an instance of the plugin, and what its calls have led to so far.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashSet;
use parking_lot::Mutex;

use super::TaskError;
use super::checkpoint::{Checkpoint, Checkpoints};
use super::outputs::Outputs;
use super::processor::Processor;
use super::retry::{GroupId, Parked};
use super::runtime::PipelineRuntime;
use super::status::{InputStatus, TaskStatus};
use super::task_state::TaskState;
use crate::plugin::Columns;
use crate::storage::Commit;
use crate::storage::schema::group_offset::CommittedOffset;

/// Runs batches (`batch_run.rs`) and puts what they lead to into checkpoints (`settle.rs`).
pub(super) struct BatchRunner {
    pub(super) pipeline: Arc<PipelineRuntime>,
    pub(super) task: u32,
    pub(super) state: Arc<Mutex<TaskState>>,
    pub(super) processor: Processor,
    /// Some records of a batch, when not all of it can run.
    pub(super) part: Columns,
    pub(super) parked: Parked,
    /// Groups of a batch of parked records of which one stays parked: those after it must wait.
    pub(super) held_groups: HashSet<GroupId>,
    pub(super) outputs: Outputs,
    /// What the parts of the current batch have led to, and how far its input is processed with it.
    pub(super) gathered: Checkpoint,
    pub(super) gathered_to: Option<(usize, u64)>,
    /// When the first lease of the current batch's messages ends, in ms since the epoch.
    pub(super) leased_until_ms: u64,
    /// The next pause if an output takes nothing; `None` while the last call was not blocked.
    pub(super) blocked_pause: Option<Duration>,
    pub(super) checkpoints: Checkpoints,
    pub(super) status: Arc<TaskStatus>,
}

impl BatchRunner {
    /// Opens the plugin, its state, and what is parked.
    pub(super) fn open(
        pipeline: Arc<PipelineRuntime>,
        task: u32,
        status: Arc<TaskStatus>,
    ) -> Result<Self, TaskError> {
        let store = pipeline.log.store().clone();
        let state = pipeline.state(task)?;
        let parked = Parked::open(store.clone(), pipeline.id, task)?;
        status
            .parked
            .store(parked.len(), std::sync::atomic::Ordering::Release);
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
            part: Columns::new(),
            parked,
            held_groups: HashSet::new(),
            gathered: Checkpoint::default(),
            gathered_to: None,
            leased_until_ms: u64::MAX,
            blocked_pause: None,
            pipeline,
            task,
            state,
            processor,
            status,
        })
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.pipeline.log.store().clock().now_ms()
    }

    /// Waits until the checkpoint under way is durable.
    pub(super) async fn settle_checkpoint(&mut self) -> Result<(), TaskError> {
        Ok(self.checkpoints.settle(&self.status).await?)
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
