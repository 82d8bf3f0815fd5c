//! Canaries and shadows that were asked for where no pipelines run: they need records that are processed meanwhile, so
//! they wait, and the next server begins them when its pipelines run, each for its whole time.
//!
//! One that waits is its plugin's deploy under way: no other one begins, no manifest with the plugin is applied, and its
//! version is kept. What it waits with is its record, and nothing else: it takes its checkpoint when it begins.

use std::sync::atomic::Ordering;

use super::error::unknown_version;
use super::records::{self, Deploy, Mode, Outcome};
use super::{Deployments, Error};
use crate::model::PluginName;
use crate::pipeline::{self, check_fit, check_shadow};
use crate::plugin::Digest;
use crate::storage::Commit;

impl Deployments {
    /// Notes a canary or a shadow that is to begin with the next server. One that could not begin with the pipelines that
    /// there are has failed.
    pub(super) async fn postpone(
        &self,
        name: &PluginName,
        to: Digest,
        mode: Mode,
        by: Option<String>,
    ) -> Result<Deploy, Error> {
        let deploy = self.new_deploy(name, to, mode, by, Outcome::Waiting)?;
        self.note_new(&deploy).await?;
        match self.check_trial(&deploy) {
            Ok(()) => Ok(deploy),
            Err(error) => self.fail(deploy, error).await,
        }
    }

    /// Checks what can be known about a trial before pipelines run.
    fn check_trial(&self, deploy: &Deploy) -> Result<(), Error> {
        let name = &deploy.plugin;
        let plugin = self.load(name, &deploy.to)?;
        let users = self.shared.pipelines.plugin_users(name);
        let Mode::Canary { partitions, .. } = &deploy.mode else {
            if users.is_empty() {
                return Err(Error::NotUsed { name: name.clone() });
            }
            let mut users = users.iter();
            return Ok(users.try_for_each(|spec| check_shadow(spec, &plugin))?);
        };
        self.check_partitions(name, partitions)?;
        for spec in &users {
            check_fit(spec, &plugin).map_err(|refusal| pipeline::Error::Refused {
                name: spec.name.clone(),
                plugin: spec.plugin.clone(),
                refusal,
            })?;
        }
        Ok(())
    }

    /// Begins the canaries and shadows that wait; to be called once, when what was applied runs. One that cannot begin has
    /// failed, and its record says why.
    pub async fn begin_waiting(&self) {
        let this = self.clone();
        let begun = self.to_its_end(async move {
            for deploy in records::deploys(&this.shared.store)? {
                if deploy.outcome == Outcome::Waiting {
                    this.begin_one(deploy.id).await?;
                }
            }
            Ok(())
        });
        if let Err(error) = begun.await {
            tracing::error!(%error, "canaries and shadows that wait could not be begun; they wait for the next start");
        }
    }

    async fn begin_one(&self, id: u64) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        // It may have been withdrawn meanwhile; and what would be ended at once had better wait.
        let deploy = records::deploy(&self.shared.store, id)?;
        let waiting = deploy.filter(|deploy| deploy.outcome == Outcome::Waiting);
        let (Some(deploy), false) = (waiting, self.shared.is_stopping.load(Ordering::Acquire))
        else {
            return Ok(());
        };
        let name = deploy.plugin.clone();
        if let Err(error) = self.begin_trial(deploy).await {
            // Its record says so, unless nothing can be written.
            tracing::warn!(deploy = id, plugin = %name, %error, "the deploy that waited for the server could not begin");
        }
        Ok(())
    }

    async fn begin_trial(&self, mut deploy: Deploy) -> Result<Deploy, Error> {
        let current = match self.check_may_begin(&deploy) {
            Ok(current) => current,
            Err(error) => return self.fail(deploy, error).await,
        };
        deploy.from = Some(current);
        deploy.pipelines = self.users(&deploy.plugin);
        deploy.started_at_ms = self.now_ms();
        deploy.outcome = Outcome::Running;
        let mut commit = Commit::new();
        records::put_deploy(&mut commit, &deploy)?;
        self.shared.store.commit(commit).await?;
        self.take_checkpoint(&deploy);
        tracing::info!(deploy = deploy.id, plugin = %deploy.plugin, to = %deploy.to, by = deploy.by, "deploying what has waited for the server");
        self.carry_out(deploy).await
    }

    /// Checks again what may be different since it was noted: whose signatures count, and what a restored backup has.
    /// Returns the current version.
    fn check_may_begin(&self, deploy: &Deploy) -> Result<Digest, Error> {
        let name = &deploy.plugin;
        self.check_plugin_whole(name)?;
        let stored = self.stored_plugin(name)?;
        let version = stored.version(&deploy.to);
        let version = version.ok_or_else(|| unknown_version(name, &deploy.to))?;
        self.check_signed(name, version)?;
        Ok(stored.current)
    }

    /// Checks that no canary or shadow of a plugin waits.
    pub(super) fn check_not_waiting(&self, name: &PluginName) -> Result<(), Error> {
        let mut deploys = records::deploys(&self.shared.store)?.into_iter();
        let waits = |it: &Deploy| it.outcome == Outcome::Waiting && it.plugin == *name;
        match deploys.find(waits) {
            Some(deploy) => Err(Error::Waiting {
                name: deploy.plugin,
                id: deploy.id,
            }),
            None => Ok(()),
        }
    }

    /// Ends a deploy that has not begun. Returns `None` if it has, and is under way by then, or has ended.
    pub(super) async fn withdraw(&self, id: u64) -> Result<Option<Deploy>, Error> {
        let this = self.clone();
        self.to_its_end(async move {
            let _change = this.shared.changes.lock().await;
            let deploy = this.deploy_of(id)?;
            if deploy.outcome != Outcome::Waiting {
                return Ok(None);
            }
            let reason = "it was stopped before a server began it".to_owned();
            let ended = this.end(deploy, Outcome::Withdrawn, Some(reason)).await?;
            Ok(Some(ended))
        })
        .await
    }
}
