//! Lets some tasks of a pipeline try a version out, and ends that.

use std::sync::Arc;

use super::Pipelines;
use super::managed::{Failures, Run, Task};
use super::swap::Target;
use crate::model::PipelineName;
use crate::pipeline::trial::Trial;
use crate::pipeline::{Error, TaskError};
use crate::plugin::Plugin;

/// A trial that is under way, or has ended.
#[derive(Clone, Debug)]
pub struct TrialView {
    trial: Arc<Trial>,
    /// The partitions whose tasks try the version out.
    pub partitions: Vec<u32>,
}

impl TrialView {
    /// Records that the version would have given up on, and that are tried again after the trial.
    pub fn held(&self) -> u64 {
        self.trial.held()
    }

    /// Why a task has stopped, if one has.
    pub fn failure(&self) -> Option<Arc<TaskError>> {
        self.trial.failure()
    }
}

impl Pipelines {
    /// Lets the tasks of some partitions try another version of the plugin out: they swap as
    /// [`swap`](Self::swap) says, and from then on nothing that they give up on becomes a dead letter or stops
    /// the pipeline. It is held until the trial ends, or until `held_until_ms` (ms since the epoch) if nobody
    /// ends it. [`end_trial`](Self::end_trial) gives them the old version back, and a
    /// [`swap`](Self::swap) of all tasks makes the new one stay.
    ///
    /// # Errors
    /// As [`swap`](Self::swap).
    pub async fn start_trial(
        &self,
        name: &PipelineName,
        partitions: &[u32],
        plugin: &Plugin,
        held_until_ms: u64,
    ) -> Result<TrialView, Error> {
        let _change = self.shared.changes.lock().await;
        let trial = Trial::new(held_until_ms);
        let swapped = self
            .swap_now(name, Some(partitions), plugin, Some(Arc::clone(&trial)))
            .await?;
        Ok(TrialView {
            trial,
            partitions: swapped.partitions,
        })
    }

    /// Whether tasks of a pipeline run a version for trial.
    pub fn is_trying(&self, name: &PipelineName) -> bool {
        let managed = self.shared.managed.lock();
        let run = managed.get(name).and_then(|it| it.run.as_ref());
        run.is_some_and(|run| run.tasks.iter().any(Task::is_trying))
    }

    /// Gives the tasks that try a version out the one back that the others run; what was held is tried again
    /// with it at once. Tasks that have stopped in the trial start again, unless the whole pipeline has. If a task
    /// cannot swap, all of them start again: none runs the version that was tried out after this.
    ///
    /// # Errors
    /// [`Error::NotApplied`]
    pub async fn end_trial(&self, name: &PipelineName) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let (main, targets) = {
            let mut managed = self.shared.managed.lock();
            let Some(known) = managed.get_mut(name) else {
                drop(managed);
                return Err(self.unknown(name));
            };
            let has_stopped = known.is_paused || self.has_failed(name);
            let Some(run) = &mut known.run else {
                return Ok(());
            };
            let main = Arc::clone(&run.pipeline);
            match has_stopped {
                true => (main, None),
                false => (main, Some(run.end_trial(&self.shared.failures))),
            }
        };
        let Some(targets) = targets else {
            self.restart_now(name, &main.plugin).await;
            return Ok(());
        };
        for target in &targets {
            if let Err(reason) = self.swap_task(name, target, &main).await {
                tracing::warn!(pipeline = %name, partition = target.number, reason, "the task could not be given the old version back; the pipeline starts again with it");
                self.restart_now(name, &main.plugin).await;
                break;
            }
        }
        Ok(())
    }
}

impl Run {
    /// Starts the tasks again that have stopped in a trial. Returns those that are still in it.
    fn end_trial(&mut self, failures: &Failures) -> Vec<Target> {
        let trying = self.tasks.iter().filter(|it| it.pipeline.trial.is_some());
        let trying: Vec<(u32, bool)> = trying
            .map(|task| (task.number, task.status.is_stopped()))
            .collect();
        let mut targets = Vec::new();
        for (number, is_stopped) in trying {
            if is_stopped {
                self.restart_task(number, failures);
            } else if let Some(task) = self.tasks.get(number as usize) {
                targets.push(Target {
                    number,
                    control: Arc::clone(&task.control),
                    from: Arc::clone(&task.pipeline),
                });
            }
        }
        targets
    }
}
