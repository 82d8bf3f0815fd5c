//! Checkpoints of the store, one for each of the last deploys, to which a rollback can bring state back.
//!
//! Each holds on to the files that the store would drop otherwise, so none stays without need: the oldest go when there
//! are more than a few, that of a deploy of which nothing has come goes with it, and what is older than a limit goes by
//! itself ([`Maintenance`]).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::block_in_place;

use super::records::{self, Deploy, Mode, Outcome};
use super::{Deployments, Error};
use crate::storage::{ReadOnlyStore, Store, layout};

/// Checkpoints that are kept, besides those of deploys that have not ended.
const KEPT: usize = 3;
/// How often it is looked which ones are too old.
const INTERVAL: Duration = Duration::from_secs(300);

/// The folder of checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            folder: data_dir.join(layout::CHECKPOINTS),
        }
    }

    /// Takes the checkpoint of a deploy.
    fn take(&self, store: &Store, id: u64) -> Result<(), Error> {
        fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))?;
        store.checkpoint(&self.path(id))?;
        Ok(())
    }

    /// Whether there is one of a deploy.
    pub(super) fn has(&self, id: u64) -> bool {
        self.path(id).is_dir()
    }

    pub(super) fn open(&self, id: u64) -> Result<ReadOnlyStore, Error> {
        // RocksDB makes the folder that it does not find.
        if !self.has(id) {
            let missing = std::io::Error::from(ErrorKind::NotFound);
            return Err(Error::io("read", &self.path(id))(missing));
        }
        Ok(ReadOnlyStore::open_checkpoint(&self.path(id))?)
    }

    /// Deletes all but the newest and the needed ones.
    fn prune(&self, needed: &[u64]) -> Result<(), Error> {
        let mut ids = self.ids()?;
        ids.retain(|id| !needed.contains(id));
        let surplus = ids.len().saturating_sub(KEPT);
        ids.into_iter()
            .take(surplus)
            .try_for_each(|id| self.delete(id))
    }

    /// The deploys of which there is one, oldest first. What was cut off is deleted.
    fn ids(&self) -> Result<Vec<u64>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &self.folder)(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("read", &self.folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            match name.and_then(|name| name.parse::<u64>().ok()) {
                Some(id) => ids.push(id),
                None => fs::remove_dir_all(&path).map_err(Error::io("delete", &path))?,
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Deletes that of a deploy, if there is one.
    fn delete(&self, id: u64) -> Result<(), Error> {
        let path = self.path(id);
        // Under another name first: half of one must not look like one.
        let aside = path.with_extension("deleted");
        match fs::rename(&path, &aside) {
            Ok(()) => fs::remove_dir_all(&aside).map_err(Error::io("delete", &aside)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("delete", &path)(error)),
        }
    }

    fn path(&self, id: u64) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

impl Deployments {
    /// Takes the checkpoint to which the deploy can be rolled back. The deploy may be what mends a server on which
    /// that is not possible.
    pub(super) fn take_checkpoint(&self, deploy: &Deploy) {
        let changes_state = matches!(deploy.mode, Mode::All | Mode::Canary { .. });
        if !changes_state || deploy.pipelines.is_empty() {
            return;
        }
        let shared = &self.shared;
        let taken = block_in_place(|| {
            // First, so that what they held on to is free. This one may fail, and pushes out none until it has succeeded.
            shared.checkpoints.prune(&self.needed_checkpoints()?)?;
            shared.checkpoints.take(&shared.store, deploy.id)
        });
        if let Err(error) = taken {
            tracing::warn!(deploy = deploy.id, plugin = %deploy.plugin, %error, "no checkpoint could be taken, so the deploy cannot be rolled back with state");
        }
    }

    /// Deletes the checkpoint of a deploy that has ended without success, to which nobody goes back, and those that are too
    /// many now.
    pub(super) fn tidy_checkpoints(&self, ended: &Deploy) {
        let checkpoints = &self.shared.checkpoints;
        let tidied = block_in_place(|| {
            if ended.outcome != Outcome::Succeeded {
                checkpoints.delete(ended.id)?;
            }
            checkpoints.prune(&self.needed_checkpoints()?)
        });
        if let Err(error) = tidied {
            tracing::warn!(deploy = ended.id, %error, "checkpoints of earlier deploys could not be deleted; they take disk space until the next deploy");
        }
    }

    /// Deletes the checkpoints of deploys that have ended longer ago than `max_age`, so that the store can free what they
    /// hold on to. Returns the numbers of these deploys.
    ///
    /// # Errors
    /// Whatever is wrong with the data directory.
    pub async fn drop_old_checkpoints(&self, max_age: Duration) -> Result<Vec<u64>, Error> {
        // A rollback reads one.
        let _change = self.shared.changes.lock().await;
        block_in_place(|| {
            let max_age_ms = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
            let oldest_ms = self.now_ms().saturating_sub(max_age_ms);
            let needed = self.needed_checkpoints()?;
            let mut dropped = Vec::new();
            for id in self.shared.checkpoints.ids()? {
                let deploy = records::deploy(&self.shared.store, id)?;
                let ended_at_ms = deploy.map_or(0, |it| it.ended_at_ms.unwrap_or(u64::MAX));
                if ended_at_ms < oldest_ms && !needed.contains(&id) {
                    self.shared.checkpoints.delete(id)?;
                    dropped.push(id);
                }
            }
            Ok(dropped)
        })
    }

    /// The deploys whose checkpoints stay, however many there are and however old they are: those that have not ended, and
    /// those to which a rollback that is not done goes back.
    fn needed_checkpoints(&self) -> Result<Vec<u64>, Error> {
        let deploys = records::deploys(&self.shared.store)?.into_iter();
        let needed = deploys.filter_map(|deploy| match deploy.mode {
            Mode::Rollback { restores } if deploy.is_restoring => restores,
            _ => (deploy.outcome == Outcome::Running).then_some(deploy.id),
        });
        Ok(needed.collect())
    }
}

/// Deletes checkpoints that are too old, in a rhythm; ends when it is dropped.
pub struct Maintenance {
    task: tokio::task::JoinHandle<()>,
}

impl Maintenance {
    /// Starts it: checkpoints of deploys that have ended longer ago than `max_age` go. Needs a multi-threaded tokio
    /// runtime.
    pub fn start(deployments: Deployments, max_age: Duration) -> Self {
        let task = tokio::spawn(async move {
            loop {
                match deployments.drop_old_checkpoints(max_age).await {
                    Ok(dropped) if dropped.is_empty() => {}
                    Ok(dropped) => {
                        tracing::info!(deploys = ?dropped, "deleted the checkpoints of old deploys, which cannot be rolled back with state any more");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "checkpoints of old deploys could not be deleted; it is tried again");
                    }
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { task }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.task.abort();
    }
}
