//! `millstream backup`: a copy of the data directory, as it is at one moment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::task::block_in_place;

use super::GlobalArgs;
use super::client::{Client, Place, Unreachable};
use super::exit::{Ending, Usage};
use super::open::Access;
use super::output::{Error, Output};
use super::quantity::format_time_ms;
use crate::backup::{self, FileList};
use crate::deploy;
use crate::server::{self, BackupStatus, Code, NewBackup, Problem};
use crate::storage::ReadOnlyStore;

/// How long to wait before asking again how a backup goes.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often to ask for the same answer: the backup goes on whether it is there or not.
const ATTEMPTS: u32 = 5;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The folder to make, which must not exist
    ///
    /// While a server holds the data directory it makes the backup, as its own user, and goes on
    /// serving meanwhile. With --server the folder is on the machine of that server: give its whole path.
    ///
    /// On the file system of the data directory it shares the store's files by hard links: it takes
    /// little time and space, and is lost with that file system. Copy it to another machine, or name
    /// a folder on another disk.
    dir: PathBuf,
}

/// A backup as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct BackupView {
    backup: PathBuf,
    data_dir: PathBuf,
    taken_at_ms: u64,
    millstream_version: String,
    files: u64,
    size_bytes: u64,
}

impl From<server::BackupView> for BackupView {
    fn from(made: server::BackupView) -> Self {
        Self {
            backup: made.folder,
            data_dir: made.data_dir,
            taken_at_ms: made.taken_at_ms,
            files: made.files,
            size_bytes: made.size_bytes,
            millstream_version: made.millstream_version,
        }
    }
}

impl BackupView {
    pub(super) fn new(backup: &std::path::Path, global: &GlobalArgs, list: FileList) -> Self {
        Self {
            backup: backup.to_owned(),
            data_dir: global.data_dir.clone(),
            taken_at_ms: list.taken_at_ms,
            files: list.files.len() as u64,
            size_bytes: list.size_bytes(),
            millstream_version: list.millstream_version,
        }
    }

    pub(super) fn show(&self, output: &mut Output) -> Result<(), Error> {
        output.result(self, |output| {
            let fields = [
                ("backup", self.backup.display().to_string()),
                ("data directory", self.data_dir.display().to_string()),
                ("taken at", format_time_ms(self.taken_at_ms)),
                ("by millstream", self.millstream_version.clone()),
                ("files", self.files.to_string()),
                ("size", output.bytes(self.size_bytes)),
            ];
            output.fields(&fields)
        })
    }
}

/// Runs the verb.
pub(super) async fn run(
    args: &BackupArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let made = match Place::find(global, Access::Existing)? {
        Place::Directory(data) => {
            let list = block_in_place(|| {
                let store = data.log.store();
                // What would make the state whole again is in no backup.
                deploy::check_whole(store)?;
                let check = |checkpoint: &ReadOnlyStore, copy: &Path| {
                    Ok(deploy::check_copy_whole(store, checkpoint, copy)?)
                };
                backup::create::<anyhow::Error>(store, &args.dir, check)
            })?;
            BackupView::new(&args.dir, global, list)
        }
        Place::Server(server) => ask(&Client::Remote(server), args, global).await?,
    };
    made.show(output)?;
    Ok(Ending::Done)
}

/// Lets a server make the backup.
async fn ask(
    client: &Client,
    args: &BackupArgs,
    global: &GlobalArgs,
) -> anyhow::Result<BackupView> {
    if global.server.is_some() && !args.dir.is_absolute() {
        return Err(Usage(format!(
            "the folder is made on the machine of the server, so that `{}` is not enough; give its whole path",
            args.dir.display()
        ))
        .into());
    }
    // The server has another current folder.
    let folder = std::path::absolute(&args.dir)
        .with_context(|| format!("`{}` is no path", args.dir.display()))?;
    Ok(follow(client, folder).await?.into())
}

/// Begins a backup, and asks until it is made: no single answer is waited for as long as that takes.
async fn follow(client: &Client, folder: PathBuf) -> anyhow::Result<server::BackupView> {
    let new = NewBackup {
        folder,
        detach: true,
    };
    let begun: anyhow::Result<BackupStatus> = client.post("/v1/backups", &new).await;
    let mut status = begun.map_err(|error| match error.downcast::<Problem>() {
        Ok(problem) => as_without_server(problem),
        Err(error) => error,
    })?;
    let mut pause = SHORTEST_PAUSE;
    while status.running {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        status = look(client, &status).await.with_context(|| {
            format!(
                "the server has begun a backup into {}, and does not say how it goes; the folder is there once all of it is made",
                status.folder.display()
            )
        })?;
    }
    match (status.made, status.problem) {
        (Some(made), _) => Ok(made),
        (None, Some(problem)) => Err(as_without_server(problem)),
        (None, None) => bail!("the server has ended the backup, and does not say how"),
    }
}

/// Asks how a backup goes; again, if there is no answer that says anything about it.
async fn look(client: &Client, begun: &BackupStatus) -> anyhow::Result<BackupStatus> {
    let path = format!("/v1/backups/{}", begun.id);
    let mut attempts_left = ATTEMPTS;
    loop {
        attempts_left -= 1;
        match client.get(&path, &()).await {
            Err(error) if attempts_left > 0 && may_pass(&error) => {
                tracing::warn!(%error, "asking again how the backup goes");
                tokio::time::sleep(LONGEST_PAUSE).await;
            }
            answered => return answered,
        }
    }
}

/// Whether the same request may be answered the next time.
fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Problem>() {
        Some(problem) => problem.status >= 500 || problem.code == Code::Busy,
        None => error.is::<Unreachable>(),
    }
}

/// A backup ends as it does without a server.
fn as_without_server(problem: Problem) -> anyhow::Error {
    match problem.code {
        Code::AlreadyExists => Usage(problem.detail).into(),
        _ => problem.into(),
    }
}
