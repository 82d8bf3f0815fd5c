//! What the plugins of a pipeline log.

use std::sync::Arc;

use tokio::sync::watch;

use super::Pipelines;
use crate::model::PipelineName;
use crate::pipeline::{Error, registry};
use crate::plugin::LogLine;

impl Pipelines {
    /// The log lines that are kept of a pipeline's plugin, of all versions, after the one with this number, oldest first.
    /// It blocks: call it where a thread may wait.
    ///
    /// # Errors
    /// [`Error::UnknownPipeline`] if it neither runs nor has; [`Error::Storage`] if what is stored cannot be read.
    pub fn logs_after(&self, name: &PipelineName, number: u64) -> Result<Vec<Arc<LogLine>>, Error> {
        let is_applied = self.shared.managed.lock().contains_key(name);
        if !is_applied {
            registry::find(self.shared.log.store(), name)?;
        }
        Ok(self.shared.logs.after(name, number)?)
    }

    /// Changes with each line that a pipeline's plugin logs from now on, and ends when the pipeline is deleted; `None` if it
    /// has not run in this process.
    pub fn log_news(&self, name: &PipelineName) -> Option<watch::Receiver<u64>> {
        self.shared.logs.news(name)
    }
}
