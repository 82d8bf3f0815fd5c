//! Plugins that pipelines of several manifests use. The names of plugins are those of all manifests together, and a version
//! that is deployed is given to every pipeline that uses the plugin, whichever manifest it is of.

use super::manifests::resolve;
use super::{Deployments, Error, records};
use crate::model::{PipelineName, PluginName};
use crate::plugin::Digest;

/// The pipelines of a manifest that use a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginUsers {
    /// The manifest.
    pub manifest: String,
    /// These pipelines of it.
    pub pipelines: Vec<PipelineName>,
}

impl Deployments {
    /// Checks that a version of a plugin can be deployed for a manifest without giving it to pipelines of other manifests
    /// that use the current one. It goes by what was applied, whether or not it runs.
    ///
    /// # Errors
    /// [`Error::PluginOfOthers`]
    pub fn check_for_manifest(
        &self,
        manifest: &str,
        plugin: &PluginName,
        digest: &Digest,
    ) -> Result<(), Error> {
        let stored = records::plugin(&self.shared.store, plugin)?;
        if stored.is_none_or(|stored| stored.current == *digest) {
            return Ok(());
        }
        let others = self.users_but_of(manifest, plugin)?;
        match others.is_empty() {
            true => Ok(()),
            false => Err(Error::PluginOfOthers {
                name: plugin.clone(),
                manifest: manifest.to_owned(),
                others,
            }),
        }
    }

    fn users_but_of(&self, manifest: &str, plugin: &PluginName) -> Result<Vec<PluginUsers>, Error> {
        let mut users = Vec::new();
        for (name, applied) in records::manifests(&self.shared.store)? {
            // None runs of one that cannot be read any more, and it is to be corrected and applied again anyway: it must not
            // keep all others from deploying until then.
            let Ok(other) = resolve(&name, &applied.text) else {
                continue;
            };
            let pipelines = other
                .pipelines
                .into_iter()
                .filter(|spec| spec.plugin == *plugin && !applied.removed.contains(&spec.name));
            let pipelines: Vec<_> = pipelines.map(|spec| spec.name).collect();
            if name != manifest && !pipelines.is_empty() {
                users.push(PluginUsers {
                    manifest: name,
                    pipelines,
                });
            }
        }
        Ok(users)
    }
}
