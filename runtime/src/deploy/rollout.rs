//! Makes another version of a plugin current, and gives it to the pipelines that run.

use std::time::Duration;

use super::error::unknown_version;
use super::manifests::refusal;
use super::records::{self, Deploy, Mode, Outcome, StoredPlugin};
use super::{Deployments, Error};
use crate::model::{PipelineName, PluginName};
use crate::pipeline::{self, Refusal};
use crate::plugin::{Digest, Plugin};
use crate::storage::Commit;

impl Deployments {
    /// Makes a version of a plugin current, and gives it to all pipelines that use the plugin, task by task.
    /// `by` is the name of the token with which it was asked for. Returns when it has ended; a canary or a shadow
    /// when it has begun ([`wait_for`](Self::wait_for)), or, where no pipelines run, when it is noted that it waits for a
    /// server.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`], [`Error::UnknownVersion`], [`Error::UnderWay`], [`Error::Waiting`],
    /// [`Error::UnsignedPlugin`], [`Error::UntrustedSignature`]; [`Error::DeployFailed`] if the version cannot run in one
    /// of the pipelines: then all of them run what they ran before. [`Error::NoCanaryPartition`], [`Error::NotUsed`] of a
    /// canary or a shadow, [`Error::IsCurrent`] of a canary.
    pub async fn deploy(
        &self,
        name: &PluginName,
        digest: &Digest,
        mode: Mode,
        by: Option<String>,
    ) -> Result<Deploy, Error> {
        self.deploy_checked(name, digest, mode, by, None).await
    }

    /// As [`deploy`](Self::deploy), for a manifest: pipelines of others get no other version by it.
    ///
    /// # Errors
    /// As [`deploy`](Self::deploy); [`Error::PluginOfOthers`]
    pub async fn deploy_for_manifest(
        &self,
        manifest: &str,
        name: &PluginName,
        digest: &Digest,
        mode: Mode,
        by: Option<String>,
    ) -> Result<Deploy, Error> {
        let manifest = Some(manifest.to_owned());
        self.deploy_checked(name, digest, mode, by, manifest).await
    }

    async fn deploy_checked(
        &self,
        name: &PluginName,
        digest: &Digest,
        mode: Mode,
        by: Option<String>,
        manifest: Option<String>,
    ) -> Result<Deploy, Error> {
        let is_trial = matches!(mode, Mode::Canary { .. } | Mode::Shadow { .. });
        let waits = is_trial && self.shared.pipelines.is_offline();
        let (this, name, digest) = (self.clone(), name.clone(), digest.clone());
        self.to_its_end(async move {
            let _change = this.shared.changes.lock().await;
            if let Some(manifest) = manifest {
                this.check_for_manifest(&manifest, &name, &digest)?;
            }
            if waits {
                return this.postpone(&name, digest, mode, by).await;
            }
            let deploy = this.begin(&name, digest, mode, by).await?;
            this.carry_out(deploy).await
        })
        .await
    }

    /// Does what a deploy that has begun is about.
    pub(super) async fn carry_out(&self, deploy: Deploy) -> Result<Deploy, Error> {
        match deploy.mode.clone() {
            Mode::All | Mode::Rollback { .. } => self.roll_out(deploy).await,
            Mode::Canary {
                partitions,
                duration_ms,
            } => {
                let duration = Duration::from_millis(duration_ms);
                self.start_canary(deploy, &partitions, duration).await
            }
            Mode::Shadow { duration_ms } => {
                let duration = Duration::from_millis(duration_ms);
                self.start_shadow(deploy, duration).await
            }
        }
    }

    /// Makes the version current again that was so before the last deploy of another one, and gives it to all
    /// pipelines that use the plugin. Their state and positions stay as they are.
    ///
    /// # Errors
    /// As [`deploy`](Self::deploy); [`Error::NoEarlierVersion`]
    pub async fn rollback(&self, name: &PluginName, by: Option<String>) -> Result<Deploy, Error> {
        let (this, name) = (self.clone(), name.clone());
        self.to_its_end(async move {
            let _change = this.shared.changes.lock().await;
            let current = this.stored_plugin(&name)?.current;
            let earlier = this.earlier_version(&name, &current)?;
            let earlier = earlier.ok_or_else(|| Error::NoEarlierVersion { name: name.clone() })?;
            let deploy = this
                .begin(&name, earlier, Mode::Rollback { restores: None }, by)
                .await?;
            this.roll_out(deploy).await
        })
        .await
    }

    /// What was deployed, the newest first.
    pub fn deploys(&self) -> Result<Vec<Deploy>, Error> {
        let mut deploys = records::deploys(&self.shared.store)?;
        deploys.reverse();
        Ok(deploys)
    }

    /// One deploy.
    ///
    /// # Errors
    /// [`Error::UnknownDeploy`]
    pub fn deploy_of(&self, id: u64) -> Result<Deploy, Error> {
        records::deploy(&self.shared.store, id)?.ok_or(Error::UnknownDeploy { id })
    }

    /// The version that was current before the last deploy that made this one so, if it is kept.
    pub(super) fn earlier_version(
        &self,
        name: &PluginName,
        current: &Digest,
    ) -> Result<Option<Digest>, Error> {
        let Some(mut stored) = records::plugin(&self.shared.store, name)? else {
            return Ok(None);
        };
        stored.current = current.clone();
        let found = self.last_deploy_of(name, &stored)?;
        Ok(found.map(|(_, earlier)| earlier))
    }

    /// The last deploy that made the current version so, and the version that was so before, if it is kept.
    pub(super) fn last_deploy_of(
        &self,
        name: &PluginName,
        stored: &StoredPlugin,
    ) -> Result<Option<(u64, Digest)>, Error> {
        let deploys = records::deploys(&self.shared.store)?;
        let found = deploys.iter().rev().find_map(|deploy| {
            let is_it = deploy.plugin == *name
                && deploy.outcome == Outcome::Succeeded
                && !matches!(deploy.mode, Mode::Rollback { .. })
                && deploy.to == stored.current;
            let from = deploy.from.as_ref().filter(|from| **from != deploy.to)?;
            is_it.then(|| (deploy.id, from.clone()))
        });
        Ok(found.filter(|(_, earlier)| stored.version(earlier).is_some()))
    }

    /// Notes that a deploy begins.
    pub(super) async fn begin(
        &self,
        name: &PluginName,
        to: Digest,
        mode: Mode,
        by: Option<String>,
    ) -> Result<Deploy, Error> {
        let deploy = self.new_deploy(name, to, mode, by, Outcome::Running)?;
        self.note_new(&deploy).await?;
        // To deploy the same again changes nothing that could be taken back, and the checkpoints of what did are few.
        if deploy.from.as_ref() != Some(&deploy.to) {
            self.take_checkpoint(&deploy);
        }
        tracing::info!(deploy = deploy.id, plugin = %name, to = %deploy.to, by = deploy.by, "deploying");
        Ok(deploy)
    }

    /// A deploy that may begin, and that is noted nowhere yet.
    pub(super) fn new_deploy(
        &self,
        name: &PluginName,
        to: Digest,
        mode: Mode,
        by: Option<String>,
        outcome: Outcome,
    ) -> Result<Deploy, Error> {
        self.check_not_under_way(name)?;
        if !matches!(mode, Mode::Rollback { restores: Some(_) }) {
            self.check_plugin_whole(name)?;
        }
        let stored = self.stored_plugin(name)?;
        let version = stored.version(&to);
        let version = version.ok_or_else(|| unknown_version(name, &to))?;
        self.check_signed(name, version)?;
        if matches!(mode, Mode::Canary { .. }) && stored.current == to {
            return Err(Error::IsCurrent {
                name: name.clone(),
                digest: to,
            });
        }
        let signer = version.signer();
        Ok(Deploy {
            id: self.next_deploy_id(),
            plugin: name.clone(),
            from: Some(stored.current),
            to,
            started_at_ms: self.now_ms(),
            ended_at_ms: None,
            by,
            signer,
            mode,
            outcome,
            reason: None,
            pipelines: self.users(name),
            report: None,
            is_restoring: false,
        })
    }

    /// Stores a new deploy, in the place of one that is too old.
    pub(super) async fn note_new(&self, deploy: &Deploy) -> Result<(), Error> {
        let mut commit = Commit::new();
        records::drop_old_deploys(&self.shared.store, &mut commit, deploy.id)?;
        records::put_deploy(&mut commit, deploy)?;
        self.shared.store.commit(commit).await?;
        Ok(())
    }

    /// Gives the new version to all pipelines and makes it current; or, if one cannot run it, to none.
    pub(super) async fn roll_out(&self, deploy: Deploy) -> Result<Deploy, Error> {
        let swapped = self.swap_all(&deploy).await;
        fail::fail_point!("deploy::swapped");
        match swapped {
            Ok(()) => self.end(deploy, Outcome::Succeeded, None).await,
            Err(error) => self.fail(deploy, error).await,
        }
    }

    /// Ends a deploy of which nothing has come.
    pub(super) async fn fail(&self, deploy: Deploy, error: Error) -> Result<Deploy, Error> {
        let (id, name) = (deploy.id, deploy.plugin.clone());
        self.end(deploy, Outcome::Failed, Some(error.to_string()))
            .await?;
        Err(match error {
            Error::Pipeline(source) => Error::DeployFailed {
                id,
                name,
                source: Box::new(source),
            },
            other => other,
        })
    }

    async fn swap_all(&self, deploy: &Deploy) -> Result<(), Error> {
        check_kept(&self.stored_plugin(&deploy.plugin)?, deploy)?;
        let to = self.load(&deploy.plugin, &deploy.to)?;
        // Before anything has changed: it may have to be taken back.
        let before = self.version_before(&deploy.plugin)?;
        let mut done = Vec::new();
        for pipeline in &deploy.pipelines {
            match self.shared.pipelines.swap(pipeline, None, &to).await {
                Ok(swapped) => {
                    let partitions = swapped.partitions.len();
                    tracing::info!(deploy = deploy.id, %pipeline, partitions, "swapped");
                    done.push(pipeline);
                }
                // It has been deleted meanwhile.
                Err(pipeline::Error::NotApplied { .. }) => {}
                Err(error) => {
                    self.take_back(deploy.id, &done, &before).await;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// What pipelines run until a deploy has succeeded: the current version; or why there is none that they may run, or
    /// could.
    fn version_before(&self, name: &PluginName) -> Result<Result<Plugin, Refusal>, Error> {
        let error = match self.current(name) {
            Ok(plugin) => return Ok(Ok(plugin)),
            Err(error) => error,
        };
        let may_not_run = matches!(
            error,
            Error::UnsignedPlugin { .. } | Error::UntrustedSignature { .. }
        );
        if !may_not_run {
            // Its component cannot be read now. Pipelines that run have it in memory.
            let current = self.stored_plugin(name)?.current;
            if let Some(plugin) = self.shared.loaded.lock().get(&current) {
                return Ok(Ok(plugin.clone()));
            }
        }
        Ok(Err(refusal(name, &error)))
    }

    /// Gives pipelines the version before again; where there is none that may run, or can be loaded, they stop, as they
    /// were before.
    async fn take_back(
        &self,
        id: u64,
        pipelines: &[&PipelineName],
        before: &Result<Plugin, Refusal>,
    ) {
        let running = &self.shared.pipelines;
        for pipeline in pipelines {
            let taken_back = match before {
                Ok(plugin) => match running.swap(pipeline, None, plugin).await {
                    // No task may stay with the version that has failed.
                    Err(
                        pipeline::Error::SwapFailed { .. } | pipeline::Error::CannotOpen { .. },
                    ) => running.restart(pipeline, plugin).await,
                    swapped => swapped.map(drop),
                },
                Err(refusal) => running.refuse(pipeline, refusal.clone()).await,
            };
            if let Err(error) = taken_back {
                tracing::error!(deploy = id, %pipeline, %error, "the pipeline could not be given its old version back");
            }
        }
    }

    /// Notes how a deploy has ended; one that has succeeded makes its version current in the same commit.
    ///
    /// # Errors
    /// [`Error::UnknownVersion`]: the version is not kept any more, so that it cannot become current.
    pub(super) async fn end(
        &self,
        mut deploy: Deploy,
        outcome: Outcome,
        reason: Option<String>,
    ) -> Result<Deploy, Error> {
        deploy.outcome = outcome;
        deploy.reason = reason;
        deploy.ended_at_ms = Some(self.now_ms());
        let mut commit = Commit::new();
        records::put_deploy(&mut commit, &deploy)?;
        if outcome == Outcome::Succeeded {
            self.finish_earlier(&mut commit, &deploy)?;
            let mut stored = self.stored_plugin(&deploy.plugin)?;
            check_kept(&stored, &deploy)?;
            stored.current = deploy.to.clone();
            records::put_plugin(&mut commit, &deploy.plugin, &stored)?;
        }
        self.shared.store.commit(commit).await?;
        self.tidy_checkpoints(&deploy);
        // First: whoever hears that it has ended may begin the next one.
        self.no_longer_under_way(&deploy);
        self.shared.ended.send_modify(|count| *count += 1);
        fail::fail_point!("deploy::ended");
        tracing::info!(deploy = deploy.id, plugin = %deploy.plugin, outcome = deploy.outcome.as_str(), reason = deploy.reason, "the deploy has ended");
        // Who deploys may want to go back soon.
        let kept: Vec<&Digest> = deploy.from.iter().chain([&deploy.to]).collect();
        self.unload_others(&kept)?;
        Ok(deploy)
    }

    /// Ends the deploys that were under way when the process ended: the version before runs.
    pub(super) async fn end_interrupted(&self) -> Result<(), Error> {
        for deploy in records::deploys(&self.shared.store)? {
            if deploy.outcome != Outcome::Running {
                continue;
            }
            if let Mode::Rollback {
                restores: Some(id), ..
            } = deploy.mode
                && deploy.is_restoring
            {
                if let Err(error) = self.restore_state(deploy.clone(), id).await {
                    match self.leave_unfinished(deploy, error).await {
                        // It is noted, and everything else can be done.
                        Error::RollbackUnfinished { .. } => {}
                        error => return Err(error),
                    }
                }
            } else {
                let reason = "the process ended before the deploy did".to_owned();
                self.end(deploy, Outcome::Interrupted, Some(reason)).await?;
            }
        }
        Ok(())
    }
}

/// Checks that the version that is to become current is one that is kept: no other could be started again.
fn check_kept(stored: &StoredPlugin, deploy: &Deploy) -> Result<(), Error> {
    match stored.version(&deploy.to) {
        Some(_) => Ok(()),
        None => Err(unknown_version(&deploy.plugin, &deploy.to)),
    }
}
