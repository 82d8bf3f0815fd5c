//! Rollbacks with state that have failed midway: state is half put back, and no pipeline may run on it.
//!
//! Their records say so (`is_restoring`) until a rollback of the same plugin has put all of it back, also after a
//! restart. Until then their pipelines are neither started nor resumed, nor are they given another version.

use std::path::Path;

use super::components::is_component_in;
use super::records::{self, Deploy, Mode, Outcome};
use super::{Deployments, Error};
use crate::model::{PipelineName, PluginName};
use crate::storage::{self, Commit, ReadOnlyStore, Store};

impl Deployments {
    /// The rollbacks that have not put all of the state back. Whoever asks holds `changes`, so that none is at it.
    pub(super) fn unfinished(&self) -> Result<Vec<Deploy>, Error> {
        unfinished(&self.shared.store)
    }

    /// The pipelines whose state is half put back.
    pub(super) fn half_restored(&self) -> Result<Vec<PipelineName>, Error> {
        let unfinished = self.unfinished()?.into_iter();
        Ok(unfinished.flat_map(|deploy| deploy.pipelines).collect())
    }

    /// Checks that the state of a pipeline is whole.
    pub(super) fn check_whole(&self, pipeline: &PipelineName) -> Result<(), Error> {
        let mut unfinished = self.unfinished()?.into_iter();
        match unfinished.find(|deploy| deploy.pipelines.contains(pipeline)) {
            Some(deploy) => Err(of(deploy)),
            None => Ok(()),
        }
    }

    /// Checks that the state of a plugin's pipelines is whole.
    pub(super) fn check_plugin_whole(&self, name: &PluginName) -> Result<(), Error> {
        let mut unfinished = self.unfinished()?.into_iter();
        match unfinished.find(|deploy| deploy.plugin == *name) {
            Some(deploy) => Err(of(deploy)),
            None => Ok(()),
        }
    }

    /// Adds the pipelines of earlier attempts to those of a rollback: they may have been deleted since.
    pub(super) fn add_half_restored(&self, deploy: &mut Deploy) -> Result<(), Error> {
        for earlier in self.unfinished()? {
            if earlier.plugin != deploy.plugin || earlier.id == deploy.id {
                continue;
            }
            for pipeline in earlier.pipelines {
                if !deploy.pipelines.contains(&pipeline) {
                    deploy.pipelines.push(pipeline);
                }
            }
        }
        Ok(())
    }

    /// Notes that a rollback has failed midway. Returns what to say of it.
    pub(super) async fn leave_unfinished(&self, deploy: Deploy, error: Error) -> Error {
        // Nothing can be noted; the next start goes on with it.
        if matches!(error, Error::Storage(storage::Error::Poisoned { .. })) {
            return error;
        }
        tracing::error!(deploy = deploy.id, plugin = %deploy.plugin, %error, "state could not be put back");
        let reason = Some(error.to_string());
        match self.end(deploy, Outcome::Failed, reason).await {
            Ok(deploy) => of(deploy),
            Err(error) => error,
        }
    }

    /// Adds to the commit with which a rollback has succeeded that those before it have nothing left to do.
    pub(super) fn finish_earlier(&self, commit: &mut Commit, done: &Deploy) -> Result<(), Error> {
        if !matches!(done.mode, Mode::Rollback { restores: Some(_) }) {
            return Ok(());
        }
        for mut earlier in self.unfinished()? {
            if earlier.plugin == done.plugin && earlier.id != done.id {
                earlier.is_restoring = false;
                if earlier.outcome == Outcome::Running {
                    earlier.outcome = Outcome::Interrupted;
                    earlier.ended_at_ms = done.ended_at_ms;
                }
                records::put_deploy(commit, &earlier)?;
            }
        }
        Ok(())
    }

    /// Forgets that the state of a pipeline is half put back: it has been deleted.
    pub(super) async fn forget_half_restored(&self, pipeline: &PipelineName) -> Result<(), Error> {
        let mut commit = Commit::new();
        let mut unfinished = self.unfinished()?;
        unfinished.retain(|deploy| deploy.pipelines.contains(pipeline));
        if unfinished.is_empty() {
            return Ok(());
        }
        for mut deploy in unfinished {
            deploy.pipelines.retain(|name| name != pipeline);
            deploy.is_restoring = !deploy.pipelines.is_empty();
            records::put_deploy(&mut commit, &deploy)?;
        }
        self.shared.store.commit(commit).await?;
        Ok(())
    }
}

fn unfinished(store: &Store) -> Result<Vec<Deploy>, Error> {
    let mut deploys = records::deploys(store)?;
    deploys.retain(|deploy| deploy.is_restoring);
    Ok(deploys)
}

/// Checks that the state of all pipelines of a data directory is whole. A rollback may be putting state back by the
/// time that this returns: of what was copied [`check_copy_whole`] tells.
///
/// # Errors
/// [`Error::RollbackUnderWay`], [`Error::RollbackUnfinished`]; whatever is wrong with the data directory.
pub fn check_whole(store: &Store) -> Result<(), Error> {
    all_are_whole(records::deploys(store)?)
}

/// Checks a copy of the data directory of `store`, which was taken while that was in use, and of which `checkpoint` is
/// the copied store: the state of all pipelines must be whole, and no component may have been deleted while it was
/// copied that a version in it needs. Components that the data directory lacks as well are not looked for.
///
/// # Errors
/// [`Error::RollbackUnderWay`], [`Error::RollbackUnfinished`], [`Error::DeletedMeanwhile`]; whatever is wrong with the
/// copy.
pub fn check_copy_whole(
    store: &Store,
    checkpoint: &ReadOnlyStore,
    copy: &Path,
) -> Result<(), Error> {
    all_are_whole(records::deploys_in(checkpoint)?)?;
    for (name, plugin) in records::plugins_in(checkpoint)? {
        let mut versions = plugin.versions.into_iter();
        let Some(missing) = versions.find(|it| !is_component_in(copy, &it.digest)) else {
            continue;
        };
        let now = records::plugin(store, &name)?.map(|it| it.versions);
        let digest = missing.digest;
        if !now.is_some_and(|versions| versions.iter().any(|it| it.digest == digest)) {
            return Err(Error::DeletedMeanwhile { name, digest });
        }
    }
    Ok(())
}

fn all_are_whole(deploys: Vec<Deploy>) -> Result<(), Error> {
    let mut unfinished = deploys.into_iter().filter(|deploy| deploy.is_restoring);
    match unfinished.next() {
        // Nobody has to run it again.
        Some(deploy) if deploy.outcome == Outcome::Running => Err(Error::RollbackUnderWay {
            id: deploy.id,
            name: deploy.plugin,
        }),
        Some(deploy) => Err(of(deploy)),
        None => Ok(()),
    }
}

fn of(deploy: Deploy) -> Error {
    Error::RollbackUnfinished {
        id: deploy.id,
        name: deploy.plugin,
        pipelines: deploy.pipelines,
        reason: deploy.reason.unwrap_or_else(|| "it did not end".to_owned()),
    }
}
