//! Runs another version of a plugin beside a pipeline's own.

use std::sync::Arc;

use super::Pipelines;
use crate::manifest::PipelineSpec;
use crate::model::PipelineName;
use crate::pipeline::Error;
use crate::pipeline::plugins::check_fit;
use crate::pipeline::shadow::{Shadow, ShadowFindings};
use crate::plugin::Plugin;

/// A shadow that runs, or has run.
#[derive(Clone, Debug)]
pub struct ShadowView {
    shadow: Arc<Shadow>,
}

impl ShadowView {
    /// What it has found so far.
    pub fn findings(&self) -> ShadowFindings {
        self.shadow.findings()
    }
}

/// Checks that a version of the plugin can run beside the one of a pipeline.
///
/// # Errors
/// [`Error::NoShadow`], [`Error::Refused`], as [`Pipelines::start_shadow`] says.
pub fn check_shadow(spec: &PipelineSpec, plugin: &Plugin) -> Result<(), Error> {
    let none = |reason: &'static str| Error::NoShadow {
        name: spec.name.clone(),
        reason,
    };
    if spec.is_producer() {
        return Err(none("it makes records, and a second one would make others"));
    }
    if plugin.calls_services() {
        return Err(none("it calls services, which would be called twice"));
    }
    check_fit(spec, plugin).map_err(|refusal| Error::Refused {
        name: spec.name.clone(),
        plugin: spec.plugin.clone(),
        refusal,
    })
}

impl Pipelines {
    /// Runs another version of the plugin beside the one of a pipeline's tasks, on the same batches, until
    /// [`end_shadow`](Self::end_shadow) or until the tasks are restarted. What it makes and changes is thrown
    /// away; each task needs one instance more for it, and the time that it takes.
    ///
    /// # Errors
    /// [`Error::NotApplied`], [`Error::NotRunning`]; [`Error::NoShadow`] for a producer, whose calls do not come
    /// again, and for a plugin that calls services, which would be called twice; [`Error::Refused`] if it does not
    /// fit the pipeline.
    pub async fn start_shadow(
        &self,
        name: &PipelineName,
        plugin: &Plugin,
    ) -> Result<ShadowView, Error> {
        let _change = self.shared.changes.lock().await;
        let mut managed = self.shared.managed.lock();
        let Some(known) = managed.get_mut(name) else {
            drop(managed);
            return Err(self.unknown(name));
        };
        let Some(run) = known.run.as_mut().filter(|run| run.is_running()) else {
            return Err(Error::NotRunning { name: name.clone() });
        };
        check_shadow(&known.spec, plugin)?;
        let mut pipeline = run.pipeline.with_plugin(plugin.clone(), None);
        pipeline.metrics = Arc::default();
        let shadow = Shadow::new(pipeline);
        for task in &run.tasks {
            task.control.ask_shadow(Some(Arc::clone(&shadow)));
        }
        run.shadow = Some(Arc::clone(&shadow));
        Ok(ShadowView { shadow })
    }

    /// Ends the shadow of a pipeline, if it has one.
    pub fn end_shadow(&self, name: &PipelineName) {
        let mut managed = self.shared.managed.lock();
        let Some(run) = managed.get_mut(name).and_then(|it| it.run.as_mut()) else {
            return;
        };
        // One that has failed, of which nobody has taken notice yet.
        if run.tasks.iter().any(|task| task.status.is_stopped()) {
            run.end_shadow_early();
        }
        run.shadow = None;
        for task in &run.tasks {
            task.control.ask_shadow(None);
        }
    }
}
