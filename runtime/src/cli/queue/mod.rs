//! `millstream queue`: list, describe, create, delete, purge queues, and peek into them.

mod settings;
mod view;

use clap::Subcommand;
use serde::Serialize;

use super::GlobalArgs;
use super::confirm::confirm;
use super::consume::message_line;
use super::exit::Ending;
use super::json_record;
use super::open::{Access, DataDirectory};
use super::output::{Column, Format, Output, Table};
use crate::model::QueueName;
use crate::queue::Queue;
use settings::Settings;
use view::QueueView;

/// Messages that are read at a time.
const PEEK_MESSAGES: usize = 1_000;

/// The verbs on queues.
#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// List all queues
    List,
    /// Show a queue's settings and how many messages wait, are delayed and leased
    Describe {
        /// The queue
        name: QueueName,
    },
    /// Create a queue
    Create {
        /// The queue
        name: QueueName,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a queue with all its messages
    Delete {
        /// The queue
        name: QueueName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete all messages of a queue
    Purge {
        /// The queue
        name: QueueName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Show messages without taking them out, whatever they wait for
    Peek {
        /// The queue
        name: QueueName,
        /// Stop after this many messages
        #[arg(long, value_name = "COUNT", default_value_t = 10)]
        max: u64,
        /// The offset of the first message to show
        #[arg(long, value_name = "OFFSET", default_value_t = 0)]
        from: u64,
    },
}

/// Runs a verb.
pub(super) async fn run(
    command: QueueCommand,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    match command {
        QueueCommand::List => list(global, output).await?,
        QueueCommand::Describe { name } => describe(global, output, &name).await?,
        QueueCommand::Create { name, settings } => create(global, output, &name, &settings).await?,
        QueueCommand::Delete { name, yes } => return delete(global, output, &name, yes).await,
        QueueCommand::Purge { name, yes } => return purge(global, output, &name, yes).await,
        QueueCommand::Peek { name, max, from } => {
            let data = DataDirectory::open(global, Access::Existing)?;
            peek(&data.queues.queue(&name)?, from, max, output).await?;
        }
    }
    Ok(Ending::Done)
}

async fn list(global: &GlobalArgs, output: &mut Output) -> anyhow::Result<()> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let mut queues = Vec::new();
    for queue in data.queues.queues() {
        queues.push(QueueView::of(&queue, &queue.describe().await?));
    }
    output.result(&queues, |output| {
        let mut table = Table::new(&[
            Column::Text("queue"),
            Column::Number("waiting"),
            Column::Number("delayed"),
            Column::Number("bytes"),
            Column::Text("dead-letter"),
        ]);
        for queue in &queues {
            let dead_letter = queue.dead_letter.as_ref();
            table.row([
                queue.name.to_string(),
                queue.waiting.to_string(),
                queue.delayed.to_string(),
                output.bytes(queue.size_bytes),
                dead_letter.map_or_else(|| "-".to_owned(), QueueName::to_string),
            ]);
        }
        output.table_or(
            &table,
            "There are no queues yet; `millstream queue create NAME` creates one.",
        )
    })?;
    Ok(())
}

async fn describe(
    global: &GlobalArgs,
    output: &mut Output,
    name: &QueueName,
) -> anyhow::Result<()> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let queue = data.queues.queue(name)?;
    let view = QueueView::of(&queue, &queue.describe().await?);
    output.result(&view, |output| view.write(output))?;
    Ok(())
}

async fn create(
    global: &GlobalArgs,
    output: &mut Output,
    name: &QueueName,
    settings: &Settings,
) -> anyhow::Result<()> {
    let data = DataDirectory::open(global, Access::Create)?;
    let queue = data.queues.create_queue(name, settings.config()).await?;
    let view = QueueView::of(&queue, &queue.describe().await?);
    output.result(&view, |output| {
        output.line(format_args!("created queue `{name}`"))
    })?;
    Ok(())
}

#[derive(Debug, Serialize)]
struct Removed {
    name: QueueName,
    messages: u64,
}

async fn delete(
    global: &GlobalArgs,
    output: &mut Output,
    name: &QueueName,
    yes: bool,
) -> anyhow::Result<Ending> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let messages = data.queues.queue(name)?.message_count().await?;
    if !yes
        && !confirm(&format!(
            "delete queue `{name}` and its {messages} messages?"
        ))?
    {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    data.queues.delete_queue(name).await?;
    let name = name.clone();
    let removed = Removed { name, messages };
    output.result(&removed, |output| {
        output.line(format_args!(
            "deleted queue `{}` and its {messages} messages",
            removed.name
        ))
    })?;
    Ok(Ending::Done)
}

async fn purge(
    global: &GlobalArgs,
    output: &mut Output,
    name: &QueueName,
    yes: bool,
) -> anyhow::Result<Ending> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let queue = data.queues.queue(name)?;
    let waiting = queue.message_count().await?;
    if !yes && !confirm(&format!("delete all {waiting} messages of queue `{name}`?"))? {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let removed = Removed {
        name: name.clone(),
        messages: queue.purge().await?,
    };
    output.result(&removed, |output| {
        output.line(format_args!(
            "deleted {} messages of queue `{name}`",
            removed.messages
        ))
    })?;
    Ok(Ending::Done)
}

/// Writes messages, and leaves them where they are.
pub(super) async fn peek(
    queue: &Queue,
    from_offset: u64,
    max: u64,
    output: &mut Output,
) -> anyhow::Result<()> {
    let json = json_record::QueueWriter::new(queue.name());
    let (mut next, mut left, mut buffer) = (from_offset, max, Vec::new());
    while left > 0 {
        let at_most = usize::try_from(left).unwrap_or(usize::MAX);
        let messages = queue.peek(next, at_most.min(PEEK_MESSAGES)).await?;
        let Some(last) = messages.last() else {
            return Ok(());
        };
        next = last.offset + 1;
        left -= messages.len() as u64;
        buffer.clear();
        for message in &messages {
            let record = message.record()?;
            let (state, until_ms) = view::state(message);
            match output.format() {
                Format::Json => {
                    json.write(
                        &record,
                        message.delivery_count,
                        Some((state, until_ms)),
                        &mut buffer,
                    );
                }
                Format::Table => {
                    let delivered = format!("{} {state}", message.delivery_count);
                    message_line(&delivered, &record, &mut buffer);
                }
            }
        }
        output.write(&buffer)?;
    }
    Ok(())
}
