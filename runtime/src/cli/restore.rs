//! `millstream restore`: a data directory out of a backup.

use std::path::PathBuf;

use super::GlobalArgs;
use super::backup::BackupView;
use super::exit::Ending;
use super::output::Output;
use crate::backup;

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The backup. It is made into the data directory (`--data-dir`), which must not exist or be empty
    ///
    /// Every checksum of the backup is compared first. The data directory appears when it is complete.
    dir: PathBuf,
}

/// Runs the verb.
pub(super) fn run(
    args: &RestoreArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let list = backup::restore(&args.dir, &global.data_dir)?;
    BackupView::new(&args.dir, global, list).show(output)?;
    Ok(Ending::Done)
}
