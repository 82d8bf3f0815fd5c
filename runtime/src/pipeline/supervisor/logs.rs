//! What the plugins of a pipeline log.

use std::sync::Arc;
use std::task::Poll;

use super::Pipelines;
use crate::model::PipelineName;
use crate::plugin::{LogLimit, LogLine};

impl Pipelines {
    /// The last log lines of a pipeline's plugin after this number, oldest first; `None` if there is no such
    /// pipeline. What a version logged goes when no task runs it any more.
    pub fn logs_after(&self, name: &PipelineName, number: u64) -> Option<Vec<LogLine>> {
        let logs = self.logs_of(name)?;
        let mut lines: Vec<_> = logs
            .iter()
            .flat_map(|log| log.tail().after(number))
            .collect();
        lines.sort_by_key(|line| line.number);
        Some(lines)
    }

    /// Returns when a pipeline's plugin logs a line; never if there is no such pipeline.
    pub async fn log_added(&self, name: &PipelineName) {
        let logs = self.logs_of(name).unwrap_or_default();
        let mut waits: Vec<_> = logs
            .iter()
            .map(|log| Box::pin(log.tail().added()))
            .collect();
        std::future::poll_fn(|context| {
            let is_ready = waits
                .iter_mut()
                .any(|wait| wait.as_mut().poll(context).is_ready());
            match is_ready {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// The logs of the versions that a pipeline's tasks run.
    fn logs_of(&self, name: &PipelineName) -> Option<Vec<Arc<LogLimit>>> {
        let managed = self.shared.managed.lock();
        let managed = managed.get(name)?;
        let mut logs: Vec<Arc<LogLimit>> = Vec::new();
        for task in managed.run.iter().flat_map(|run| &run.tasks) {
            let log = &task.pipeline.log_limit;
            if !logs.iter().any(|known| Arc::ptr_eq(known, log)) {
                logs.push(Arc::clone(log));
            }
        }
        Some(logs)
    }
}
