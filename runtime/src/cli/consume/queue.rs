//! The messages of a queue.

use std::pin::pin;
use std::time::Duration;

use super::{ConsumeArgs, lines, read_line, readable_line};
use crate::cli::client::{Client, JSON};
use crate::cli::exit::Ending;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{Format, Output};
use crate::cli::progress::note;
use crate::cli::queue;
use crate::model::QueueName;
use crate::server::json_record::{Place, QueueWriter};
use crate::server::{LeaseBody, ReceiptsRequest, ReleaseRequest, SettledView};

/// Messages leased at a time.
const LEASE_MESSAGES: u64 = 500;
/// How long one wait for messages lasts. A request under way cannot be taken back, and its messages would be away
/// until their lease ends: whoever stops following waits for its answer.
const WAIT: Duration = Duration::from_secs(1);
/// How long that answer, and giving back what is in it, may take.
const LEAVING: Duration = Duration::from_secs(3);

/// Writes messages, and acknowledges them once they have left the process: if writing fails they are
/// delivered again.
pub(super) async fn run(
    args: &ConsumeArgs,
    name: &QueueName,
    client: &Client,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let mut left = args.max.unwrap_or(u64::MAX);
    if args.peek {
        queue::peek(client, name, 0, left, output).await?;
        return Ok(Ending::Done);
    }
    let interrupt = Interrupt::listen("acknowledging what has been written")?;
    let (lease_path, acknowledge_path) = (
        format!("/v1/queues/{name}/lease"),
        format!("/v1/queues/{name}/acknowledge"),
    );
    while left > 0 {
        let request = LeaseBody {
            max_messages: Some(usize::try_from(left.min(LEASE_MESSAGES))?),
            wait_ms: args.follow.then_some(WAIT.as_millis() as u64),
            ..LeaseBody::default()
        };
        let request = serde_json::to_vec(&request)?.into();
        if interrupt.is_requested() {
            return Ok(ending(args));
        }
        let mut asked = pin!(client.post_bytes(&lease_path, JSON, request));
        let answer = tokio::select! {
            biased;
            () = interrupt.requested() => {
                let leaving = async { give_back(&asked.await?.body, name, client).await };
                match tokio::time::timeout(LEAVING, leaving).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => note(&format!("messages may be away until their lease ends: {error}")),
                    Err(_) => note("messages may be away until their lease ends: the server does not answer"),
                }
                return Ok(ending(args));
            }
            leased = &mut asked => leased?,
        };
        let receipts = write(&answer.body, name, output)?;
        if receipts.is_empty() {
            if args.follow {
                continue;
            }
            break;
        }
        left -= receipts.len() as u64;
        let request = ReceiptsRequest { receipts };
        let _: SettledView = client.post(&acknowledge_path, &request).await?;
    }
    Ok(Ending::Done)
}

/// Ctrl-C is how following ends.
fn ending(args: &ConsumeArgs) -> Ending {
    match args.follow {
        true => Ending::Done,
        false => Ending::Interrupted,
    }
}

/// Releases leased messages that are not written any more.
async fn give_back(body: &[u8], name: &QueueName, client: &Client) -> anyhow::Result<()> {
    let mut receipts = Vec::new();
    for line in lines(body) {
        receipts.extend(read_line(line, |place, _| place.receipt.clone())?);
    }
    if receipts.is_empty() {
        return Ok(());
    }
    let request = ReleaseRequest {
        receipts,
        delay_ms: 0,
    };
    let path = format!("/v1/queues/{name}/release");
    let _: SettledView = client.post(&path, &request).await?;
    Ok(())
}

/// Writes leased messages, and returns their receipts.
fn write(body: &[u8], name: &QueueName, output: &mut Output) -> anyhow::Result<Vec<String>> {
    let json = QueueWriter::new(name);
    let (mut receipts, mut text) = (Vec::new(), Vec::new());
    for line in lines(body) {
        let receipt = match output.format() {
            Format::Json => read_line(line, |place, record| {
                json.write(record, place.delivery_count, None, &mut text);
                place.receipt.clone()
            })?,
            Format::Table => {
                let mut receipt = None;
                let known = |place: &Place<'_>| {
                    receipt.clone_from(&place.receipt);
                    format!("{}  {}", place.offset, place.delivery_count)
                };
                readable_line(line, known, &mut text)?;
                receipt
            }
        };
        receipts.extend(receipt);
    }
    output.write(&text)?;
    output.flush()?;
    Ok(receipts)
}
