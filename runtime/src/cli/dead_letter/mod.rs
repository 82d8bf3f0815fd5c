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
use super::client::Client;
use super::confirm::confirm;
use super::consume::lines;
use super::exit::Ending;
use super::open::Access;
use super::output::{Column, Output, Table};
use crate::server::{
    LetterCount, LetterPage, LetterView, NEXT_ID, PLUGIN_DIGEST, PurgedLetters, QUEUE,
    Selection as Selected, Source,
};
use redrive::RedriveArgs;
use replay::ReplayArgs;
use selection::Selection;

/// Letters that are asked for at a time.
const PAGE_LETTERS: u64 = 500;

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
    let client = Client::connect(global, Access::Existing)?;
    match command {
        DeadLetterCommand::Replay(_) => {}
        DeadLetterCommand::List { selection, max } => {
            list(&client, selection.request(), max, output).await?;
        }
        DeadLetterCommand::Show { source, id } => show(&client, &source, id, output).await?,
        DeadLetterCommand::Redrive(args) => {
            return redrive::run(&args, &client, global, output).await;
        }
        DeadLetterCommand::Export {
            selection,
            file,
            max,
        } => export(&client, selection.request(), max, file.as_deref(), output).await?,
        DeadLetterCommand::Purge { selection, yes } => {
            return purge(&client, selection.request(), yes, output).await;
        }
    }
    Ok(Ending::Done)
}

/// Which letters, and which page of them.
#[derive(Serialize)]
struct PageQuery<'a> {
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    from: u64,
    max: u64,
}

impl<'a> PageQuery<'a> {
    fn new(selection: &'a Selected, from: u64, left: u64) -> Self {
        Self {
            source: &selection.source,
            filter: selection.filter.as_deref(),
            plugin_digest: selection.plugin_digest.as_deref(),
            since_ms: selection.since_ms,
            from,
            max: left.min(PAGE_LETTERS),
        }
    }
}

async fn list(
    client: &Client,
    mut selection: Selected,
    max: u64,
    output: &mut Output,
) -> anyhow::Result<()> {
    let (mut letters, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next.filter(|_| (letters.len() as u64) < max) {
        let query = PageQuery::new(&selection, from, max - letters.len() as u64);
        let page: LetterPage = client.get("/v1/dead-letters", &query).await?;
        letters.extend(page.letters);
        next = page.next;
        selection.plugin_digest = page.plugin_digest.or(selection.plugin_digest);
    }
    output.result(&letters, |output| {
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
        for letter in &letters {
            table.row(view::cells(letter));
        }
        output.table_or(&table, "There are no such dead letters.")
    })?;
    if next.is_some() {
        output.flush()?;
        super::progress::note(&format!(
            "these are the first {max}; --max shows more, --filter, --plugin and --since show fewer"
        ));
    }
    Ok(())
}

/// Whose dead letter.
#[derive(Serialize)]
struct SourceQuery {
    source: String,
}

async fn show(
    client: &Client,
    source: &Source,
    id: u64,
    output: &mut Output,
) -> anyhow::Result<()> {
    let query = SourceQuery {
        source: source.to_string(),
    };
    let path = format!("/v1/dead-letters/{id}");
    let letter: LetterView = client.get(&path, &query).await?;
    output.result(&letter, |output| view::write(&letter, output))?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct Exported<'a> {
    queue: &'a str,
    exported: u64,
    file: &'a Path,
}

async fn export(
    client: &Client,
    selection: Selected,
    max: u64,
    file: Option<&Path>,
    output: &mut Output,
) -> anyhow::Result<()> {
    let Some(path) = file else {
        write_lines(client, selection, max, |lines| Ok(output.write(lines)?)).await?;
        return Ok(());
    };
    // A source that does not exist leaves no file behind.
    let _: LetterCount = client.get("/v1/dead-letters/count", &selection).await?;
    let cannot = || format!("cannot write {}", path.display());
    // An earlier export may be the only copy of what was purged since.
    let mut writer = BufWriter::new(File::create_new(path).with_context(cannot)?);
    let (queue, exported) = write_lines(client, selection, max, |lines| {
        writer.write_all(lines).with_context(cannot)
    })
    .await?;
    let file = writer
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).with_context(cannot)?;
    let document = Exported {
        queue: &queue,
        exported,
        file: path,
    };
    output.result(&document, |output| {
        output.line(format_args!(
            "wrote {exported} dead letters of queue `{queue}` to {}",
            path.display()
        ))
    })?;
    Ok(())
}

/// Writes letters page by page; returns the name of their queue, and how many there were.
async fn write_lines(
    client: &Client,
    mut selection: Selected,
    max: u64,
    mut write: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<(String, u64)> {
    let (mut queue, mut count, mut next) = (String::new(), 0, Some(0));
    while let Some(from) = next.filter(|_| count < max) {
        let query = PageQuery::new(&selection, from, max - count);
        let answer = client.fetch("/v1/dead-letters/export", &query).await?;
        write(&answer.body)?;
        count += lines(&answer.body).count() as u64;
        let whole = answer.header(PLUGIN_DIGEST).map(str::to_owned);
        selection.plugin_digest = whole.or(selection.plugin_digest);
        next = answer.header(NEXT_ID).and_then(|id| id.parse().ok());
        answer
            .header(QUEUE)
            .unwrap_or_default()
            .clone_into(&mut queue);
    }
    Ok((queue, count))
}

async fn purge(
    client: &Client,
    selection: Selected,
    yes: bool,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let LetterCount { queue, letters } = client.get("/v1/dead-letters/count", &selection).await?;
    let question = format!("delete {letters} dead letters of queue `{queue}`?");
    if !yes && !confirm(&question)? {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let purged: PurgedLetters = client.post("/v1/dead-letters/purge", &selection).await?;
    output.result(&purged, |output| {
        output.line(format_args!(
            "deleted {} dead letters of queue `{queue}`",
            purged.deleted
        ))
    })?;
    output.flush()?;
    for (count, what) in [
        (purged.held, "letters that somebody has leased"),
        (purged.others, "messages that are no dead letters"),
    ] {
        if count > 0 {
            super::progress::note(&format!(
                "the queue `{queue}` still holds {count} {what}; `millstream queue purge {queue}` deletes everything"
            ));
        }
    }
    Ok(Ending::Done)
}
