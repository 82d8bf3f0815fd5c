//! `millstream backup`: a copy of the data directory, as it is at one moment.

use std::path::PathBuf;

use serde::Serialize;

use super::GlobalArgs;
use super::exit::Ending;
use super::open::{Access, DataDirectory};
use super::output::{Error, Output};
use super::quantity::format_time_ms;
use crate::backup::{self, FileList};

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The folder to make, which must not exist
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
    files: usize,
    size_bytes: u64,
}

impl BackupView {
    pub(super) fn new(backup: &std::path::Path, global: &GlobalArgs, list: FileList) -> Self {
        Self {
            backup: backup.to_owned(),
            data_dir: global.data_dir.clone(),
            taken_at_ms: list.taken_at_ms,
            files: list.files.len(),
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
pub(super) fn run(
    args: &BackupArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let list = backup::create(data.log.store(), &args.dir)?;
    BackupView::new(&args.dir, global, list).show(output)?;
    Ok(Ending::Done)
}
