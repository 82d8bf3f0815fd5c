//! Uploads plugins, lists them and deletes them.

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::block_in_place;

use super::error::unknown_version;
use super::records::{self, Deploy, Mode, Outcome, StoredPlugin};
use super::{Deployments, Error, PluginVersion};
use crate::model::{PipelineName, PluginName};
use crate::pipeline::Refusal;
use crate::plugin::{Difference, Digest, ImportedInterface, Plugin, Signature};
use crate::storage::Commit;

/// Versions of a plugin that are kept; the oldest go first, but never the current one, nor one that is being deployed.
const KEPT_VERSIONS: usize = 20;

/// A plugin that was uploaded.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// Its name.
    pub name: PluginName,
    /// The version that was uploaded.
    pub version: PluginVersion,
    /// Whether it was not there before.
    pub is_new: bool,
    /// Whether pipelines start with it: the first version of a plugin is current at once, later ones when they
    /// are deployed.
    pub is_current: bool,
    /// What it imports.
    pub imports: Vec<ImportedInterface>,
    /// What it exports.
    pub exports: Vec<String>,
    /// What is different about it to the current version, and what to do about that.
    pub differences: Vec<Difference>,
    /// The pipelines that use the plugin and could not run this version, and why.
    pub misfits: Vec<(PipelineName, Refusal)>,
}

/// A plugin with its versions.
#[derive(Clone, Debug)]
pub struct PluginView {
    /// Its name.
    pub name: PluginName,
    /// The version that pipelines start with.
    pub current: Digest,
    /// Its versions, in the order in which they were uploaded.
    pub versions: Vec<PluginVersion>,
    /// The pipelines that use it.
    pub used_by: Vec<PipelineName>,
}

/// What a version of a plugin imports and exports.
#[derive(Clone, Debug)]
pub struct VersionView {
    /// The version.
    pub version: PluginVersion,
    /// What it imports.
    pub imports: Vec<ImportedInterface>,
    /// What it exports.
    pub exports: Vec<String>,
    /// Whether it keeps state, or timers.
    pub keeps_state: bool,
}

impl Deployments {
    /// Keeps a component as a version of a plugin. Pipelines that run another version of it go on with that
    /// until this one is deployed ([`deploy`](Self::deploy)); the first version is current at once. `by` is
    /// the name of the token with which it was uploaded. A version that is there already gets the signature.
    ///
    /// # Errors
    /// [`Error::Plugin`] if it is no plugin, [`Error::UnsignedPlugin`], [`Error::UntrustedSignature`]; nothing is kept
    /// then.
    pub async fn upload(
        &self,
        name: &PluginName,
        wasm: Bytes,
        signature: Option<Signature>,
        by: Option<String>,
    ) -> Result<Uploaded, Error> {
        let (this, name) = (self.clone(), name.clone());
        // Here, where a request that is given up leaves nothing behind.
        let compiling = self.may_compile().await;
        self.to_its_end(async move { this.upload_now(&name, wasm, signature, by, compiling).await })
            .await
    }

    async fn upload_now(
        &self,
        name: &PluginName,
        wasm: Bytes,
        signature: Option<Signature>,
        by: Option<String>,
        compiling: Option<OwnedSemaphorePermit>,
    ) -> Result<Uploaded, Error> {
        let (plugin, signature) = block_in_place(|| {
            let digest = Digest::of(&wasm);
            let rules = &self.shared.signatures;
            // What is not trusted is not even compiled.
            let signature = rules.check_upload(name, &digest, signature, &wasm)?;
            let plugin = self.shared.engine.load(wasm.clone(), name.as_str())?;
            Ok::<_, Error>((plugin, signature))
        })?;
        drop(compiling);
        let signature = signature.map(|signature| signature.to_string());
        let _change = self.shared.changes.lock().await;
        self.keep_loaded(&plugin)?;
        block_in_place(|| self.shared.components.store(plugin.digest(), &wasm))?;
        let stored = records::plugin(&self.shared.store, name)?;
        let known = stored.as_ref().and_then(|it| it.version(plugin.digest()));
        let mut version = known.cloned().unwrap_or_else(|| PluginVersion {
            digest: plugin.digest().clone(),
            size_bytes: wasm.len() as u64,
            uploaded_at_ms: self.now_ms(),
            uploaded_by: by.clone(),
            signature: None,
        });
        let is_new = known.is_none();
        let is_signed_anew = signature.is_some() && signature != version.signature;
        if is_signed_anew {
            version.signature = signature;
        }
        let differences = match &stored {
            Some(stored) => plugin.differences_to(&self.load(name, &stored.current)?),
            None => Vec::new(),
        };
        let is_current = stored
            .as_ref()
            .is_none_or(|stored| stored.current == version.digest);
        match stored {
            Some(stored) if !is_new => {
                if is_signed_anew {
                    self.sign_version(name, stored, &version).await?;
                }
            }
            stored => self.add_version(name, stored, version.clone(), by).await?,
        }
        Ok(Uploaded {
            name: name.clone(),
            version,
            is_new,
            is_current,
            imports: plugin.imports().to_vec(),
            exports: plugin.exports().to_vec(),
            differences,
            misfits: self.misfits(name, &plugin),
        })
    }

    /// Notes the signature of a version that is there already.
    async fn sign_version(
        &self,
        name: &PluginName,
        mut stored: StoredPlugin,
        version: &PluginVersion,
    ) -> Result<(), Error> {
        for known in &mut stored.versions {
            if known.digest == version.digest {
                known.signature.clone_from(&version.signature);
            }
        }
        let mut commit = Commit::new();
        records::put_plugin(&mut commit, name, &stored)?;
        self.shared.store.commit(commit).await?;
        Ok(())
    }

    async fn add_version(
        &self,
        name: &PluginName,
        stored: Option<StoredPlugin>,
        version: PluginVersion,
        by: Option<String>,
    ) -> Result<(), Error> {
        let mut commit = Commit::new();
        let mut stored = match stored {
            Some(stored) => stored,
            None => {
                let now_ms = self.now_ms();
                let first = Deploy {
                    id: self.next_deploy_id(),
                    plugin: name.clone(),
                    from: None,
                    to: version.digest.clone(),
                    started_at_ms: now_ms,
                    ended_at_ms: Some(now_ms),
                    by,
                    signer: version.signer(),
                    mode: Mode::All,
                    outcome: Outcome::Succeeded,
                    reason: None,
                    pipelines: Vec::new(),
                    report: None,
                    is_restoring: false,
                };
                records::drop_old_deploys(&self.shared.store, &mut commit, first.id)?;
                records::put_deploy(&mut commit, &first)?;
                StoredPlugin {
                    current: version.digest.clone(),
                    versions: Vec::new(),
                }
            }
        };
        stored.versions.push(version);
        let surplus = self.drop_surplus(name, &mut stored)?;
        records::put_plugin(&mut commit, name, &stored)?;
        fail::fail_point!("deploy::before-upload-record");
        self.shared.store.commit(commit).await?;
        for digest in surplus {
            self.delete_component(&digest)?;
        }
        Ok(())
    }

    /// Takes the oldest versions out that are too many. Returns their digests.
    fn drop_surplus(
        &self,
        name: &PluginName,
        stored: &mut StoredPlugin,
    ) -> Result<Vec<Digest>, Error> {
        let earlier = self.earlier_version(name, &stored.current)?;
        let newest = stored.versions.last().map(|it| it.digest.clone());
        let under_way = records::versions_under_way(&self.shared.store, name)?;
        let mut dropped = Vec::new();
        let mut surplus = stored.versions.len().saturating_sub(KEPT_VERSIONS);
        stored.versions.retain(|version| {
            let digest = Some(&version.digest);
            let is_needed = version.digest == stored.current
                || digest == earlier.as_ref()
                || digest == newest.as_ref()
                || under_way.contains(&version.digest);
            if surplus == 0 || is_needed {
                return true;
            }
            surplus -= 1;
            dropped.push(version.digest.clone());
            false
        });
        Ok(dropped)
    }

    /// Deletes a component that no plugin has any more.
    fn delete_component(&self, digest: &Digest) -> Result<(), Error> {
        let plugins = records::plugins(&self.shared.store)?;
        let is_named = plugins.iter().any(|(_, it)| it.version(digest).is_some());
        if !is_named {
            self.shared.components.delete(digest);
        }
        Ok(())
    }

    /// The pipelines that use a plugin and could not run this version of it.
    fn misfits(&self, name: &PluginName, plugin: &Plugin) -> Vec<(PipelineName, Refusal)> {
        let users = self.shared.pipelines.plugin_users(name).into_iter();
        let misfit = users.filter_map(|spec| {
            let refusal = crate::pipeline::check_fit(&spec, plugin).err()?;
            Some((spec.name, refusal))
        });
        misfit.collect()
    }

    /// All plugins that were uploaded, by name.
    pub fn plugins(&self) -> Result<Vec<PluginView>, Error> {
        let plugins = records::plugins(&self.shared.store)?.into_iter();
        Ok(plugins
            .map(|(name, stored)| self.view(name, stored))
            .collect())
    }

    /// One plugin that was uploaded.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`]
    pub fn plugin(&self, name: &PluginName) -> Result<PluginView, Error> {
        Ok(self.view(name.clone(), self.stored_plugin(name)?))
    }

    /// What a version of a plugin imports and exports; of the current one without a digest. Compiles it, if it
    /// does not run.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`], [`Error::UnknownVersion`]
    pub async fn version(
        &self,
        name: &PluginName,
        digest: Option<&Digest>,
    ) -> Result<VersionView, Error> {
        let stored = self.stored_plugin(name)?;
        let digest = digest.unwrap_or(&stored.current);
        let version = stored
            .version(digest)
            .ok_or_else(|| unknown_version(name, digest))?;
        let loaded = self.shared.loaded.lock().get(digest).cloned();
        let plugin = match loaded {
            Some(plugin) => plugin,
            None => {
                let _compiling = self.may_compile().await;
                match *digest == stored.current {
                    true => self.load(name, digest)?,
                    false => self.compile(name, digest)?,
                }
            }
        };
        Ok(VersionView {
            version: version.clone(),
            imports: plugin.imports().to_vec(),
            exports: plugin.exports().to_vec(),
            keeps_state: plugin.keeps_state(),
        })
    }

    /// The version of a plugin whose digest is, or starts with, what was written.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`]; [`Error::UnknownVersion`] if there is none, or several.
    pub fn find_version(&self, name: &PluginName, written: &str) -> Result<Digest, Error> {
        let stored = self.stored_plugin(name)?;
        let mut found = stored
            .versions
            .iter()
            .filter(|version| version.digest.as_str().starts_with(written));
        match (found.next(), found.next()) {
            (Some(version), None) if !written.is_empty() => Ok(version.digest.clone()),
            _ => Err(Error::UnknownVersion {
                name: name.clone(),
                digest: written.to_owned(),
            }),
        }
    }

    /// Deletes a plugin with all its versions.
    ///
    /// # Errors
    /// [`Error::UnknownPlugin`], [`Error::PluginInUse`], [`Error::UnderWay`], [`Error::Waiting`]
    pub async fn delete_plugin(&self, name: &PluginName) -> Result<(), Error> {
        let (this, name) = (self.clone(), name.clone());
        self.to_its_end(async move { this.delete_plugin_now(&name).await })
            .await
    }

    async fn delete_plugin_now(&self, name: &PluginName) -> Result<(), Error> {
        let _change = self.shared.changes.lock().await;
        let stored = self.stored_plugin(name)?;
        self.check_not_under_way(name)?;
        let pipelines = self.users(name);
        if !pipelines.is_empty() {
            return Err(Error::PluginInUse {
                name: name.clone(),
                pipelines,
            });
        }
        let mut commit = Commit::new();
        records::delete_plugin(&mut commit, name);
        self.shared.store.commit(commit).await?;
        for version in &stored.versions {
            self.delete_component(&version.digest)?;
        }
        self.unload_others(&[])
    }

    pub(super) fn stored_plugin(&self, name: &PluginName) -> Result<StoredPlugin, Error> {
        records::plugin(&self.shared.store, name)?
            .ok_or_else(|| Error::UnknownPlugin { name: name.clone() })
    }

    fn view(&self, name: PluginName, stored: StoredPlugin) -> PluginView {
        PluginView {
            used_by: self.users(&name),
            name,
            current: stored.current,
            versions: stored.versions,
        }
    }
}
