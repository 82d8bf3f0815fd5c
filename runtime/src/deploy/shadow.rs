//! Runs a version beside the one whose results count, and reports how the two differ.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::records::{Deploy, Outcome, Report};
use super::{Deployments, Error};
use crate::model::{PipelineName, Target};
use crate::pipeline::{ShadowFindings, ShadowView};

/// What a shadow has found in a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ShadowReport {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Records and timers that both versions have run.
    pub records: u64,
    /// Those for which they did different things.
    pub different_records: u64,
    /// Calls of the new version that faulted; their records count as different.
    pub faults: u64,
    /// Time in the new version, in ns.
    pub time_ns: u64,
    /// The first differences.
    pub first: Vec<Difference>,
    /// Why the shadow, or that of a task, has ended early, if one has.
    #[serde(default)]
    pub ended_early: Option<String>,
}

/// A record for which the two versions do different things.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// The topic or queue that the record comes from; `None` for a timer.
    pub input: Option<Target>,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// What is different.
    pub what: String,
}

impl ShadowReport {
    fn of(pipeline: &PipelineName, findings: ShadowFindings) -> Self {
        let first = findings.first.into_iter();
        Self {
            pipeline: pipeline.clone(),
            records: findings.records,
            different_records: findings.different_records,
            faults: findings.faults,
            time_ns: findings.time_ns,
            first: first
                .map(|found| Difference {
                    input: found.input,
                    partition: found.partition,
                    offset: found.offset,
                    what: found.what,
                })
                .collect(),
            ended_early: findings.ended_early,
        }
    }
}

impl Deployments {
    /// Starts the shadow in all pipelines that use the plugin, and watches it from then on.
    pub(super) async fn start_shadow(
        &self,
        deploy: Deploy,
        duration: Duration,
    ) -> Result<Deploy, Error> {
        let shadows = match self.start_shadows(&deploy).await {
            Ok(shadows) => shadows,
            Err(error) => return self.fail(deploy, error).await,
        };
        let (this, watched) = (self.clone(), deploy.clone());
        self.go_on(&deploy, |mut stop| async move {
            tokio::select! {
                () = tokio::time::sleep(duration) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            this.end_shadows(watched, shadows, &stop).await;
        });
        Ok(deploy)
    }

    async fn start_shadows(
        &self,
        deploy: &Deploy,
    ) -> Result<Vec<(PipelineName, ShadowView)>, Error> {
        let plugin = self.load(&deploy.plugin, &deploy.to)?;
        let mut shadows: Vec<(PipelineName, ShadowView)> = Vec::new();
        for pipeline in &deploy.pipelines {
            match self.shared.pipelines.start_shadow(pipeline, &plugin).await {
                Ok(shadow) => shadows.push((pipeline.clone(), shadow)),
                Err(error) => {
                    for (pipeline, _) in &shadows {
                        self.shared.pipelines.end_shadow(pipeline);
                    }
                    return Err(error.into());
                }
            }
        }
        match shadows.is_empty() {
            true => Err(Error::NotUsed {
                name: deploy.plugin.clone(),
            }),
            false => Ok(shadows),
        }
    }

    async fn end_shadows(
        &self,
        mut deploy: Deploy,
        shadows: Vec<(PipelineName, ShadowView)>,
        stop: &watch::Receiver<bool>,
    ) {
        let mut reports = Vec::new();
        for (pipeline, shadow) in shadows {
            self.shared.pipelines.end_shadow(&pipeline);
            reports.push(ShadowReport::of(&pipeline, shadow.findings()));
        }
        deploy.report = Some(Report::Shadow { pipelines: reports });
        let was_stopped = *stop.borrow();
        let reason = was_stopped.then(|| "it was stopped before its time was over".to_owned());
        let _change = self.shared.changes.lock().await;
        let (id, plugin) = (deploy.id, deploy.plugin.clone());
        if let Err(error) = self.end(deploy, Outcome::Observed, reason).await {
            tracing::error!(deploy = id, %plugin, %error, "the shadow has not ended well");
        }
    }
}
