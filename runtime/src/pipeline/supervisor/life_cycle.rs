//! Pauses, resumes and removes a pipeline.

use tokio::task::block_in_place;

use super::managed::Managed;
use super::{PipelineState, Pipelines};
use crate::model::PipelineName;
use crate::pipeline::{Error, Refusal, registry};
use crate::plugin::Plugin;

impl Pipelines {
    /// Ends a pipeline's tasks at their next batch boundary, after their checkpoints, until it is resumed.
    /// One that is paused already stays so.
    ///
    /// # Errors
    /// [`Error::NotApplied`]
    pub async fn pause(&self, name: &PipelineName) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let is_known = {
            let mut managed = self.shared.managed.lock();
            let known = managed.get_mut(name);
            known.map(|managed| managed.is_paused = true).is_some()
        };
        if !is_known {
            return Err(self.unknown(name));
        }
        self.stop_tasks(name).await;
        Ok(())
    }

    /// Starts a pipeline that is paused or has failed, at the position that it has; the tasks of one that
    /// runs go on.
    ///
    /// # Errors
    /// [`Error::NotApplied`]; [`Error::Refused`] if its plugin cannot run in it; whatever is wrong with its
    /// topics and queues.
    pub async fn resume(&self, name: &PipelineName) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let (spec, plugin) = {
            let managed = self.shared.managed.lock();
            let Some(managed) = managed.get(name) else {
                drop(managed);
                return Err(self.unknown(name));
            };
            if self.state_of(managed) == PipelineState::Running {
                return Ok(());
            }
            let plugin = managed.plugin.clone().map_err(|refusal| Error::Refused {
                name: name.clone(),
                plugin: managed.spec.plugin.clone(),
                refusal,
            })?;
            (managed.spec.clone(), plugin)
        };
        let pipeline = self.open(&spec, &plugin).await?;
        // A pipeline that has failed may have tasks that have not ended yet.
        self.stop_tasks(name).await;
        self.forget_failures(name);
        let mut managed = self.shared.managed.lock();
        if let Some(managed) = managed.get_mut(name) {
            managed.is_paused = false;
            managed.run = Some(self.run(pipeline, managed.run.as_ref(), true));
        }
        Ok(())
    }

    /// Stops a pipeline at its next batch boundary, after its checkpoint, and forgets it and what its plugin has
    /// logged. With `delete_data` its keyed state, timers, parked records, consumer group and registry entry are
    /// deleted, too; without, one that is applied again under this name goes on where this one has stopped.
    ///
    /// # Errors
    /// [`Error::NotApplied`]; with `delete_data` it is enough that the pipeline has run once.
    pub async fn remove(&self, name: &PipelineName, delete_data: bool) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let is_applied = self.shared.managed.lock().contains_key(name);
        let store = self.shared.log.store();
        let has_run = registry::stored(store)?
            .iter()
            .any(|(known, _)| known == name);
        let is_known = is_applied || (delete_data && has_run);
        if !is_known {
            return Err(self.unknown(name));
        }
        self.stop_tasks(name).await;
        self.forget(name);
        block_in_place(|| self.shared.logs.delete(name));
        if delete_data {
            registry::delete(store, name).await?;
        }
        Ok(())
    }

    /// Ends a pipeline's tasks at their next batch boundary, after their checkpoints, for a change of its data.
    /// A [`swap`](Self::swap) of all of it, or [`resume`](Self::resume), starts it again. Nothing happens if there
    /// is none of this name.
    pub async fn suspend(&self, name: &PipelineName) {
        let _change = self.shared.changes.lock().await;
        self.stop_tasks(name).await;
    }

    /// Ends a pipeline's tasks at their next batch boundary, and lets it have no plugin until it is given another:
    /// a [`swap`](Self::swap) of all of it starts it again.
    ///
    /// # Errors
    /// [`Error::NotApplied`]
    pub async fn refuse(&self, name: &PipelineName, refusal: Refusal) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        self.stop_tasks(name).await;
        let mut managed = self.shared.managed.lock();
        let Some(managed) = managed.get_mut(name) else {
            drop(managed);
            return Err(self.unknown(name));
        };
        managed.plugin = Err(refusal);
        Ok(())
    }

    /// Ends a pipeline's tasks at their next batch boundary, and starts it again with a version of its plugin, whether or
    /// not that can be opened: for tasks that could not be given it while they ran. One that is paused does not start. One
    /// that has failed does: it has failed with the version that this one takes the place of.
    ///
    /// # Errors
    /// [`Error::Storage`]: what it runs cannot be noted.
    pub async fn restart(&self, name: &PipelineName, plugin: &Plugin) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        self.restart_forgiven(name, plugin).await;
        registry::set_digest(self.shared.log.store(), name, plugin.digest()).await
    }

    /// Ends a pipeline's tasks, and starts it again with a version of its plugin, unless it is paused or has failed.
    pub(super) async fn restart_now(&self, name: &PipelineName, plugin: &Plugin) {
        self.stop_tasks(name).await;
        self.start_again(name, plugin);
    }

    /// As [`restart_now`](Self::restart_now), but also one that has failed.
    pub(super) async fn restart_forgiven(&self, name: &PipelineName, plugin: &Plugin) {
        self.stop_tasks(name).await;
        // Not before: a task may fail in its last batch.
        self.forget_failures(name);
        self.start_again(name, plugin);
    }

    fn start_again(&self, name: &PipelineName, plugin: &Plugin) {
        let mut managed = self.shared.managed.lock();
        let Some(known) = managed.get_mut(name) else {
            return;
        };
        let starts = !known.is_paused && !self.has_failed(name);
        if let Some(run) = &known.run {
            let pipeline = run.pipeline.with_plugin(plugin.clone(), None);
            known.run = Some(self.run(pipeline, Some(run), starts));
            known.plugin = Ok(plugin.clone());
        }
    }

    /// Forgets why tasks of a pipeline have failed, before it starts again.
    pub(super) fn forget_failures(&self, name: &PipelineName) {
        let mut failures = self.shared.failures.lock();
        failures.retain(|failure| failure.pipeline != *name);
    }

    /// Whether a task of a pipeline has failed since it was started.
    pub(super) fn has_failed(&self, name: &PipelineName) -> bool {
        let failures = self.shared.failures.lock();
        failures.iter().any(|failure| failure.pipeline == *name)
    }

    pub(super) fn state_of(&self, managed: &Managed) -> PipelineState {
        if managed.plugin.is_err() {
            PipelineState::Refused
        } else if self.has_failed(&managed.spec.name) {
            PipelineState::Failed
        } else if managed.is_paused {
            PipelineState::Paused
        } else if managed.run.as_ref().is_some_and(|run| run.is_running()) {
            PipelineState::Running
        } else {
            PipelineState::Stopped
        }
    }
}
