//! `millstream verify`: looks at all that is stored, and says what is wrong.

use std::path::PathBuf;

use anyhow::Context as _;

use super::GlobalArgs;
use super::exit::{Ending, NoDataDirectory, Usage, WayOut};
use super::open;
use super::output::{Column, Error, Output, Table};
use crate::storage;
use crate::verify::{self, Counts, Report};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Look at this backup instead of the data directory: at its files, and at what is in them
    #[arg(long, value_name = "DIR")]
    backup: Option<PathBuf>,
}

/// Runs the verb.
pub(super) async fn run(
    args: VerifyArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    if let (None, Some(url)) = (&args.backup, &global.server) {
        return Err(Usage(format!(
            "verify reads files on this machine and asks no server ({url}); run it on the machine of the server without --server (MILLSTREAM_SERVER), or verify a backup: `millstream backup DIR`, then `millstream verify --backup DIR`"
        ))
        .into());
    }
    if args.backup.is_none() && open::is_missing(&global.data_dir) {
        return Err(NoDataDirectory {
            path: global.data_dir.clone(),
            way_out: WayOut::OtherDirectory,
        }
        .into());
    }
    let data_dir = global.data_dir.clone();
    let looked = tokio::task::spawn_blocking(move || -> anyhow::Result<Report> {
        Ok(match args.backup {
            Some(folder) => verify::backup(&folder)?,
            None => verify::data_directory(&data_dir)?,
        })
    });
    let report = looked.await.context("verify stopped")?;
    let report = report.map_err(|error| match error.downcast_ref() {
        Some(storage::Error::Locked { .. }) => error.context(
            "verify needs the data directory for itself; while a server runs on it, make a backup with `millstream backup DIR` and verify that with `millstream verify --backup DIR`",
        ),
        _ => error,
    })?;
    output.result(&report, |output| show(&report, output))?;
    Ok(match report.problems.is_empty() {
        true => Ending::Done,
        false => Ending::Failed,
    })
}

fn show(report: &Report, output: &mut Output) -> Result<(), Error> {
    output.fields(&fields(&report.counts, output))?;
    let (count, kept) = (report.problems.problem_count, &report.problems.problems);
    if count == 0 {
        return output.line("nothing is wrong");
    }
    let mut table = Table::new(&[
        Column::Text("problem"),
        Column::Text("place"),
        Column::Text("key"),
        Column::Text("reason"),
        Column::Text("what to do"),
    ]);
    for problem in kept {
        let kind = serde_json::to_value(problem.kind);
        table.row([
            kind.ok()
                .and_then(|kind| kind.as_str().map(str::to_owned))
                .unwrap_or_default(),
            problem.place(),
            problem.key.clone().unwrap_or_default(),
            problem.reason.clone(),
            problem.advice.to_owned(),
        ]);
    }
    output.table(&table)?;
    match count - kept.len() as u64 {
        0 => output.line(format_args!("{count} problems")),
        more => output.line(format_args!("{count} problems, {more} of them not shown")),
    }
}

fn fields(counts: &Counts, output: &Output) -> Vec<(&'static str, String)> {
    let numbers = [
        ("backup files", counts.backup_files),
        ("topics", counts.topics),
        ("queues", counts.queues),
        ("partitions", counts.partitions),
        ("batches", counts.batches),
        ("records", counts.records),
        ("committed offsets", counts.group_offsets),
        ("queue chunks", counts.queue_chunks),
        ("deduplication entries", counts.deduplication_entries),
        ("pipelines", counts.pipelines),
        ("state entries", counts.state_entries),
        ("changelog entries", counts.changelog_entries),
        ("parked records", counts.parked_records),
        ("timers", counts.timers),
        ("plugins", counts.plugins),
        ("components", counts.components),
        ("manifests", counts.manifests),
        ("deploys", counts.deploys),
        ("tokens", counts.tokens),
    ];
    let mut fields: Vec<_> = numbers
        .into_iter()
        .map(|(name, number)| (name, number.to_string()))
        .collect();
    fields.insert(6, ("batch bytes", output.bytes(counts.batch_bytes)));
    fields
}
