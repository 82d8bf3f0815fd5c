//! Tries a version out on some partitions, holds it against the old one on the others, and then promotes it or
//! takes it back.
//!
//! Nothing that the canary gives up on is lost to the dead letters: it waits, and the version that runs when
//! the canary has ended tries it again (`pipeline/trial.rs`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::records::{Deploy, Outcome, Report};
use super::{Deployments, Error};
use crate::model::{PipelineName, PluginName};
use crate::pipeline::{self, Progress, TrialView};

/// How often the canary is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How much longer than the canary what it has given up on waits, if nobody ends the canary.
const HELD_MARGIN_MS: u64 = 60_000;
/// Failures after which a canary that does much worse is taken back at once.
const DECISIVE_FAILURES: u64 = 10;
/// Records on either side from which on their speed is compared.
const COMPARABLE_RECORDS: u64 = 1_000;

/// What tasks have done in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sample {
    /// Records handed to the plugin.
    pub records: u64,
    /// Retries, dead letters, and calls that faulted.
    pub failures: u64,
    /// Time in the plugin, in ns.
    pub time_ns: u64,
}

/// How a canary has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CanaryReport {
    /// The old version, on the other partitions meanwhile; before the canary if there are none.
    pub old: Sample,
    /// The new version.
    pub new: Sample,
    /// Records that the new version has given up on, and that were tried again afterwards.
    pub held: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Promote,
    TakeBack(String),
}

/// A pipeline in which the canary runs.
struct Canary {
    pipeline: PipelineName,
    trial: TrialView,
    old_before: Sample,
    new_before: Sample,
    /// Whether other partitions run the old version meanwhile.
    has_others: bool,
}

impl Sample {
    fn add(&mut self, totals: &Progress) {
        self.records += totals.calls.records;
        self.failures += totals.retries + totals.dead_letters + totals.calls.faults();
        self.time_ns += totals.calls.time_ns;
    }

    fn add_sample(&mut self, other: Self) {
        self.records += other.records;
        self.failures += other.failures;
        self.time_ns += other.time_ns;
    }

    fn since(self, before: Self) -> Self {
        Self {
            records: self.records.saturating_sub(before.records),
            failures: self.failures.saturating_sub(before.failures),
            time_ns: self.time_ns.saturating_sub(before.time_ns),
        }
    }

    /// Failures a record.
    fn failure_rate(self) -> f64 {
        self.failures as f64 / self.records.max(1) as f64
    }

    /// Time in the plugin for each record, in ns.
    pub fn record_ns(self) -> f64 {
        self.time_ns as f64 / self.records.max(1) as f64
    }
}

impl Deployments {
    /// Starts the canary in all pipelines that have these partitions, and watches it from then on.
    pub(super) async fn start_canary(
        &self,
        deploy: Deploy,
        partitions: &[u32],
        duration: Duration,
    ) -> Result<Deploy, Error> {
        let canaries = match self.start_trials(&deploy, partitions, duration).await {
            Ok(canaries) => canaries,
            Err(error) => return self.fail(deploy, error).await,
        };
        let (this, watched) = (self.clone(), deploy.clone());
        self.go_on(&deploy, |stop| async move {
            this.watch_canary(watched, canaries, duration, stop).await;
        });
        Ok(deploy)
    }

    async fn start_trials(
        &self,
        deploy: &Deploy,
        partitions: &[u32],
        duration: Duration,
    ) -> Result<Vec<Canary>, Error> {
        self.check_partitions(&deploy.plugin, partitions)?;
        let plugin = self.load(&deploy.plugin, &deploy.to)?;
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let held_until_ms = self
            .now_ms()
            .saturating_add(duration_ms)
            .saturating_add(HELD_MARGIN_MS);
        let mut canaries = Vec::new();
        // A pipeline whose plugin was refused has no tasks.
        let mut refused = None;
        for pipeline in &deploy.pipelines {
            let Some(tasks) = self.shared.pipelines.totals_by_task(pipeline) else {
                continue;
            };
            let has_partition = |it: &u32| tasks.iter().any(|(number, _)| number == it);
            let chosen: Vec<u32> = partitions.iter().copied().filter(has_partition).collect();
            if chosen.is_empty() {
                if tasks.is_empty() {
                    refused.get_or_insert(pipeline);
                }
                continue;
            }
            let (old_before, new_before) = self.samples(pipeline, &chosen).unwrap_or_default();
            let pipelines = &self.shared.pipelines;
            let started = pipelines.start_trial(pipeline, &chosen, &plugin, held_until_ms);
            match started.await {
                Ok(trial) => canaries.push(Canary {
                    pipeline: pipeline.clone(),
                    trial,
                    old_before,
                    new_before,
                    has_others: tasks.len() > chosen.len(),
                }),
                Err(error) => {
                    self.end_trials(deploy.id, &canaries).await;
                    return Err(error.into());
                }
            }
        }
        match (canaries.is_empty(), refused) {
            (false, _) => Ok(canaries),
            (true, Some(name)) => Err(pipeline::Error::NotRunning { name: name.clone() }.into()),
            (true, None) => Err(Error::NotUsed {
                name: deploy.plugin.clone(),
            }),
        }
    }

    /// Checks that each partition of a canary is one of a pipeline that uses the plugin: one that is mistyped would be
    /// left out, and the version tried out on less than was meant.
    pub(super) fn check_partitions(
        &self,
        plugin: &PluginName,
        partitions: &[u32],
    ) -> Result<(), Error> {
        let users = self.shared.pipelines.plugin_users(plugin);
        let counts = users
            .iter()
            .map(|spec| pipeline::task_count(spec, &self.shared.log));
        let Some(count) = counts.max() else {
            return Err(Error::NotUsed {
                name: plugin.clone(),
            });
        };
        let missing = partitions.iter().copied().filter(|it| *it >= count);
        let missing: Vec<u32> = missing.collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::NoCanaryPartition {
                name: plugin.clone(),
                missing,
                count,
            }),
        }
    }

    async fn watch_canary(
        &self,
        mut deploy: Deploy,
        canaries: Vec<Canary>,
        duration: Duration,
        mut stop: watch::Receiver<bool>,
    ) {
        let end = Instant::now() + duration;
        let verdict = loop {
            let is_over = Instant::now() >= end;
            let report = self.report(&canaries);
            if let Some(verdict) = self.verdict(&canaries, &report, is_over) {
                deploy.report = Some(Report::Canary(report));
                break verdict;
            }
            tokio::select! {
                () = tokio::time::sleep(TICK.min(end - Instant::now())) => {}
                _ = stop.wait_for(|stop| *stop) => {
                    deploy.report = Some(Report::Canary(report));
                    break Verdict::TakeBack("it was stopped before its time was over".to_owned());
                }
            }
        };
        let _change = self.shared.changes.lock().await;
        let (id, plugin) = (deploy.id, deploy.plugin.clone());
        let ended = match verdict {
            Verdict::Promote => {
                let promoted = self.roll_out(deploy).await;
                if promoted.is_err() {
                    self.end_trials(id, &canaries).await;
                }
                promoted.map(drop)
            }
            Verdict::TakeBack(reason) => {
                self.end_trials(id, &canaries).await;
                let ended = self.end(deploy, Outcome::RolledBack, Some(reason)).await;
                ended.map(drop)
            }
        };
        if let Err(error) = ended {
            tracing::error!(deploy = id, %plugin, %error, "the canary has not ended well");
        }
    }

    async fn end_trials(&self, id: u64, canaries: &[Canary]) {
        for Canary { pipeline, .. } in canaries {
            if let Err(error) = self.shared.pipelines.end_trial(pipeline).await {
                // It is not there any more.
                tracing::warn!(deploy = id, %pipeline, %error, "the pipeline of the canary could not be given the old version back");
            }
        }
    }

    /// What has been done so far.
    fn report(&self, canaries: &[Canary]) -> CanaryReport {
        let mut report = CanaryReport {
            old: Sample::default(),
            new: Sample::default(),
            held: 0,
        };
        for canary in canaries {
            report.held += canary.trial.held();
            let samples = self.samples(&canary.pipeline, &canary.trial.partitions);
            let Some((old, new)) = samples else {
                continue;
            };
            report.new.add_sample(new.since(canary.new_before));
            report.old.add_sample(match canary.has_others {
                true => old.since(canary.old_before),
                false => canary.new_before,
            });
        }
        report
    }

    /// Totals of the other tasks of a pipeline, and of those of some partitions.
    fn samples(&self, pipeline: &PipelineName, partitions: &[u32]) -> Option<(Sample, Sample)> {
        let tasks = self.shared.pipelines.totals_by_task(pipeline)?;
        let (mut old, mut new) = (Sample::default(), Sample::default());
        for (number, totals) in &tasks {
            match partitions.contains(number) {
                true => new.add(totals),
                false => old.add(totals),
            }
        }
        Some((old, new))
    }

    fn verdict(
        &self,
        canaries: &[Canary],
        report: &CanaryReport,
        is_over: bool,
    ) -> Option<Verdict> {
        for Canary {
            pipeline, trial, ..
        } in canaries
        {
            if let Some(error) = trial.failure() {
                return Some(Verdict::TakeBack(format!(
                    "a task of pipeline `{pipeline}` stopped: {error}"
                )));
            }
            if !self.shared.pipelines.is_trying(pipeline) {
                return Some(Verdict::TakeBack(format!(
                    "pipeline `{pipeline}` has failed, or was paused, restarted or deleted, meanwhile"
                )));
            }
        }
        judge(report, is_over)
    }
}

/// What is to be done about a canary; `None` before its time is over, unless it fails decisively.
fn judge(report: &CanaryReport, is_over: bool) -> Option<Verdict> {
    let CanaryReport { old, new, .. } = report;
    let (old_rate, new_rate) = (old.failure_rate(), new.failure_rate());
    let rates = format!(
        "{} failures in {} records, and {} in {} with the old version",
        new.failures, new.records, old.failures, old.records
    );
    if new.failures >= DECISIVE_FAILURES && new_rate > 5.0 * old_rate + 0.05 {
        return Some(Verdict::TakeBack(rates));
    }
    if !is_over {
        return None;
    }
    let are_comparable = old.records.min(new.records) >= COMPARABLE_RECORDS;
    Some(if new.records == 0 {
        Verdict::TakeBack("no record came to its partitions, so nothing is known of it".to_owned())
    } else if new_rate > 1.5 * old_rate + 0.001 {
        Verdict::TakeBack(rates)
    } else if are_comparable && new.record_ns() > 2.0 * old.record_ns() + 1_000.0 {
        Verdict::TakeBack(format!(
            "it takes {:.0} ns a record, and the old version {:.0} ns",
            new.record_ns(),
            old.record_ns()
        ))
    } else {
        Verdict::Promote
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(records: u64, failures: u64, record_ns: u64) -> Sample {
        Sample {
            records,
            failures,
            time_ns: records * record_ns,
        }
    }

    fn judged(old: Sample, new: Sample, is_over: bool) -> Option<bool> {
        let report = CanaryReport { old, new, held: 0 };
        judge(&report, is_over).map(|verdict| verdict == Verdict::Promote)
    }

    #[test]
    fn a_canary_that_does_as_well_is_promoted_when_its_time_is_over() {
        let (old, new) = (sample(9_000, 9, 500), sample(3_000, 3, 600));
        assert_eq!(judged(old, new, false), None);
        assert_eq!(judged(old, new, true), Some(true));
        // As often as before is no reason, however often.
        assert_eq!(
            judged(sample(100, 90, 1), sample(100, 95, 1), true),
            Some(true)
        );
    }

    #[test]
    fn a_canary_that_fails_decisively_is_taken_back_at_once() {
        let old = sample(9_000, 0, 500);
        assert_eq!(judged(old, sample(9, 9, 500), false), None);
        assert_eq!(judged(old, sample(20, 10, 500), false), Some(false));
        assert_eq!(judged(old, sample(1_000, 10, 500), false), None);
        assert_eq!(judged(old, sample(1_000, 10, 500), true), Some(false));
    }

    #[test]
    fn a_canary_that_is_slow_or_unproved_is_taken_back() {
        let old = sample(9_000, 0, 1_000);
        assert_eq!(judged(old, sample(1_000, 0, 4_000), true), Some(false));
        assert_eq!(judged(old, sample(1_000, 0, 2_500), true), Some(true));
        assert_eq!(judged(old, sample(900, 0, 4_000), true), Some(true));
        assert_eq!(judged(old, sample(0, 0, 0), true), Some(false));
    }
}
