//! Pipelines as the API shows them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::groups::LagView;
use crate::model::{GroupName, PipelineName, PluginName, PortName, QueueName, Target};
use crate::pipeline::{PipelineDescription, PipelineState, PipelineStatus, Progress, TaskView};

/// A pipeline, and where it stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PipelineView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: PipelineName,
    /// The consumer group of its progress.
    #[schema(value_type = String)]
    pub group: GroupName,
    /// Its plugin.
    #[schema(value_type = String)]
    pub plugin: PluginName,
    /// SHA-256 of the component that it runs, or last ran.
    pub plugin_digest: String,
    /// Its delivery guarantee.
    pub delivery: String,
    /// The queue of its dead letters; null if it has none.
    #[schema(value_type = Option<String>)]
    pub dead_letter: Option<QueueName>,
    /// What it reads, as `topic:NAME` and `queue:NAME`; empty for a producer.
    #[schema(value_type = Vec<String>)]
    pub inputs: Vec<Target>,
    /// Where its outputs go.
    pub outputs: Vec<PortView>,
    /// Records and messages that wait in its inputs.
    pub lag_records: u64,
    /// Position and lag in each partition of the topics that it reads.
    pub positions: Vec<LagView>,
    /// The queues that it reads.
    pub queues: Vec<InputQueueView>,
    /// Timers that have not fired.
    pub timers: u64,
    /// When the first of them is due, in ms since the epoch.
    pub next_timer_ms: Option<u64>,
    /// `running`, or `paused` if somebody has paused it; null if no manifest that was applied has it.
    #[serde(default)]
    pub desired_state: Option<String>,
    /// How it runs on this server; null if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunView>,
}

/// An output of a pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// The output.
    #[schema(value_type = String)]
    pub port: PortName,
    /// Where it leads, as `topic:NAME` or `queue:NAME`.
    #[schema(value_type = String)]
    pub target: Target,
}

/// A queue that a pipeline reads.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct InputQueueView {
    /// The queue.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// Messages that it has.
    pub messages: u64,
}

/// How a pipeline runs on a server.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// The manifest that it is of.
    pub manifest: String,
    /// `running`, `paused`, `failed`, `refused` or `stopped`.
    pub state: String,
    /// Why it does not run, if it has failed or was refused.
    pub failure: Option<String>,
    /// How many instances each task runs.
    pub concurrency: u32,
    /// Age of the oldest record that is not processed; 0 if there is none.
    pub lag_ms: u64,
    /// Since the server started, and what waits now.
    pub totals: TotalsView,
    /// Its tasks.
    pub tasks: Vec<TaskStatusView>,
}

/// What has been done since the server started, and what waits now.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct TotalsView {
    /// Records processed.
    pub records_in: u64,
    /// Records written to outputs.
    pub records_out: u64,
    /// Timers handled.
    pub timers: u64,
    /// Failures after which a record is tried again.
    pub retries: u64,
    /// Records given up on.
    pub dead_letters: u64,
    /// Records that wait in the inputs now.
    pub lag_records: u64,
    /// Records that wait to be tried again now.
    pub parked_records: u64,
    /// Tasks that take no new records now, since too many keys wait to be tried again or the disk runs low.
    #[serde(default)]
    pub tasks_without_room: u64,
}

/// A task: the pipeline on one partition of its inputs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TaskStatusView {
    /// The partition.
    pub partition: u32,
    /// SHA-256 of the component that it runs now.
    pub plugin_digest: String,
    /// `busy`, `idle`, `stopped` or `failed`.
    pub state: String,
    /// Age of the oldest record that it has not processed; 0 if there is none.
    pub lag_ms: u64,
    /// Since the server started, and what waits now.
    pub totals: TotalsView,
}

impl PipelineView {
    /// A pipeline that has run on the data directory; `status` is how it is now, if it was applied, and `runs` whether
    /// this process runs what was applied.
    pub(super) fn new(
        description: PipelineDescription,
        status: Option<&PipelineStatus>,
        runs: bool,
    ) -> Self {
        let outputs = description.ports.into_iter();
        let lags = description.positions.iter().map(|lag| lag.lag_records);
        let waiting = description.queues.iter().map(|it| it.messages);
        let queues = description.queues.iter().map(|it| InputQueueView {
            queue: it.queue.clone(),
            messages: it.messages,
        });
        Self {
            lag_records: lags.chain(waiting).sum(),
            queues: queues.collect(),
            name: description.name,
            group: description.group,
            plugin: description.plugin,
            plugin_digest: description.plugin_digest,
            delivery: description.delivery,
            dead_letter: description.dead_letter,
            inputs: description.inputs,
            outputs: outputs
                .map(|(port, target)| PortView { port, target })
                .collect(),
            timers: description.timers.count,
            next_timer_ms: description.timers.next_due_ms,
            positions: description
                .positions
                .into_iter()
                .map(LagView::from)
                .collect(),
            desired_state: status.map(|status| {
                let desired = match status.is_paused {
                    true => PipelineState::Paused,
                    false => PipelineState::Running,
                };
                desired.as_str().to_owned()
            }),
            running: status.filter(|_| runs).map(RunView::of),
        }
    }
}

impl RunView {
    fn of(status: &PipelineStatus) -> Self {
        Self {
            manifest: status.manifest.clone(),
            state: status.state.as_str().to_owned(),
            failure: status
                .failure
                .as_ref()
                .map(|failure| failure.error.to_string()),
            concurrency: status.concurrency,
            lag_ms: status.lag_ms,
            totals: TotalsView::of(&status.totals),
            tasks: status.tasks.iter().map(TaskStatusView::of).collect(),
        }
    }
}

impl TotalsView {
    fn of(progress: &Progress) -> Self {
        Self {
            records_in: progress.records_in,
            records_out: progress.records_out,
            timers: progress.timers,
            retries: progress.retries,
            dead_letters: progress.dead_letters,
            lag_records: progress.lag_records,
            parked_records: progress.parked_records,
            tasks_without_room: progress.tasks_without_room,
        }
    }
}

impl TaskStatusView {
    fn of(task: &TaskView) -> Self {
        Self {
            partition: task.partition,
            plugin_digest: task.digest.to_string(),
            state: task.state.as_str().to_owned(),
            lag_ms: task.lag_ms,
            totals: TotalsView::of(&task.totals),
        }
    }
}
