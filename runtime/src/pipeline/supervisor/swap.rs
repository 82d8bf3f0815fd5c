//! Gives running tasks another version of their plugin.
//!
//! The new version is opened once before anything happens, so that one which cannot run changes nothing. Then
//! task by task: at its next batch boundary, with its checkpoint settled, a task opens an instance of
//! the new version and, when that is there, drops the old one. Position, state, timers, parked records and
//! counters are the task's and stay where they are: nothing is read again, and records wait no longer
//! than it takes to open an instance.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::block_in_place;

use super::Pipelines;
use super::managed::Managed;
use crate::model::PipelineName;
use crate::pipeline::control::TaskControl;
use crate::pipeline::plugins::check_fit;
use crate::pipeline::processor::Processor;
use crate::pipeline::runtime::PipelineRuntime;
use crate::pipeline::trial::Trial;
use crate::pipeline::{Error, registry};
use crate::plugin::{Digest, Plugin};

/// How long a task may take to come to a batch boundary, beyond the deadline of a call.
const PATIENCE: Duration = Duration::from_secs(30);

/// A swap that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// What the tasks ran before; `None` if the pipeline was refused.
    pub from: Option<Digest>,
    /// What they run now.
    pub to: Digest,
    /// The partitions whose tasks have swapped while they ran; none if the pipeline did not run.
    pub partitions: Vec<u32>,
}

/// A task that is to swap.
pub(super) struct Target {
    pub(super) number: u32,
    pub(super) control: Arc<TaskControl>,
    /// What it runs now.
    pub(super) from: Arc<PipelineRuntime>,
}

impl Pipelines {
    /// Gives a pipeline another version of its plugin: each task goes on with it from its next batch boundary
    /// on, with its position, state, timers, parked records and counters. A pipeline that is paused starts
    /// with it when it is resumed; one that has failed, or was refused, starts with it at once.
    ///
    /// With `partitions` only the tasks of these swap, and the pipeline starts with the old version again
    /// when it is restarted.
    ///
    /// # Errors
    /// [`Error::Refused`] if the plugin does not fit the pipeline, [`Error::CannotOpen`] if no instance of it
    /// can be opened, [`Error::SwapFailed`] if a task could not swap; then all tasks run what they ran before.
    /// [`Error::NotApplied`], [`Error::NotRunning`], [`Error::UnknownPartition`].
    pub async fn swap(
        &self,
        name: &PipelineName,
        partitions: Option<&[u32]>,
        plugin: &Plugin,
    ) -> Result<Swapped, Error> {
        let _change = self.shared.changes.lock().await;
        self.swap_now(name, partitions, plugin, None).await
    }

    pub(super) async fn swap_now(
        &self,
        name: &PipelineName,
        partitions: Option<&[u32]>,
        plugin: &Plugin,
        trial: Option<Arc<Trial>>,
    ) -> Result<Swapped, Error> {
        let (from, runs) = {
            let managed = self.shared.managed.lock();
            let Some(managed) = managed.get(name) else {
                drop(managed);
                return Err(self.unknown(name));
            };
            check_fit(&managed.spec, plugin).map_err(|refusal| Error::Refused {
                name: name.clone(),
                plugin: managed.spec.plugin.clone(),
                refusal,
            })?;
            let from = managed.plugin.as_ref().ok().map(|it| it.digest().clone());
            (
                from,
                managed.run.as_ref().is_some_and(|run| run.is_running()),
            )
        };
        let mut swapped = Swapped {
            from,
            to: plugin.digest().clone(),
            partitions: Vec::new(),
        };
        match (runs, partitions) {
            (true, _) => {
                swapped.partitions = self.swap_tasks(name, partitions, plugin, trial).await?;
            }
            (false, None) => self.restart_with(name, plugin).await?,
            (false, Some(_)) => return Err(Error::NotRunning { name: name.clone() }),
        }
        if partitions.is_none() {
            if let Some(managed) = self.shared.managed.lock().get_mut(name) {
                managed.plugin = Ok(plugin.clone());
            }
            registry::set_digest(self.shared.log.store(), name, plugin.digest()).await?;
        }
        Ok(swapped)
    }

    /// Swaps the tasks of a pipeline that runs. Returns their partitions.
    async fn swap_tasks(
        &self,
        name: &PipelineName,
        partitions: Option<&[u32]>,
        plugin: &Plugin,
        trial: Option<Arc<Trial>>,
    ) -> Result<Vec<u32>, Error> {
        let (to, targets) = {
            let managed = self.shared.managed.lock();
            let Some(managed) = managed.get(name) else {
                drop(managed);
                return Err(self.unknown(name));
            };
            targets(managed, partitions, plugin, trial)?
        };
        block_in_place(|| try_open(&to, &targets))?;
        let mut done: Vec<&Target> = Vec::new();
        for target in &targets {
            if let Err(reason) = self.swap_task(name, target, &to).await {
                self.swap_back(name, &done).await;
                return Err(Error::SwapFailed {
                    name: name.clone(),
                    partition: target.number,
                    reason,
                });
            }
            done.push(target);
        }
        if partitions.is_none() {
            let mut managed = self.shared.managed.lock();
            if let Some(run) = managed.get_mut(name).and_then(|it| it.run.as_mut()) {
                run.pipeline = to;
            }
        }
        Ok(targets.iter().map(|target| target.number).collect())
    }

    /// Gives tasks back what they ran before. If one cannot swap, all of the pipeline start again, with the version that
    /// it starts with, also if they have failed meanwhile: they ran before the swap.
    pub(super) async fn swap_back(&self, name: &PipelineName, targets: &[&Target]) {
        for target in targets {
            let Err(reason) = self.swap_task(name, target, &target.from).await else {
                continue;
            };
            tracing::warn!(pipeline = %name, partition = target.number, reason, "the task could not be given its old version back; the pipeline starts again with it");
            let main = {
                let managed = self.shared.managed.lock();
                let run = managed.get(name).and_then(|it| it.run.as_ref());
                run.map(|run| Arc::clone(&run.pipeline))
            };
            if let Some(main) = main {
                self.restart_forgiven(name, &main.plugin).await;
            }
            return;
        }
    }

    /// Asks a task to swap, and waits until it has.
    pub(super) async fn swap_task(
        &self,
        name: &PipelineName,
        target: &Target,
        to: &Arc<PipelineRuntime>,
    ) -> Result<(), String> {
        let mut answer = target.control.ask_swap(Arc::clone(to));
        let patience = to.spec.limits.deadline + PATIENCE;
        let answer = match tokio::time::timeout(patience, &mut answer).await {
            Ok(answer) => answer,
            Err(_) if target.control.withdraw_swap() => {
                return Err(format!(
                    "it has not come to the end of a batch in {} s; an output may be full",
                    patience.as_secs()
                ));
            }
            // It has just got to it.
            Err(_) => answer.await,
        };
        match answer {
            Ok(Ok(())) => {
                let mut managed = self.shared.managed.lock();
                let run = managed.get_mut(name).and_then(|it| it.run.as_mut());
                let task = run.and_then(|run| run.tasks.get_mut(target.number as usize));
                if let Some(task) = task {
                    task.pipeline = Arc::clone(to);
                }
                Ok(())
            }
            Ok(Err(fault)) => Err(format!("the plugin could not be opened: {fault}")),
            Err(_) => Err("the task has ended".to_owned()),
        }
    }

    /// Makes a pipeline that does not run start with another plugin, now or when it is resumed.
    async fn restart_with(&self, name: &PipelineName, plugin: &Plugin) -> Result<(), Error> {
        let known = {
            let managed = self.shared.managed.lock();
            managed.get(name).map(|it| {
                let before = it.plugin.as_ref().ok().map(|it| it.digest().clone());
                (it.spec.clone(), it.is_paused, before)
            })
        };
        let Some((spec, is_paused, before)) = known else {
            return Err(self.unknown(name));
        };
        let opened = self.open(&spec, plugin).await?;
        let opened = Arc::new(opened);
        let target = |control| Target {
            number: 0,
            control,
            from: Arc::clone(&opened),
        };
        if let Err(error) = block_in_place(|| try_open(&opened, &[target(TaskControl::new())])) {
            // It was noted that it runs the other version: nothing takes that back for a pipeline that does not run.
            if let Some(before) = &before {
                registry::set_digest(self.shared.log.store(), name, before).await?;
            }
            return Err(error);
        }
        self.stop_tasks(name).await;
        self.forget_failures(name);
        let mut managed = self.shared.managed.lock();
        if let Some(managed) = managed.get_mut(name) {
            let pipeline = PipelineRuntime::clone(&opened);
            managed.run = Some(self.run(pipeline, managed.run.as_ref(), !is_paused));
        }
        Ok(())
    }
}

/// The tasks that are to swap, and what to.
pub(super) fn targets(
    managed: &Managed,
    partitions: Option<&[u32]>,
    plugin: &Plugin,
    trial: Option<Arc<Trial>>,
) -> Result<(Arc<PipelineRuntime>, Vec<Target>), Error> {
    let name = &managed.spec.name;
    let Some(run) = &managed.run else {
        return Err(Error::NotRunning { name: name.clone() });
    };
    let count = run.tasks.len();
    let unknown = partitions.iter().copied().flatten();
    if let Some(partition) = unknown.copied().find(|it| *it as usize >= count) {
        return Err(Error::UnknownPartition {
            name: name.clone(),
            partition,
            count,
        });
    }
    let chosen = run.tasks.iter().filter(|task| {
        let is_chosen = partitions.is_none_or(|chosen| chosen.contains(&task.number));
        let is_other = task.pipeline.plugin.digest() != plugin.digest();
        is_chosen && (is_other || task.pipeline.trial.is_some())
    });
    let targets = chosen.map(|task| Target {
        number: task.number,
        control: Arc::clone(&task.control),
        from: Arc::clone(&task.pipeline),
    });
    let targets = targets.collect();
    Ok((
        Arc::new(run.pipeline.with_plugin(plugin.clone(), trial)),
        targets,
    ))
}

/// Opens an instance of the new version for a task, and throws it away.
fn try_open(to: &Arc<PipelineRuntime>, targets: &[Target]) -> Result<(), Error> {
    let Some(target) = targets.first() else {
        return Ok(());
    };
    let state = to.state(target.number)?;
    // Not the pipeline's metrics: what this instance says does not count.
    let opened = Processor::open(to, target.number, &state, &Arc::default());
    opened.map(drop).map_err(|fault| Error::CannotOpen {
        name: to.spec.name.clone(),
        digest: to.plugin.digest().clone(),
        fault,
    })
}
