//! `millstream queue`: list, describe, create, delete, purge queues, and peek into them.

mod settings;
mod view;

use clap::Subcommand;
use serde::Serialize;

use super::GlobalArgs;
use super::client::Client;
use super::confirm::confirm;
use super::consume::{lines, readable_line};
use super::exit::Ending;
use super::open::Access;
use super::output::{Column, Format, Output, Table};
use crate::model::QueueName;
use crate::server::json_record::Place;
use crate::server::{NewQueue, QueueView, RemovedMessages};
use settings::Settings;

/// Messages that are read at a time.
const PEEK_MESSAGES: u64 = 1_000;

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
    /// Delete a queue with all its messages, unless an applied pipeline or another queue uses it
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
    let access = match &command {
        QueueCommand::Create { .. } => Access::Create,
        _ => Access::Existing,
    };
    let client = Client::connect(global, access)?;
    match command {
        QueueCommand::List => list(&client, output).await?,
        QueueCommand::Describe { name } => describe(&client, output, &name).await?,
        QueueCommand::Create { name, settings } => {
            let settings = settings.into();
            create(&client, output, &NewQueue { name, settings }).await?;
        }
        QueueCommand::Delete { name, yes } => return delete(&client, output, &name, yes).await,
        QueueCommand::Purge { name, yes } => return purge(&client, output, &name, yes).await,
        QueueCommand::Peek { name, max, from } => peek(&client, &name, from, max, output).await?,
    }
    Ok(Ending::Done)
}

async fn list(client: &Client, output: &mut Output) -> anyhow::Result<()> {
    let queues: Vec<QueueView> = client.get("/v1/queues", &()).await?;
    output.result(&queues, |output| {
        let mut table = Table::new(&[
            Column::Text("queue"),
            Column::Number("waiting"),
            Column::Number("delayed"),
            Column::Number("bytes"),
            Column::Text("dead-letter"),
        ]);
        for queue in &queues {
            let dead_letter = queue.config.dead_letter.as_ref();
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

async fn describe(client: &Client, output: &mut Output, name: &QueueName) -> anyhow::Result<()> {
    let queue: QueueView = client.get(&format!("/v1/queues/{name}"), &()).await?;
    output.result(&queue, |output| view::write(&queue, output))?;
    Ok(())
}

async fn create(client: &Client, output: &mut Output, new: &NewQueue) -> anyhow::Result<()> {
    let queue: QueueView = client.post("/v1/queues", new).await?;
    output.result(&queue, |output| {
        output.line(format_args!("created queue `{}`", new.name))
    })?;
    Ok(())
}

async fn message_count(client: &Client, name: &QueueName) -> anyhow::Result<u64> {
    let queue: QueueView = client.get(&format!("/v1/queues/{name}"), &()).await?;
    Ok(queue.waiting + queue.delayed + queue.leased)
}

async fn delete(
    client: &Client,
    output: &mut Output,
    name: &QueueName,
    yes: bool,
) -> anyhow::Result<Ending> {
    let messages = message_count(client, name).await?;
    if !yes
        && !confirm(&format!(
            "delete queue `{name}` and its {messages} messages?"
        ))?
    {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let removed: RemovedMessages = client.delete(&format!("/v1/queues/{name}")).await?;
    output.result(&removed, |output| {
        output.line(format_args!(
            "deleted queue `{name}` and its {} messages",
            removed.messages
        ))
    })?;
    Ok(Ending::Done)
}

async fn purge(
    client: &Client,
    output: &mut Output,
    name: &QueueName,
    yes: bool,
) -> anyhow::Result<Ending> {
    let waiting = message_count(client, name).await?;
    if !yes && !confirm(&format!("delete all {waiting} messages of queue `{name}`?"))? {
        super::progress::note("nothing was deleted");
        return Ok(Ending::Failed);
    }
    let path = format!("/v1/queues/{name}/purge");
    let removed: RemovedMessages = client.post(&path, &()).await?;
    output.result(&removed, |output| {
        output.line(format_args!(
            "deleted {} messages of queue `{name}`",
            removed.messages
        ))
    })?;
    Ok(Ending::Done)
}

/// Which messages to look at.
#[derive(Serialize)]
struct PeekQuery {
    from: u64,
    max_messages: u64,
}

/// Writes messages, and leaves them where they are.
pub(super) async fn peek(
    client: &Client,
    name: &QueueName,
    from_offset: u64,
    max: u64,
    output: &mut Output,
) -> anyhow::Result<()> {
    let path = format!("/v1/queues/{name}/messages");
    let (mut next, mut left, mut buffer) = (from_offset, max, Vec::new());
    while left > 0 {
        let query = PeekQuery {
            from: next,
            max_messages: left.min(PEEK_MESSAGES),
        };
        let answer = client.fetch(&path, &query).await?;
        buffer.clear();
        let mut count = 0;
        for line in lines(&answer.body) {
            let known = |place: &Place<'_>| {
                let state = place.state.as_deref().unwrap_or_default();
                format!("{}  {} {state}", place.offset, place.delivery_count)
            };
            // For JSON, too: its offset says where to go on.
            next = readable_line(line, known, &mut buffer)? + 1;
            count += 1;
        }
        match output.format() {
            Format::Json => output.write(&answer.body)?,
            Format::Table => output.write(&buffer)?,
        }
        if count == 0 {
            return Ok(());
        }
        left -= count;
    }
    Ok(())
}
