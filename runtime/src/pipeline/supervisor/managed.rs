//! A pipeline that the supervisor looks after, and its running tasks.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::{JoinHandle, JoinSet, block_in_place};

use crate::manifest::PipelineSpec;
use crate::pipeline::concurrent::ConcurrentTask;
use crate::pipeline::consumer_task::ConsumerTask;
use crate::pipeline::control::TaskControl;
use crate::pipeline::producer_task::ProducerTask;
use crate::pipeline::runtime::{PipelineRuntime, TaskInput};
use crate::pipeline::shadow::Shadow;
use crate::pipeline::status::{InputStatus, TaskStatus};
use crate::pipeline::{Failure, Refusal, TaskError};
use crate::plugin::Plugin;

/// The failures of all pipelines, in the order in which they happened.
pub(super) type Failures = Arc<Mutex<Vec<Failure>>>;

/// A pipeline of an applied manifest.
pub(super) struct Managed {
    /// The name of its manifest.
    pub(super) manifest: String,
    pub(super) spec: PipelineSpec,
    /// The plugin that it runs with, or why it has none.
    pub(super) plugin: Result<Plugin, Refusal>,
    pub(super) is_paused: bool,
    /// Its tasks, running or not; `None` if its plugin was refused from the start.
    pub(super) run: Option<Run>,
}

/// The tasks of a pipeline.
pub(super) struct Run {
    /// The pipeline with the plugin that tasks start with.
    pub(super) pipeline: Arc<PipelineRuntime>,
    pub(super) tasks: Vec<Task>,
    /// Another version that runs beside the tasks.
    pub(super) shadow: Option<Arc<Shadow>>,
    controls: Controls,
}

/// How the tasks of a run are reached, by their numbers: one that fails stops the others.
type Controls = Arc<Mutex<Vec<Arc<TaskControl>>>>;

/// One task: the pipeline on one partition.
pub(super) struct Task {
    pub(super) number: u32,
    /// The pipeline with the plugin that the task runs now.
    pub(super) pipeline: Arc<PipelineRuntime>,
    pub(super) status: Arc<TaskStatus>,
    pub(super) control: Arc<TaskControl>,
    handle: Option<JoinHandle<()>>,
}

impl Run {
    /// The tasks of a pipeline, not started. They count on from those of an earlier run.
    pub(super) fn new(pipeline: PipelineRuntime, earlier: Option<&Run>) -> Self {
        let pipeline = Arc::new(pipeline);
        let task = |number| {
            let inputs = pipeline.task_inputs(number).into_iter();
            let inputs = inputs
                .map(|(_, input)| input_status(&pipeline, input))
                .collect();
            let earlier = earlier.and_then(|run| run.tasks.get(number as usize));
            let status = match earlier {
                Some(earlier) => TaskStatus::after(&earlier.status, inputs),
                None => TaskStatus::new(inputs),
            };
            status.set_stopped();
            Task {
                number,
                pipeline: Arc::clone(&pipeline),
                status: Arc::new(status),
                control: TaskControl::new(),
                handle: None,
            }
        };
        Self {
            tasks: (0..pipeline.task_count()).map(task).collect(),
            shadow: None,
            pipeline,
            controls: Controls::default(),
        }
    }

    /// Starts all tasks, which must not have been started before. One that fails stops the others.
    pub(super) fn start(&mut self, failures: &Failures) {
        let controls = self.tasks.iter().map(|task| Arc::clone(&task.control));
        *self.controls.lock() = controls.collect();
        for task in &mut self.tasks {
            task.start(&self.controls, failures);
        }
    }

    /// Starts a task again, with the plugin that tasks start with, that has stopped alone in a trial.
    pub(super) fn restart_task(&mut self, number: u32, failures: &Failures) {
        let Some(task) = self.tasks.get_mut(number as usize) else {
            return;
        };
        task.control = TaskControl::new();
        task.pipeline = Arc::clone(&self.pipeline);
        if let Some(control) = self.controls.lock().get_mut(number as usize) {
            *control = Arc::clone(&task.control);
        }
        task.start(&self.controls, failures);
    }

    /// Tells all tasks to end at their next batch boundary. Returns what to wait for.
    pub(super) fn begin_stop(&mut self) -> Vec<JoinHandle<()>> {
        self.end_shadow_early();
        let stopping = self.tasks.iter_mut().filter_map(|task| {
            task.control.stop();
            task.handle.take()
        });
        stopping.collect()
    }

    /// Lets the shadow say that it has not run for all of its time: tasks that start again have none.
    pub(super) fn end_shadow_early(&mut self) {
        if let Some(shadow) = self.shadow.take() {
            let reason = "the pipeline has failed, or was paused, restarted or deleted, meanwhile";
            shadow.end_early(reason.to_owned());
        }
    }

    /// Whether any task runs.
    pub(super) fn is_running(&self) -> bool {
        self.tasks.iter().any(|task| !task.status.is_stopped())
    }
}

impl Task {
    /// Whether it runs, and a version for trial.
    pub(super) fn is_trying(&self) -> bool {
        self.pipeline.trial.is_some() && !self.status.is_stopped()
    }

    fn start(&mut self, controls: &Controls, failures: &Failures) {
        self.status.set_started();
        let watched = watch_task(
            Arc::clone(&self.pipeline),
            self.number,
            Arc::clone(&self.status),
            Arc::clone(&self.control),
            Arc::clone(controls),
            Arc::clone(failures),
        );
        self.handle = Some(tokio::spawn(watched));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for handle in self.tasks.iter().filter_map(|task| task.handle.as_ref()) {
            handle.abort();
        }
    }
}

fn input_status(pipeline: &PipelineRuntime, input: TaskInput) -> InputStatus {
    let offset = match &input {
        // The task meets the error itself.
        TaskInput::Partition(partition) => pipeline.start_offset(partition).ok(),
        TaskInput::Queue(_) => None,
    };
    let status = InputStatus::new(input);
    if let Some(offset) = offset {
        status.set_offset(offset);
    }
    status
}

async fn run_task(
    pipeline: Arc<PipelineRuntime>,
    task: u32,
    status: Arc<TaskStatus>,
    control: Arc<TaskControl>,
) -> Result<(), TaskError> {
    if pipeline.spec.is_producer() {
        let task = block_in_place(|| ProducerTask::open(pipeline, control, status))?;
        task.run().await
    } else if pipeline.spec.concurrency > 1
        || pipeline.has_gaps(task)?
        || block_in_place(|| pipeline.has_overtaken(task))?
    {
        let task = ConcurrentTask::open(pipeline, task, control, status).await?;
        task.run().await
    } else {
        let task = block_in_place(|| ConsumerTask::open(pipeline, task, control, status))?;
        task.run().await
    }
}

async fn watch_task(
    pipeline: Arc<PipelineRuntime>,
    task: u32,
    status: Arc<TaskStatus>,
    control: Arc<TaskControl>,
    controls: Controls,
    failures: Failures,
) {
    let name = pipeline.spec.name.clone();
    // A task of its own, so that a panic is caught; it ends with the set if this one is aborted.
    let mut tasks = JoinSet::new();
    let running = run_task(pipeline, task, Arc::clone(&status), Arc::clone(&control));
    tasks.spawn(running);
    let result = match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) if error.is_panic() => Err(TaskError::panicked(error.into_panic())),
        Some(Err(_)) | None => Ok(()),
    };
    if let Err(error) = result {
        if let Some(trial) = control.trial() {
            tracing::warn!(pipeline = %name, partition = task, %error, "the task has failed while it tried a version out");
            trial.fail(error);
            control.close();
            status.set_stopped();
            return;
        }
        let failure = Failure {
            pipeline: name,
            partition: Some(task),
            error: Arc::new(error),
        };
        failures.lock().push(logged(failure));
        for control in controls.lock().iter() {
            control.stop();
        }
    }
    control.close();
    status.set_stopped();
}

/// A pipeline whose plugin cannot run in it.
pub(super) fn refused_pipeline(spec: &PipelineSpec, refusal: Refusal) -> Failure {
    logged(Failure {
        pipeline: spec.name.clone(),
        partition: None,
        error: Arc::new(TaskError::Refused {
            plugin: spec.plugin.clone(),
            refusal,
        }),
    })
}

/// Logs a failure.
fn logged(failure: Failure) -> Failure {
    tracing::error!(pipeline = %failure.pipeline, partition = failure.partition, error = %failure.error, "the pipeline stopped");
    failure
}
