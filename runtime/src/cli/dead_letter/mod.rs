//! `millstream dead-letter`: look at what was given up on, run it again, send it back, keep it elsewhere,
//! delete it.

mod exported;
mod redrive;
mod replay;
mod replay_view;
mod selection;
mod view;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use super::GlobalArgs;
use super::confirm::confirm;
use super::exit::Ending;
use super::open::{Access, DataDirectory};
use super::output::{Column, Output, Table};
use crate::model::QueueName;
use crate::queue::{PeekedMessage, Queue};
use crate::server::json_record::QueueWriter;
use redrive::RedriveArgs;
use replay::ReplayArgs;
use selection::{Selection, Source};
use view::LetterView;

/// The verbs on dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum DeadLetterCommand {
    /// List dead letters: where they come from, why and when they were given up on
    List {
        #[command(flatten)]
        selection: Selection,
        /// Stop after this many
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        max: u64,
    },
    /// Show everything about one dead letter: payload, headers, plugin, backtrace
    Show {
        /// The dead letters, as queue:NAME or the name of the pipeline that has given up on them
        source: Source,
        /// Its id, as `list` shows it
        id: u64,
    },
    /// Run the record of a dead letter again, with what the plugin saw when it failed on it: state, clock,
    /// random numbers, configuration
    ///
    /// Nothing of what the plugin does has an effect. Exit code 0: the plugin processes the record; 4: it
    /// fails on it, as it did then or otherwise.
    Replay(ReplayArgs),
    /// Send dead letters back to where they come from
    Redrive(RedriveArgs),
    /// Write dead letters as JSON lines, which `produce --format record` takes
    Export {
        #[command(flatten)]
        selection: Selection,
        /// The file; it must not exist yet [default: standard output]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Stop after this many
        #[arg(long, value_name = "COUNT", default_value_t = u64::MAX, hide_default_value = true)]
        max: u64,
    },
    /// Delete dead letters
    Purge {
        #[command(flatten)]
        selection: Selection,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs a verb.
pub(super) async fn run(
    command: DeadLetterCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    if let DeadLetterCommand::Replay(args) = &command {
        return replay::run(args, global, output).await;
    }
    let data = DataDirectory::open(global, Access::Existing)?;
    match command {
        DeadLetterCommand::Replay(_) => {}
        DeadLetterCommand::List { selection, max } => list(&data, &selection, max, output).await?,
        DeadLetterCommand::Show { source, id } => show(&data, &source, id, output).await?,
        DeadLetterCommand::Redrive(args) => {
            return redrive::run(&args, &data, global, output).await;
        }
        DeadLetterCommand::Export {
            selection,
            file,
            max,
        } => export(&data, &selection, max, file.as_deref(), output).await?,
        DeadLetterCommand::Purge { selection, yes } => {
            return purge(&data, &selection, yes, output).await;
        }
    }
    Ok(Ending::Done)
}

async fn list(
    data: &DataDirectory,
    selection: &Selection,
    max: u64,
    output: &mut Output,
) -> anyhow::Result<()> {
    let mut letters = selection.letters(data)?;
    let mut views = Vec::new();
    let mut has_more = false;
    'pages: while let Some(page) = letters.next_page().await? {
        for message in &page {
            if views.len() as u64 >= max {
                has_more = true;
                break 'pages;
            }
            views.push(LetterView::of(message.offset, &message.record()?));
        }
    }
    output.result(&views, |output| {
        let mut table = Table::new(&[
            Column::Number("id"),
            Column::Text("origin"),
            Column::Text("reason"),
            Column::Number("attempts"),
            Column::Text("first-failed"),
            Column::Text("dead-lettered"),
            Column::Text("key"),
            Column::Text("error"),
        ]);
        for view in &views {
            table.row(view.cells());
        }
        output.table_or(&table, "There are no such dead letters.")
    })?;
    if has_more {
        output.flush()?;
        super::progress::note(&format!(
            "these are the first {max}; --max shows more, --filter and --since show fewer"
        ));
    }
    Ok(())
}

async fn show(
    data: &DataDirectory,
    source: &Source,
    id: u64,
    output: &mut Output,
) -> anyhow::Result<()> {
    let message = find(&source.queue(data)?, id).await?;
    let view = LetterView::of(id, &message.record()?);
    output.result(&view, |output| view.write(output))?;
    Ok(())
}

/// The message of a queue with this id.
async fn find(queue: &Queue, id: u64) -> anyhow::Result<PeekedMessage> {
    let found = queue.peek(id, 1).await?;
    let mut found = found.into_iter().filter(|message| message.offset == id);
    found.next().with_context(|| {
        format!(
            "the queue `{}` holds no message {id}; `millstream dead-letter list queue:{0}` lists what it holds",
            queue.name()
        )
    })
}

#[derive(Debug, Serialize)]
struct Exported<'a> {
    queue: &'a QueueName,
    exported: u64,
    file: &'a Path,
}

async fn export(
    data: &DataDirectory,
    selection: &Selection,
    max: u64,
    file: Option<&Path>,
    output: &mut Output,
) -> anyhow::Result<()> {
    let queue = selection.queue(data)?;
    let Some(path) = file else {
        write_lines(data, selection, &queue, max, |lines| {
            Ok(output.write(lines)?)
        })
        .await?;
        return Ok(());
    };
    let cannot = || format!("cannot write {}", path.display());
    // An earlier export may be the only copy of what was purged since.
    let mut writer = BufWriter::new(File::create_new(path).with_context(cannot)?);
    let exported = write_lines(data, selection, &queue, max, |lines| {
        writer.write_all(lines).with_context(cannot)
    })
    .await?;
    let file = writer
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).with_context(cannot)?;
    let document = Exported {
        queue: queue.name(),
        exported,
        file: path,
    };
    output.result(&document, |output| {
        output.line(format_args!(
            "wrote {exported} dead letters of queue `{}` to {}",
            queue.name(),
            path.display()
        ))
    })?;
    Ok(())
}

async fn write_lines(
    data: &DataDirectory,
    selection: &Selection,
    queue: &Queue,
    max: u64,
    mut write: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let json = QueueWriter::new(queue.name());
    let mut letters = selection.letters(data)?;
    let (mut count, mut lines) = (0, Vec::new());
    while let Some(page) = letters.next_page().await? {
        lines.clear();
        for message in &page {
            if count == max {
                write(&lines)?;
                return Ok(count);
            }
            json.write(&message.record()?, message.delivery_count, None, &mut lines);
            count += 1;
        }
        write(&lines)?;
    }
    Ok(count)
}

#[derive(Debug, Serialize)]
struct Purged<'a> {
    queue: &'a QueueName,
    deleted: u64,
    /// Leased by somebody, so still there.
    held: u64,
}

async fn purge(
    data: &DataDirectory,
    selection: &Selection,
    yes: bool,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let queue = selection.queue(data)?;
    let count = count(data, selection, &queue).await?;
    let question = format!("delete {count} dead letters of queue `{}`?", queue.name());
    if !yes && !confirm(&question)? {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let (mut deleted, mut held) = (0, 0);
    if selection.is_all() {
        deleted = queue.purge().await?;
    } else {
        let mut letters = selection.letters(data)?;
        while let Some(page) = letters.next_page().await? {
            let offsets: Vec<u64> = page.iter().map(|message| message.offset).collect();
            let removed = queue.remove(&offsets).await?;
            deleted += removed;
            held += offsets.len() as u64 - removed;
        }
    }
    let purged = Purged {
        queue: queue.name(),
        deleted,
        held,
    };
    output.result(&purged, |output| {
        output.line(format_args!(
            "deleted {deleted} dead letters of queue `{}`",
            queue.name()
        ))
    })?;
    Ok(Ending::Done)
}

async fn count(data: &DataDirectory, selection: &Selection, queue: &Queue) -> anyhow::Result<u64> {
    if selection.is_all() {
        return Ok(queue.message_count().await?);
    }
    let mut letters = selection.letters(data)?;
    let mut count = 0;
    while let Some(page) = letters.next_page().await? {
        count += page.len() as u64;
    }
    Ok(count)
}
