//! How the pipelines are, at one moment.

use super::Pipelines;
use super::managed::{Managed, Run, Task};
use crate::manifest::{Delivery, PipelineSpec, Port};
use crate::model::{GroupName, PipelineName, PluginName, QueueName, Target};
use crate::pipeline::Failure;
use crate::pipeline::status::Progress;
use crate::plugin::Digest;

/// A pipeline as it is now.
#[derive(Clone, Debug)]
pub struct PipelineStatus {
    /// Its name.
    pub name: PipelineName,
    /// The name of the manifest that it is of.
    pub manifest: String,
    /// Whether it runs.
    pub state: PipelineState,
    /// Whether a task of it runs, whatever its state: when one fails, the others end the batch that they are at.
    pub has_running_tasks: bool,
    /// Whether somebody has paused it, or its state is half put back, whatever else keeps it from running.
    pub is_paused: bool,
    /// Why it does not, if it has failed or was refused: the first failure of its tasks.
    pub failure: Option<Failure>,
    /// Its plugin.
    pub plugin: PluginName,
    /// SHA-256 of the plugin's component with which its tasks start; `None` if it was refused.
    pub digest: Option<Digest>,
    /// The consumer group of its progress.
    pub group: GroupName,
    /// What it reads; empty for a producer.
    pub inputs: Vec<Target>,
    /// Where its outputs go.
    pub ports: Vec<Port>,
    /// Its delivery guarantee.
    pub delivery: Delivery,
    /// The queue of its dead letters; `None` if it has none.
    pub dead_letter: Option<QueueName>,
    /// How many instances each task runs.
    pub concurrency: u32,
    /// Totals of its tasks since the process started, and what waits now.
    pub totals: Progress,
    /// Age of the oldest record that is not processed, or of the oldest message that can be leased now, in ms; 0 if there is
    /// none.
    pub lag_ms: u64,
    /// Its tasks; empty if it was refused.
    pub tasks: Vec<TaskView>,
}

/// Whether a pipeline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineState {
    /// It runs.
    Running,
    /// Somebody has paused it.
    Paused,
    /// It has stopped with a failure.
    Failed,
    /// Its plugin cannot run in it.
    Refused,
    /// Nothing runs, since the process is about to end, or runs no pipelines.
    Stopped,
}

impl PipelineState {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Running,
        Self::Paused,
        Self::Failed,
        Self::Refused,
        Self::Stopped,
    ];

    /// The state as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

/// A task as it is now.
#[derive(Clone, Debug)]
pub struct TaskView {
    /// The partition of its inputs, which is the task's number.
    pub partition: u32,
    /// SHA-256 of the component that it runs now.
    pub digest: Digest,
    /// What it does.
    pub state: TaskState,
    /// Its totals since the process started, and what waits now.
    pub totals: Progress,
    /// Age of the oldest record that it has not processed, in ms; 0 if there is none.
    pub lag_ms: u64,
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It is at work.
    Busy,
    /// It waits for records or timers.
    Idle,
    /// It does not run.
    Stopped,
    /// It has stopped with a failure.
    Failed,
}

impl TaskState {
    /// The state as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl Pipelines {
    /// Whether a pipeline of an applied manifest runs.
    pub fn current_state(&self, name: &PipelineName) -> Option<PipelineState> {
        let managed = self.shared.managed.lock();
        managed.get(name).map(|it| self.state_of(it))
    }

    /// Why a pipeline does not run, if it has failed or was refused: the first failure of its tasks.
    pub fn failure_of(&self, name: &PipelineName) -> Option<Failure> {
        let failures = self.shared.failures.lock();
        failures.iter().find(|it| it.pipeline == *name).cloned()
    }

    /// A pipeline of which a task runs, whatever its state, and whose positions are those of this group.
    pub fn running_pipeline_of_group(&self, group: &GroupName) -> Option<PipelineName> {
        let managed = self.shared.managed.lock();
        let mut running = managed
            .iter()
            .filter(|(_, it)| it.run.as_ref().is_some_and(Run::is_running));
        let found = running.find(|(_, it)| it.spec.group == *group);
        found.map(|(name, _)| name.clone())
    }

    /// What each task of a pipeline has done since the process started, by its number; what waits is not among it.
    pub fn totals_by_task(&self, name: &PipelineName) -> Option<Vec<(u32, Progress)>> {
        let managed = self.shared.managed.lock();
        let tasks = managed.get(name)?.run.iter().flat_map(|run| &run.tasks);
        let totals = tasks.map(|task| {
            let mut totals = Progress::default();
            task.status.add_to(&mut totals);
            (task.number, totals)
        });
        Some(totals.collect())
    }

    /// How a pipeline is, but for what waits.
    pub(super) fn view(&self, managed: &Managed) -> PipelineStatus {
        let spec = &managed.spec;
        let failures: Vec<Failure> = {
            let failures = self.shared.failures.lock();
            let own = failures.iter().filter(|it| it.pipeline == spec.name);
            own.cloned().collect()
        };
        let run = managed.run.as_ref();
        let mut totals = Progress::default();
        let tasks: Vec<TaskView> = run
            .iter()
            .flat_map(|run| &run.tasks)
            .map(|task| {
                task.status.add_to(&mut totals);
                view_task(task, &failures)
            })
            .collect();
        PipelineStatus {
            name: spec.name.clone(),
            manifest: managed.manifest.clone(),
            state: self.state_of(managed),
            has_running_tasks: run.is_some_and(Run::is_running),
            is_paused: managed.is_paused,
            failure: failures.into_iter().next(),
            plugin: spec.plugin.clone(),
            digest: managed.plugin.as_ref().ok().map(|it| it.digest().clone()),
            group: spec.group.clone(),
            inputs: spec.inputs.clone(),
            ports: spec.ports.clone(),
            delivery: spec.delivery,
            dead_letter: run
                .and_then(|run| run.pipeline.dead_letters.as_ref())
                .map(|queue| queue.name().clone()),
            concurrency: spec.concurrency,
            totals,
            lag_ms: 0,
            tasks,
        }
    }
}

/// How a task is, but for what waits.
fn view_task(task: &Task, failures: &[Failure]) -> TaskView {
    let mut totals = Progress::default();
    task.status.add_to(&mut totals);
    let has_failed = failures
        .iter()
        .any(|failure| failure.partition == Some(task.number));
    TaskView {
        partition: task.number,
        digest: task.pipeline.plugin.digest().clone(),
        state: match (has_failed, task.status.is_stopped()) {
            (true, _) => TaskState::Failed,
            (false, true) => TaskState::Stopped,
            (false, false) if task.status.is_idle() => TaskState::Idle,
            (false, false) => TaskState::Busy,
        },
        totals,
        lag_ms: 0,
    }
}

impl Pipelines {
    /// The specifications of the pipelines that use a plugin, by its name in their manifests.
    pub fn plugin_users(&self, plugin: &PluginName) -> Vec<PipelineSpec> {
        let managed = self.shared.managed.lock();
        let users = managed.values().filter(|it| it.spec.plugin == *plugin);
        users.map(|it| it.spec.clone()).collect()
    }

    /// The plugin that a pipeline uses, by its name in the manifest.
    pub fn plugin_of(&self, name: &PipelineName) -> Option<PluginName> {
        let managed = self.shared.managed.lock();
        managed.get(name).map(|it| it.spec.plugin.clone())
    }

    /// The name of the applied manifest that a pipeline is of.
    pub fn manifest_of(&self, name: &PipelineName) -> Option<String> {
        let managed = self.shared.managed.lock();
        managed.get(name).map(|it| it.manifest.clone())
    }

    /// The pipelines of an applied manifest.
    pub fn names_of(&self, manifest: &str) -> Vec<PipelineName> {
        let managed = self.shared.managed.lock();
        let of_manifest = managed.iter().filter(|(_, it)| it.manifest == manifest);
        of_manifest.map(|(name, _)| name.clone()).collect()
    }
}
