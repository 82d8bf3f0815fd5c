//! Starts the pipelines of a manifest, watches their tasks, and stops them.
//!
//! A task that fails stops its pipeline, and only that: the other tasks of the pipeline end at their
//! next batch boundary, other pipelines go on.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::calls::Calls;
use super::concurrent::ConcurrentTask;
use super::consumer_task::ConsumerTask;
use super::processor::NativeFunction;
use super::producer_task::ProducerTask;
use super::runtime::PipelineRuntime;
use super::status::{InputStatus, Progress, TaskStatus};
use super::{Error, Failure, Plugins, Refusal, TaskError, topics};
use crate::group::Groups;
use crate::log::Log;
use crate::manifest::{PipelineSpec, ResolvedManifest};
use crate::model::{PipelineName, Target};
use crate::plugin::{MetricValue, PluginMetrics};
use crate::queue::Queues;
use crate::storage::Store;

/// How often it is looked whether everything is idle.
const IDLE_CHECK: Duration = Duration::from_millis(10);

/// Running pipelines.
pub struct Pipelines {
    store: Store,
    tasks: Vec<JoinHandle<()>>,
    statuses: Vec<Arc<TaskStatus>>,
    stops: Vec<watch::Sender<bool>>,
    failures: Arc<Mutex<Vec<Failure>>>,
    metrics: Vec<(PipelineName, Arc<PluginMetrics>)>,
}

impl Pipelines {
    /// Creates or updates the manifest's topics and queues, and starts all pipelines whose plugin fits
    /// them; the others have failed from the start, at the position that they had. Needs a
    /// multi-threaded tokio runtime.
    ///
    /// # Errors
    /// Whatever is wrong with the manifest or the data directory; then no pipeline has been started.
    /// Topics and queues may have been created.
    pub async fn start(
        log: &Log,
        queues: &Queues,
        groups: &Groups,
        plugins: &Plugins,
        manifest: &ResolvedManifest,
    ) -> Result<Self, Error> {
        Self::start_with(log, queues, groups, plugins, manifest, None).await
    }

    /// As [`Pipelines::start`], with a native function in the place of every plugin's `process`;
    /// for benchmarks. The plugins are loaded and checked all the same.
    pub async fn start_with(
        log: &Log,
        queues: &Queues,
        groups: &Groups,
        plugins: &Plugins,
        manifest: &ResolvedManifest,
        native: Option<NativeFunction>,
    ) -> Result<Self, Error> {
        manifest.check_external_targets(|target| match target {
            Target::Topic(name) => log.topic(name).is_ok(),
            Target::Queue(name) => queues.queue(name).is_ok(),
        })?;
        let needed = topics::instance_count(manifest, Some(log));
        let limit = plugins.max_instances();
        if needed > u64::from(limit) {
            return Err(Error::TooManyInstances { needed, limit });
        }
        topics::ensure_topics(log, manifest).await?;
        super::queues::ensure_queues(queues, manifest).await?;
        let calls = Arc::new(Calls::new());
        let mut pipelines = Vec::new();
        for spec in &manifest.pipelines {
            // What is refused is among the failures from the start.
            let Ok(plugin) = plugins.plugin_for(spec) else {
                continue;
            };
            let (plugin, native) = (plugin.clone(), native.clone());
            let calls = Arc::clone(&calls);
            let opened =
                PipelineRuntime::open(spec, plugin, native, log, queues, groups, calls).await?;
            pipelines.push(opened);
        }
        let mut running = Self {
            store: log.store().clone(),
            tasks: Vec::new(),
            statuses: Vec::new(),
            stops: Vec::new(),
            failures: Arc::new(Mutex::new(Self::refused(plugins, manifest))),
            metrics: Vec::new(),
        };
        for pipeline in pipelines {
            running.start_tasks(Arc::new(pipeline));
        }
        Ok(running)
    }

    /// The failures that [`Pipelines::start`] begins with, for a manifest that is not started.
    pub fn refused(plugins: &Plugins, manifest: &ResolvedManifest) -> Vec<Failure> {
        let pipelines = manifest.pipelines.iter();
        pipelines
            .filter_map(|spec| {
                let refusal = plugins.plugin_for(spec).err()?;
                Some(refused_pipeline(spec, refusal))
            })
            .collect()
    }

    fn start_tasks(&mut self, pipeline: Arc<PipelineRuntime>) {
        let (stop, _) = watch::channel(false);
        let name = pipeline.spec.name.clone();
        self.metrics.push((name, Arc::clone(&pipeline.metrics)));
        for task in 0..pipeline.task_count() {
            let inputs = pipeline
                .task_inputs(task)
                .into_iter()
                .map(|(_, input)| InputStatus::new(input))
                .collect();
            let status = Arc::new(TaskStatus::new(inputs));
            self.statuses.push(Arc::clone(&status));
            let running = run_task(
                Arc::clone(&pipeline),
                task,
                Arc::clone(&status),
                stop.subscribe(),
            );
            let watched = watch_task(
                running,
                Arc::clone(&pipeline),
                task,
                status,
                stop.clone(),
                Arc::clone(&self.failures),
            );
            self.tasks.push(tokio::spawn(watched));
        }
        self.stops.push(stop);
    }

    /// Totals since the start.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for status in &self.statuses {
            status.add_to(&mut progress);
        }
        progress
    }

    /// The metrics that the plugins keep of their own, by pipeline; empty for those that keep none.
    pub fn plugin_metrics(&self) -> Vec<(PipelineName, Vec<(String, MetricValue)>)> {
        let snapshot = |(name, metrics): &(PipelineName, Arc<PluginMetrics>)| {
            (name.clone(), metrics.snapshot())
        };
        self.metrics.iter().map(snapshot).collect()
    }

    /// Returns when every task has processed all there is, or has stopped.
    pub async fn wait_until_idle(&self) {
        loop {
            // A commit between the looks at two tasks can give work to one that was idle before.
            let before = self.store.commit_count();
            let is_done = self.statuses.iter().all(|status| status.is_done());
            if is_done && self.store.commit_count() == before {
                return;
            }
            tokio::time::sleep(IDLE_CHECK).await;
        }
    }

    /// The pipelines that have stopped with a failure.
    pub fn failures(&self) -> Vec<Failure> {
        self.failures.lock().clone()
    }

    /// Ends all tasks at their next batch boundary, after their checkpoints.
    pub async fn stop(&mut self) -> Vec<Failure> {
        for stop in &self.stops {
            stop.send_replace(true);
        }
        for task in self.tasks.drain(..) {
            let _ = task.await;
        }
        self.failures()
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn run_task(
    pipeline: Arc<PipelineRuntime>,
    task: u32,
    status: Arc<TaskStatus>,
    stop: watch::Receiver<bool>,
) -> Result<(), TaskError> {
    if pipeline.spec.is_producer() {
        let task = tokio::task::block_in_place(|| ProducerTask::open(pipeline, status))?;
        task.run(stop).await
    } else if pipeline.spec.concurrency > 1 || pipeline.has_gaps(task)? {
        let task = ConcurrentTask::open(pipeline, task, status).await?;
        task.run(stop).await
    } else {
        let task = tokio::task::block_in_place(|| ConsumerTask::open(pipeline, task, status))?;
        task.run(stop).await
    }
}

async fn watch_task(
    running: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    pipeline: Arc<PipelineRuntime>,
    task: u32,
    status: Arc<TaskStatus>,
    stop: watch::Sender<bool>,
    failures: Arc<Mutex<Vec<Failure>>>,
) {
    // A task of its own, so that a panic is caught; it ends with the set if this one is aborted.
    let mut tasks = JoinSet::new();
    tasks.spawn(running);
    let result = match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(error)) if error.is_panic() => Err(TaskError::panicked(error.into_panic())),
        Some(Err(_)) | None => Ok(()),
    };
    if let Err(error) = result {
        let failure = Failure {
            pipeline: pipeline.spec.name.clone(),
            partition: Some(task),
            error: Arc::new(error),
        };
        failures.lock().push(logged(failure));
        stop.send_replace(true);
    }
    status.set_stopped();
}

/// A pipeline whose plugin cannot run in it.
fn refused_pipeline(spec: &PipelineSpec, refusal: Refusal) -> Failure {
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
