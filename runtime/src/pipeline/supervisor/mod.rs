//! Runs pipelines that come and go: applies manifests, pauses and removes pipelines, swaps their plugins,
//! and tells how they are.
//!
//! A task that fails stops its pipeline, and only that: the other tasks of the pipeline end at their
//! next batch boundary, other pipelines go on.
//!
//! One change is made at a time (`changes`); whoever only looks (`managed`) never waits for one. Nothing here
//! polls: a task that has nothing to do sleeps until a commit, a timer or a wish wakes it.

mod apply;
mod lag;
mod life_cycle;
mod logs;
mod managed;
mod shadow;
mod swap;
mod trial;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub use self::apply::{Applied, Change};
pub use self::lag::Described;
use self::managed::{Failures, Managed, refused_pipeline};
pub use self::shadow::{ShadowView, check_shadow};
pub use self::swap::Swapped;
pub use self::trial::TrialView;
pub use self::view::{PipelineState, PipelineStatus, TaskState, TaskView};
use super::calls::Calls;
use super::lag::LagMemory;
use super::plugin_logs::PluginLogs;
use super::processor::NativeFunction;
use super::status::Progress;
use super::{Error, Failure, Plugins};
use crate::group::Groups;
use crate::log::Log;
use crate::manifest::ResolvedManifest;
use crate::model::PipelineName;
use crate::plugin::{MetricValue, PluginMetrics};
use crate::queue::Queues;

/// How often it is looked whether everything is idle.
const IDLE_CHECK: Duration = Duration::from_millis(10);

/// Running pipelines. Clones share them; they end with the last clone.
///
/// Methods that change something must be awaited to their end: one that is dropped half-way leaves half of
/// its change behind. Whoever may be dropped, such as a request's handler, spawns them.
#[derive(Clone)]
pub struct Pipelines {
    shared: Arc<Shared>,
}

struct Shared {
    log: Log,
    queues: Queues,
    groups: Groups,
    /// Most instances that may live at the same time, those of all pipelines together.
    max_instances: u32,
    /// Whether none runs in this process.
    is_offline: bool,
    native: Option<NativeFunction>,
    calls: Arc<Calls>,
    changes: tokio::sync::Mutex<()>,
    managed: Mutex<BTreeMap<PipelineName, Managed>>,
    failures: Failures,
    lag_memory: LagMemory,
    logs: Arc<PluginLogs>,
}

impl Pipelines {
    /// No pipelines yet. `max_instances` is what the plugins' engine has room for
    /// ([`PluginEngine::max_instances`](crate::plugin::PluginEngine::max_instances)). Needs a multi-threaded
    /// tokio runtime.
    pub fn new(log: &Log, queues: &Queues, groups: &Groups, max_instances: u32) -> Self {
        Self::build(log, queues, groups, max_instances, None, false)
    }

    /// As [`new`](Self::new), of which none runs in this process: everything is checked and stored as if they did, and
    /// takes effect when a server starts. How many instances that has room for is not known here.
    pub fn offline(log: &Log, queues: &Queues, groups: &Groups) -> Self {
        Self::build(log, queues, groups, u32::MAX, None, true)
    }

    fn build(
        log: &Log,
        queues: &Queues,
        groups: &Groups,
        max_instances: u32,
        native: Option<NativeFunction>,
        is_offline: bool,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                log: log.clone(),
                queues: queues.clone(),
                groups: groups.clone(),
                max_instances,
                is_offline,
                native,
                calls: Arc::new(Calls::new()),
                changes: tokio::sync::Mutex::default(),
                managed: Mutex::default(),
                failures: Failures::default(),
                lag_memory: LagMemory::default(),
                logs: Arc::new(PluginLogs::new(log.store().path())),
            }),
        }
    }

    /// Creates or updates the manifest's topics and queues, and starts all pipelines whose plugin fits
    /// them; the others have failed from the start, at the position that they had. Needs a
    /// multi-threaded tokio runtime.
    ///
    /// # Errors
    /// As those of [`Pipelines::apply`]; then no pipeline has been started.
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
        let max_instances = plugins.max_instances();
        let started = Self::build(log, queues, groups, max_instances, native, false);
        started.apply(manifest, plugins).await?;
        Ok(started)
    }

    /// Whether no pipeline runs in this process, whatever is applied.
    pub fn is_offline(&self) -> bool {
        self.shared.is_offline
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

    /// Totals of all pipelines since they were started.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress::default();
        for managed in self.shared.managed.lock().values() {
            for task in managed.run.iter().flat_map(|run| &run.tasks) {
                task.status.add_to(&mut progress);
                progress.lag_records += task.status.lag_records();
            }
        }
        progress
    }

    /// The metrics that the plugins keep of their own, by pipeline; empty for those that keep none.
    pub fn plugin_metrics(&self) -> Vec<(PipelineName, Vec<(String, MetricValue)>)> {
        let metrics: Vec<(PipelineName, Arc<PluginMetrics>)> = {
            let managed = self.shared.managed.lock();
            let running = managed.iter().filter_map(|(name, managed)| {
                let metrics = &managed.run.as_ref()?.pipeline.metrics;
                Some((name.clone(), Arc::clone(metrics)))
            });
            running.collect()
        };
        let metrics = metrics.into_iter();
        metrics
            .map(|(name, metrics)| (name, metrics.snapshot()))
            .collect()
    }

    /// Returns when every task has processed all there is, or has stopped.
    pub async fn wait_until_idle(&self) {
        let store = self.shared.log.store();
        loop {
            // A commit between the looks at two tasks can give work to one that was idle before.
            let before = store.commit_count();
            if self.is_done() && store.commit_count() == before {
                return;
            }
            tokio::time::sleep(IDLE_CHECK).await;
        }
    }

    fn is_done(&self) -> bool {
        let managed = self.shared.managed.lock();
        let mut tasks = managed
            .values()
            .filter_map(|managed| managed.run.as_ref())
            .flat_map(|run| &run.tasks);
        tasks.all(|task| task.status.is_done())
    }

    /// The pipelines that have stopped with a failure, in the order in which they did. Those that have been
    /// resumed or removed since are not among them.
    pub fn failures(&self) -> Vec<Failure> {
        self.shared.failures.lock().clone()
    }

    /// Ends all tasks at their next batch boundary, after their checkpoints, and stores what their plugins have logged. The
    /// pipelines stay known.
    pub async fn stop(&self) -> Vec<Failure> {
        let _change = self.shared.changes.lock().await;
        let stopping: Vec<JoinHandle<()>> = {
            let mut managed = self.shared.managed.lock();
            let runs = managed.values_mut().filter_map(|it| it.run.as_mut());
            runs.flat_map(|run| run.begin_stop()).collect()
        };
        join(stopping).await;
        let logs = Arc::clone(&self.shared.logs);
        // It has no result.
        let _ = tokio::task::spawn_blocking(move || logs.flush()).await;
        self.failures()
    }

    /// Ends a pipeline's tasks at their next batch boundary.
    async fn stop_tasks(&self, name: &PipelineName) {
        let stopping = {
            let mut managed = self.shared.managed.lock();
            let run = managed.get_mut(name).and_then(|it| it.run.as_mut());
            run.map(|run| run.begin_stop()).unwrap_or_default()
        };
        join(stopping).await;
    }

    /// The error about a pipeline that no manifest has which has been applied.
    fn unknown(&self, name: &PipelineName) -> Error {
        let managed = self.shared.managed.lock();
        let known: Vec<String> = managed.keys().map(|name| format!("`{name}`")).collect();
        Error::NotApplied {
            name: name.clone(),
            hint: match known.is_empty() {
                true => "there is none".to_owned(),
                false => format!("there are {}", known.join(", ")),
            },
        }
    }
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        // What it has to tell is among the failures.
        let _ = task.await;
    }
}

#[cfg(test)]
mod tests;
