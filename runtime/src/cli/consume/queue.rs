//! The messages of a queue.

use std::time::Duration;

use super::{ConsumeArgs, message_line};
use crate::cli::exit::Ending;
use crate::cli::interrupt::Interrupt;
use crate::cli::json_record::QueueWriter;
use crate::cli::open::{Access, DataDirectory};
use crate::cli::output::{Format, Output};
use crate::cli::{GlobalArgs, queue};
use crate::model::QueueName;
use crate::queue::{LeaseRequest, LeasedMessage};

/// Messages leased at a time.
const LEASE_MESSAGES: u64 = 500;
/// How long one wait for messages lasts.
const WAIT: Duration = Duration::from_secs(60);

/// Writes messages, and acknowledges them once they have left the process: if writing fails they are
/// delivered again.
pub(super) async fn run(
    args: &ConsumeArgs,
    name: &QueueName,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let data = DataDirectory::open(global, Access::Existing)?;
    let source = data.queues.queue(name)?;
    let mut left = args.max.unwrap_or(u64::MAX);
    if args.peek {
        queue::peek(&source, 0, left, output).await?;
        return Ok(Ending::Done);
    }
    let interrupt = Interrupt::listen("acknowledging what has been written")?;
    let json = QueueWriter::new(name);
    let mut buffer = Vec::new();
    while left > 0 {
        let request = LeaseRequest {
            max_messages: usize::try_from(left.min(LEASE_MESSAGES))?,
            wait: if args.follow { WAIT } else { Duration::ZERO },
            ..LeaseRequest::default()
        };
        let messages = tokio::select! {
            biased;
            () = interrupt.requested() => {
                // Ctrl-C is how following ends.
                let is_complete = args.follow;
                return Ok(if is_complete { Ending::Done } else { Ending::Interrupted });
            }
            leased = source.lease(&request) => leased?,
        };
        if messages.is_empty() {
            if args.follow {
                continue;
            }
            break;
        }
        left -= messages.len() as u64;
        write(&messages, &json, output, &mut buffer)?;
        let receipts: Vec<_> = messages.iter().map(LeasedMessage::receipt).collect();
        source.acknowledge(&receipts).await?;
    }
    Ok(Ending::Done)
}

fn write(
    messages: &[LeasedMessage],
    json: &QueueWriter,
    output: &mut Output,
    buffer: &mut Vec<u8>,
) -> anyhow::Result<()> {
    buffer.clear();
    for message in messages {
        let record = message.record()?;
        let delivery_count = message.delivery_count();
        match output.format() {
            Format::Json => json.write(&record, delivery_count, None, buffer),
            Format::Table => message_line(&delivery_count.to_string(), &record, buffer),
        }
    }
    output.write(buffer)?;
    output.flush()?;
    Ok(())
}
