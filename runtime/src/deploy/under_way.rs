//! Deploys that take their time: which ones there are, waiting for their ends, and ending them early.

use std::time::Duration;

use tokio::sync::watch;

use super::records::Deploy;
use super::{Deployments, Error, UnderWay};
use crate::model::{PipelineName, PluginName};
use crate::storage;

/// How often whoever waits for a deploy looks whether its end can be noted at all.
const HEALTH_CHECK: Duration = Duration::from_secs(1);

impl Deployments {
    /// Checks that a plugin has no deploy that has not ended.
    pub(super) fn check_not_under_way(&self, name: &PluginName) -> Result<(), Error> {
        if let Some(under_way) = self.shared.under_way.lock().get(name) {
            return Err(Error::UnderWay {
                name: name.clone(),
                id: under_way.id,
            });
        }
        self.check_not_waiting(name)
    }

    /// Checks that no canary or shadow runs in any of these pipelines. None begins as long as whoever asks
    /// [holds](Self::hold) everything.
    ///
    /// # Errors
    /// [`Error::TriedOut`]
    pub fn check_not_tried(&self, pipelines: &[PipelineName]) -> Result<(), Error> {
        for pipeline in pipelines {
            let Some(name) = self.shared.pipelines.plugin_of(pipeline) else {
                continue;
            };
            if let Some(under_way) = self.shared.under_way.lock().get(&name) {
                return Err(Error::TriedOut {
                    pipeline: pipeline.clone(),
                    name,
                    id: under_way.id,
                });
            }
        }
        Ok(())
    }

    /// Goes on with a deploy that takes its time, until it is stopped.
    pub(super) fn go_on<F>(&self, deploy: &Deploy, work: impl FnOnce(watch::Receiver<bool>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let (this, watched) = (self.clone(), deploy.clone());
        let work = work(stopped);
        // Before the work begins, which takes it out again.
        let mut under_way = self.shared.under_way.lock();
        let task = tokio::spawn(async move {
            work.await;
            fail::fail_point!("deploy::trial-over");
            this.no_longer_under_way(&watched);
            this.shared.ended.send_modify(|count| *count += 1);
        });
        under_way.insert(
            deploy.plugin.clone(),
            UnderWay {
                id: deploy.id,
                stop,
                task,
            },
        );
    }

    pub(super) fn no_longer_under_way(&self, deploy: &Deploy) {
        let mut under_way = self.shared.under_way.lock();
        if under_way
            .get(&deploy.plugin)
            .is_some_and(|it| it.id == deploy.id)
        {
            under_way.remove(&deploy.plugin);
        }
    }

    /// Whether a deploy has ended, and no longer keeps others from beginning: its record says so a moment earlier.
    pub fn has_ended(&self, deploy: &Deploy) -> bool {
        !deploy.outcome.is_open() && !self.is_under_way(deploy.id)
    }

    fn is_under_way(&self, id: u64) -> bool {
        let under_way = self.shared.under_way.lock();
        under_way.values().any(|it| it.id == id)
    }

    /// Waits until a deploy has ended.
    ///
    /// # Errors
    /// [`Error::UnknownDeploy`]; [`Error::Storage`] if the store takes no writes any more, so that the end of none can
    /// be noted.
    pub async fn wait_for(&self, id: u64) -> Result<Deploy, Error> {
        let mut ended = self.shared.ended.subscribe();
        loop {
            ended.mark_unchanged();
            let deploy = self.deploy_of(id)?;
            if self.has_ended(&deploy) {
                return Ok(deploy);
            }
            if let Some(failure) = self.shared.store.health().failure {
                return Err(storage::Error::from(failure).into());
            }
            // The sender lives as long as this.
            let _ = tokio::time::timeout(HEALTH_CHECK, ended.changed()).await;
        }
    }

    /// Ends a canary, of which the version is taken back, or a shadow before its time is over, or withdraws one that waits
    /// for a server. Returns when that is done.
    ///
    /// # Errors
    /// [`Error::UnknownDeploy`]
    pub async fn stop_deploy(&self, id: u64) -> Result<Deploy, Error> {
        let is_under_way = self.is_under_way(id);
        let is_open = self.deploy_of(id)?.outcome.is_open();
        if is_open
            && !is_under_way
            && let Some(withdrawn) = self.withdraw(id).await?
        {
            return Ok(withdrawn);
        }
        for under_way in self.shared.under_way.lock().values() {
            if under_way.id == id {
                under_way.stop.send_replace(true);
            }
        }
        self.wait_for(id).await
    }

    /// Ends everything that is under way.
    pub(super) async fn stop_all(&self) {
        let tasks: Vec<_> = {
            let mut under_way = self.shared.under_way.lock();
            let stopping = under_way.drain().map(|(_, it)| {
                it.stop.send_replace(true);
                it.task
            });
            stopping.collect()
        };
        for task in tasks {
            // What it has to tell is in its record.
            let _ = task.await;
        }
    }
}
