//! Records to a server: lines in requests of about a mebibyte.

use crate::cli::client::Client;
use crate::model::{Header, HeadersBuf, HeadersRef, RecordRef, Target};
use crate::server::json_record::write_input;
use crate::server::{Code, EnqueuedView, Problem, ProducedView};

/// Bytes of one request.
const REQUEST_BYTES: usize = 1 << 20;
const JSON_LINES: &str = "application/x-ndjson";

/// Sends records to a server.
pub(super) struct RemoteSink {
    client: Client,
    path: String,
    lines: Vec<u8>,
    /// Attributes of all messages.
    attributes: Vec<Header>,
    headers: HeadersBuf,
    is_queue: bool,
    acknowledged: u64,
    duplicates: u64,
}

impl RemoteSink {
    /// Sends to a topic or a queue of a server.
    pub(super) fn new(client: Client, target: &Target, attributes: Vec<Header>) -> Self {
        let path = match target {
            Target::Topic(name) => format!("/v1/topics/{name}/records"),
            Target::Queue(name) => format!("/v1/queues/{name}/messages"),
        };
        Self {
            client,
            path,
            lines: Vec::new(),
            attributes,
            headers: HeadersBuf::new(),
            is_queue: matches!(target, Target::Queue(_)),
            acknowledged: 0,
            duplicates: 0,
        }
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    pub(super) async fn send(
        &mut self,
        partition: Option<u32>,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> anyhow::Result<()> {
        self.headers.clear();
        for header in &self.attributes {
            self.headers.push(&header.name, header.value.as_deref())?;
        }
        // What a record says itself comes later, and counts.
        for (name, value) in headers {
            self.headers.push(name, value)?;
        }
        let record = RecordRef {
            offset: 0,
            timestamp_ms,
            key,
            value,
            headers: self.headers.as_headers(),
        };
        write_input(partition, &record, &mut self.lines);
        match self.lines.len() >= REQUEST_BYTES {
            true => self.flush().await,
            false => Ok(()),
        }
    }

    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.lines).into();
        let sent = self.client.post_bytes(&self.path, JSON_LINES, lines).await;
        let answer = sent.inspect_err(|error| {
            let stored = error
                .downcast_ref()
                .and_then(|it: &Problem| it.acknowledged);
            self.acknowledged += stored.unwrap_or(0);
        })?;
        if self.is_queue {
            let enqueued: EnqueuedView = serde_json::from_slice(&answer.body)?;
            self.acknowledged += enqueued.acknowledged;
            self.duplicates += enqueued.duplicates;
        } else {
            let produced: ProducedView = serde_json::from_slice(&answer.body)?;
            self.acknowledged += produced.acknowledged;
        }
        Ok(())
    }
}

/// Whether no record is to blame for an error.
pub(super) fn is_storage(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<Problem>() {
        Some(problem) => !matches!(problem.code, Code::InvalidRecord | Code::QueueFull),
        None => true,
    }
}
