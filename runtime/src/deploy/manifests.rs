//! Applies manifests, starts them again after a restart, and pauses, resumes and deletes their pipelines.

use std::path::Path;

use super::error::unknown_version;
use super::records::{self, AppliedManifest};
use super::{Deployments, Error};
use crate::manifest::{self, ResolvedManifest};
use crate::model::{PipelineName, PluginName};
use crate::pipeline::{self, Applied, Plugins, Refusal};
use crate::storage::Commit;

/// A manifest that could not be started again.
#[derive(Debug)]
pub struct NotRestored {
    /// Its name.
    pub manifest: String,
    /// Why.
    pub error: Error,
}

/// A manifest that has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestView {
    /// Its name.
    pub name: String,
    /// What is remembered of it.
    pub applied: AppliedManifest,
    /// Its pipelines that run, or would if they were not paused or had not failed.
    pub pipelines: Vec<PipelineName>,
}

impl Deployments {
    /// Starts everything that was applied, or only makes it known where no pipelines run; to be called once. A
    /// manifest that cannot be started is told, and keeps no other from it.
    ///
    /// # Errors
    /// What was applied cannot be read.
    pub async fn restore(&self) -> Result<Vec<NotRestored>, Error> {
        let this = self.clone();
        self.to_its_end(async move { this.restore_now().await })
            .await
    }

    async fn restore_now(&self) -> Result<Vec<NotRestored>, Error> {
        let _change = self.shared.changes.lock().await;
        fail::fail_point!("deploy::restore");
        let mut not_restored = Vec::new();
        for (name, applied) in records::manifests(&self.shared.store)? {
            if let Err(error) = self.restore_manifest(&name, &applied).await {
                tracing::error!(manifest = name, %error, "the manifest could not be started again");
                not_restored.push(NotRestored {
                    manifest: name,
                    error,
                });
            }
        }
        Ok(not_restored)
    }

    async fn restore_manifest(&self, name: &str, applied: &AppliedManifest) -> Result<(), Error> {
        let mut manifest = resolve(name, &applied.text)?;
        manifest
            .pipelines
            .retain(|spec| !applied.removed.contains(&spec.name));
        if manifest.pipelines.is_empty() && !applied.removed.is_empty() {
            // The process ended between the deletion of its last pipeline and its own.
            return match self.shared.only_looks {
                true => Ok(()),
                false => self.forget(name).await,
            };
        }
        let plugins = self.plugins_of(&manifest, |name| {
            // Only the pipelines of this plugin do not run then.
            self.current(name).map_err(|error| refusal(name, &error))
        });
        // What a rollback has left half done waits for it to be run again.
        let held = [self.half_restored()?, applied.paused.clone()].concat();
        let pipelines = &self.shared.pipelines;
        match pipelines.is_offline() {
            // A command that only looks must not bring back topics that have been deleted.
            true => pipelines.make_known(&manifest, &plugins, &held).await,
            false => drop(pipelines.apply_paused(&manifest, &plugins, &held).await?),
        }
        Ok(())
    }

    /// Makes the pipelines of a manifest run, as [`Pipelines::apply`](crate::pipeline::Pipelines::apply) does, and
    /// remembers it: they run again after a restart. The plugins are those that were uploaded under the names
    /// of `[plugins.NAME]`. `by` is the name of the token with which it was asked for.
    ///
    /// # Errors
    /// [`Error::Manifest`] if it is wrong, or a plugin was not uploaded; [`Error::Pipeline`] if it does not go with
    /// what runs. Nothing is remembered then, and the pipelines are as before.
    pub async fn apply(&self, text: &str, by: Option<String>) -> Result<Applied, Error> {
        let (this, text) = (self.clone(), text.to_owned());
        self.to_its_end(async move { this.apply_now(text, by).await })
            .await
    }

    async fn apply_now(&self, text: String, by: Option<String>) -> Result<Applied, Error> {
        let _change = self.shared.changes.lock().await;
        let manifest = resolve("manifest", &text)?;
        self.check_uploaded(&manifest)?;
        for spec in &manifest.pipelines {
            self.check_whole(&spec.name)?;
        }
        for spec in &manifest.plugins {
            self.check_not_under_way(&spec.name)?;
        }
        let mut loaded = Vec::new();
        for spec in &manifest.plugins {
            loaded.push((spec.name.clone(), Ok(self.current(&spec.name)?)));
        }
        let plugins = Plugins::loaded(&self.shared.engine, loaded);
        let earlier = records::manifest(&self.shared.store, &manifest.name)?;
        let mut paused = earlier.map(|earlier| earlier.paused).unwrap_or_default();
        paused.retain(|name| manifest.pipeline(name.as_str()).is_some());
        let applied = self
            .shared
            .pipelines
            .apply_paused(&manifest, &plugins, &paused)
            .await?;
        fail::fail_point!("deploy::before-manifest-record");
        self.remember(
            &manifest.name,
            AppliedManifest {
                text,
                applied_at_ms: self.now_ms(),
                applied_by: by,
                paused,
                removed: Vec::new(),
            },
        )
        .await?;
        Ok(applied)
    }

    /// Checks that all plugins of a manifest were uploaded.
    fn check_uploaded(&self, manifest: &ResolvedManifest) -> Result<(), Error> {
        let mut problems = Vec::new();
        for spec in &manifest.plugins {
            if records::plugin(&self.shared.store, &spec.name)?.is_none() {
                let name = &spec.name;
                let message = format!("plugin `{name}` was not uploaded");
                let help = format!(
                    "upload its component first: `millstream plugin upload {name} FILE.wasm`, or `cargo xtask deploy-plugin DIR` to build it, too"
                );
                problems.push(manifest.problem(&spec.place, message).with_help(help));
            }
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(manifest::Error::Invalid(problems).into()),
        }
    }

    fn plugins_of(
        &self,
        manifest: &ResolvedManifest,
        load: impl Fn(&PluginName) -> Result<crate::plugin::Plugin, Refusal>,
    ) -> Plugins {
        let plugins = manifest.plugins.iter();
        let loaded = plugins.map(|spec| (spec.name.clone(), load(&spec.name)));
        Plugins::loaded(&self.shared.engine, loaded)
    }

    /// The current version of a plugin, if it may run.
    pub(super) fn current(&self, name: &PluginName) -> Result<crate::plugin::Plugin, Error> {
        let stored = self.stored_plugin(name)?;
        let version = stored.version(&stored.current);
        let version = version.ok_or_else(|| unknown_version(name, &stored.current))?;
        self.check_signed(name, version)?;
        self.load(name, &stored.current)
    }

    /// All manifests that have been applied, by name.
    pub fn manifests(&self) -> Result<Vec<ManifestView>, Error> {
        let manifests = records::manifests(&self.shared.store)?.into_iter();
        Ok(manifests
            .map(|(name, applied)| ManifestView {
                pipelines: self.shared.pipelines.names_of(&name),
                name,
                applied,
            })
            .collect())
    }

    /// Ends a pipeline's tasks at their next batch boundary, until it is resumed, also over restarts.
    ///
    /// # Errors
    /// [`Error::Pipeline`] if there is none of this name.
    pub async fn pause(&self, name: &PipelineName) -> Result<(), Error> {
        let (this, name) = (self.clone(), name.clone());
        self.to_its_end(async move {
            let _change = this.shared.changes.lock().await;
            this.shared.pipelines.pause(&name).await?;
            this.note(&name, |applied| {
                if !applied.paused.contains(&name) {
                    applied.paused.push(name.clone());
                }
            })
            .await
        })
        .await
    }

    /// Starts a pipeline that is paused or has failed, at the position that it has.
    ///
    /// # Errors
    /// [`Error::Pipeline`] if there is none of this name, or it cannot be started; [`Error::RollbackUnfinished`]
    pub async fn resume(&self, name: &PipelineName) -> Result<(), Error> {
        let (this, name) = (self.clone(), name.clone());
        self.to_its_end(async move {
            let _change = this.shared.changes.lock().await;
            this.check_whole(&name)?;
            this.shared.pipelines.resume(&name).await?;
            this.note(&name, |applied| applied.paused.retain(|it| *it != name))
                .await
        })
        .await
    }

    /// Stops a pipeline and takes it out of its manifest, as far as this server is concerned. With
    /// `delete_data` its state, timers, parked records, consumer group and registry entry are deleted, too;
    /// without, it goes on where it has stopped if a manifest with it is applied again.
    ///
    /// # Errors
    /// [`Error::Pipeline`] if there is none of this name.
    pub async fn delete_pipeline(
        &self,
        name: &PipelineName,
        delete_data: bool,
    ) -> Result<(), Error> {
        let (this, name) = (self.clone(), name.clone());
        self.to_its_end(async move {
            let _change = this.shared.changes.lock().await;
            let manifest = this.shared.pipelines.manifest_of(&name);
            // First what is remembered: a pipeline whose data is half deleted must not start again.
            if let Some(manifest) = &manifest {
                this.note_of(manifest, |applied| {
                    applied.paused.retain(|it| *it != name);
                    // The first attempt may have failed after it was noted.
                    if !applied.removed.contains(&name) {
                        applied.removed.push(name.clone());
                    }
                })
                .await?;
            }
            let is_half_restored = delete_data
                && matches!(
                    this.check_whole(&name),
                    Err(Error::RollbackUnfinished { .. })
                );
            match this.shared.pipelines.remove(&name, delete_data).await {
                // The process ended after its data were deleted: this is the second attempt.
                Err(pipeline::Error::NotApplied { .. }) if is_half_restored => {}
                removed => removed?,
            }
            if delete_data {
                this.forget_half_restored(&name).await?;
            }
            match manifest {
                Some(manifest) if this.shared.pipelines.names_of(&manifest).is_empty() => {
                    this.forget(&manifest).await
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// Stops all pipelines of a manifest and forgets it; their state and positions are kept. Returns the
    /// pipelines.
    ///
    /// # Errors
    /// [`Error::UnknownManifest`]
    pub async fn delete_manifest(&self, name: &str) -> Result<Vec<PipelineName>, Error> {
        let (this, name) = (self.clone(), name.to_owned());
        self.to_its_end(async move {
            let _change = this.shared.changes.lock().await;
            if records::manifest(&this.shared.store, &name)?.is_none() {
                return Err(this.unknown_manifest(name)?);
            }
            this.forget(&name).await?;
            Ok(this.shared.pipelines.remove_manifest(&name).await)
        })
        .await
    }

    fn unknown_manifest(&self, name: String) -> Result<Error, Error> {
        let known = records::manifests(&self.shared.store)?;
        let known: Vec<String> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
        let hint = match known.is_empty() {
            true => String::new(),
            false => format!("; there are {}", known.join(", ")),
        };
        Ok(Error::UnknownManifest { name, hint })
    }

    /// Changes what is remembered of the manifest of a pipeline.
    async fn note(
        &self,
        name: &PipelineName,
        change: impl FnOnce(&mut AppliedManifest),
    ) -> Result<(), Error> {
        match self.shared.pipelines.manifest_of(name) {
            Some(manifest) => self.note_of(&manifest, change).await,
            None => Ok(()),
        }
    }

    async fn note_of(
        &self,
        manifest: &str,
        change: impl FnOnce(&mut AppliedManifest),
    ) -> Result<(), Error> {
        let Some(mut applied) = records::manifest(&self.shared.store, manifest)? else {
            return Ok(());
        };
        change(&mut applied);
        self.remember(manifest, applied).await
    }

    async fn remember(&self, manifest: &str, applied: AppliedManifest) -> Result<(), Error> {
        let mut commit = Commit::new();
        records::put_manifest(&mut commit, manifest, &applied)?;
        self.shared.store.commit(commit).await?;
        Ok(())
    }

    async fn forget(&self, manifest: &str) -> Result<(), Error> {
        let mut commit = Commit::new();
        records::delete_manifest(&mut commit, manifest);
        self.shared.store.commit(commit).await?;
        Ok(())
    }
}

/// Why an uploaded plugin does not run.
pub(super) fn refusal(name: &PluginName, error: &Error) -> Refusal {
    Refusal::Unreadable {
        path: format!("the uploaded plugin `{name}`"),
        reason: error.to_string(),
    }
}

/// Reads a manifest whose plugins are uploaded ones. `name` stands in messages.
pub(super) fn resolve(name: &str, text: &str) -> Result<ResolvedManifest, Error> {
    Ok(manifest::resolve_uploaded(Path::new(name), text)?)
}
