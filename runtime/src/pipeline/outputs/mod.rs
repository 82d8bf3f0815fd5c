//! Sends output records to the topics and queues behind a pipeline's ports.

mod left_behind;
mod queue_port;
mod topic_port;
mod trace_headers;

use self::queue_port::QueuePort;
use self::topic_port::TopicPort;
use super::call_trace::CallTrace;
use crate::log::Topic;
use crate::model::{HeadersBuf, HeadersRef, PortName, batch, limits};
use crate::plugin::{Columns, EncodedHeaders, Field, HeadersField, Output};
use crate::queue::{self, Queue};
use crate::storage::Commit;
use crate::trace::TRACE_HEADERS_BYTES;

/// Collects the output records of one batch by port, and adds them to its commit.
pub(super) struct Outputs {
    ports: Vec<Port>,
    /// Which inputs are queues, by index.
    are_queues: Vec<bool>,
    headers: HeadersBuf,
    /// Bytes that one batch may lead to, what is taken over from its source records included.
    max_bytes: usize,
    bytes: usize,
    unkeyed_turn: u32,
    /// The call that the records come from, if it is traced.
    trace: Option<CallTrace>,
    traced_headers: HeadersBuf,
    kept_headers: HeadersBuf,
}

enum Port {
    Topic(TopicPort),
    Queue(Box<QueuePort>),
}

/// What a port of a pipeline leads to.
#[derive(Clone, Debug)]
pub(super) enum Destination {
    Topic(Topic),
    Queue(Queue),
}

/// One output record.
pub(super) struct OutputRecord<'a> {
    pub(super) timestamp_ms: u64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: HeadersRef<'a>,
}

/// Why output records cannot be stored.
#[derive(Debug)]
pub(super) enum OutputError {
    /// There is something wrong with a record.
    Record {
        /// Index in the batch of the record that it derives from.
        source: Option<usize>,
        reason: String,
    },
    /// The output takes nothing now, and will later.
    Blocked { reason: String },
}

impl Outputs {
    /// Outputs to these ports, of these inputs; one batch may lead to at most `max_bytes` of keys, values and headers.
    pub(super) fn new(
        ports: impl IntoIterator<Item = (PortName, Destination)>,
        are_queues: Vec<bool>,
        max_bytes: usize,
    ) -> Self {
        let ports = ports
            .into_iter()
            .map(|(name, destination)| match destination {
                Destination::Topic(topic) => Port::Topic(TopicPort::new(name, topic)),
                Destination::Queue(queue) => Port::Queue(Box::new(QueuePort::new(name, queue))),
            })
            .collect();
        Self {
            ports,
            are_queues,
            headers: HeadersBuf::new(),
            max_bytes,
            bytes: 0,
            unkeyed_turn: 0,
            trace: None,
            traced_headers: HeadersBuf::new(),
            kept_headers: HeadersBuf::new(),
        }
    }

    /// The records from now on come from this call.
    pub(super) fn set_trace(&mut self, trace: Option<CallTrace>) {
        self.trace = trace;
    }

    /// Adds the records of a plugin's output. `source` is the batch that it was made from; what comes from
    /// records of it that are not kept is left out.
    pub(super) fn add_output(
        &mut self,
        output: &Output,
        source: &Columns,
        is_kept: impl Fn(usize) -> bool,
        now_ms: u64,
        commit: &mut Commit,
    ) -> Result<(), OutputError> {
        for index in 0..output.len() {
            let from = output.source(index);
            if from.is_some_and(|from| !is_kept(from)) {
                continue;
            }
            self.add_one(output, index, source, now_ms, commit)
                .map_err(|error| error.of(from))?;
        }
        Ok(())
    }

    fn add_one(
        &mut self,
        output: &Output,
        index: usize,
        source: &Columns,
        now_ms: u64,
        commit: &mut Commit,
    ) -> Result<(), OutputError> {
        let from = output.source(index);
        let Some(port) = self.ports.get_mut(output.port(index)) else {
            return Ok(());
        };
        let value = match output.value(index) {
            Field::AsSource => from.and_then(|from| source.value(from)),
            Field::Null => None,
            Field::Bytes(bytes) => Some(bytes),
        };
        let key = match output.key(index) {
            Field::AsSource => from.and_then(|from| source.key(from)),
            Field::Null => None,
            Field::Bytes(bytes) => Some(bytes),
        };
        let own = output.headers(index);
        let of_source = from.map_or(EncodedHeaders::EMPTY, |from| source.headers(from));
        let encoded = match own {
            HeadersField::AsSource => of_source,
            HeadersField::Encoded(encoded) => encoded,
        };
        let unfit = |error: batch::Error| OutputError::record(port.reason(&error.to_string()));
        let headers = if encoded.is_empty() {
            HeadersRef::EMPTY
        } else {
            encoded.write_to(&mut self.headers).map_err(unfit)?;
            self.headers.as_headers()
        };
        let timestamp_ms = output
            .timestamp_ms(index)
            .unwrap_or_else(|| from.map_or(now_ms, |from| source.timestamp_ms(from)));
        let mut record = OutputRecord {
            timestamp_ms,
            key,
            value,
            headers,
        };
        self.bytes += record.size_bytes();
        if self.bytes > self.max_bytes {
            return Err(OutputError::record(format!(
                "the output of the batch, with what it takes over from its source records, is larger than {} bytes (limits.output)",
                self.max_bytes
            )));
        }
        let traced = self.trace.as_ref().and_then(|trace| trace.of_output(from));
        if let Some(context) = traced
            && port.has_room(record.size_bytes() + TRACE_HEADERS_BYTES)
        {
            let headers = &mut self.traced_headers;
            if trace_headers::write(own, of_source, &context, headers) {
                record.headers = headers.as_headers();
            }
        }
        if self.are_queues.get(source.input() as usize) == Some(&true)
            && let count @ 1.. = left_behind::count(own, of_source)
        {
            let headers = &mut self.kept_headers;
            left_behind::write_without(record.headers, count, headers).map_err(unfit)?;
            record.headers = headers.as_headers();
        }
        port.add(&record, self.unkeyed_turn, commit)
    }

    /// Adds one record to the first port.
    pub(super) fn add_record(
        &mut self,
        record: &OutputRecord<'_>,
        commit: &mut Commit,
    ) -> Result<(), OutputError> {
        let Some(port) = self.ports.first_mut() else {
            return Ok(());
        };
        port.add(record, self.unkeyed_turn, commit)
    }

    /// Forgets what is still open: the batch failed.
    pub(super) fn discard(&mut self) {
        self.bytes = 0;
        for port in &mut self.ports {
            match port {
                Port::Topic(port) => port.discard(),
                Port::Queue(port) => port.discard(),
            }
        }
    }

    /// Lets queues make room that have to do that in commits of their own before they take more; whether any has.
    pub(super) async fn make_room(&mut self) -> Result<bool, queue::Error> {
        let mut has_made = false;
        for port in &mut self.ports {
            if let Port::Queue(port) = port {
                has_made |= port.make_room().await?;
            }
        }
        Ok(has_made)
    }

    /// Adds what is still open to the commit, in which there is nothing else. Returns how many records it has of the
    /// plugin.
    pub(super) fn finish(&mut self, commit: &mut Commit) -> Result<u64, OutputError> {
        self.bytes = 0;
        self.unkeyed_turn = self.unkeyed_turn.wrapping_add(1);
        let mut letter_count = 0;
        for port in &mut self.ports {
            match port {
                Port::Topic(port) => port.finish(commit).map_err(OutputError::record)?,
                Port::Queue(port) => letter_count += port.finish(commit)?,
            }
        }
        Ok(commit.record_count() - letter_count)
    }
}

impl Port {
    #[inline]
    fn add(
        &mut self,
        record: &OutputRecord<'_>,
        unkeyed_turn: u32,
        commit: &mut Commit,
    ) -> Result<(), OutputError> {
        match self {
            Self::Topic(port) => {
                let added = port.add(record, unkeyed_turn, commit);
                added.map_err(OutputError::record)
            }
            Self::Queue(port) => port.add(record),
        }
    }

    /// Whether a record of so many bytes surely fits, alone.
    fn has_room(&self, bytes: usize) -> bool {
        let max_bytes = match self {
            Self::Topic(port) => port.max_batch_bytes(),
            Self::Queue(_) => limits::MAX_RECORD_BYTES,
        };
        bytes <= max_bytes
    }

    fn reason(&self, reason: &str) -> String {
        match self {
            Self::Topic(port) => port.reason(reason),
            Self::Queue(port) => port.reason(reason),
        }
    }
}

impl OutputError {
    pub(super) fn record(reason: String) -> Self {
        Self::Record {
            source: None,
            reason,
        }
    }

    /// Says which record of the batch it derives from.
    fn of(self, from: Option<usize>) -> Self {
        match self {
            Self::Record { reason, .. } => Self::Record {
                source: from,
                reason,
            },
            blocked @ Self::Blocked { .. } => blocked,
        }
    }
}

impl OutputRecord<'_> {
    pub(super) fn size_bytes(&self) -> usize {
        let field = |field: Option<&[u8]>| field.map_or(0, <[u8]>::len);
        field(self.key) + field(self.value) + self.headers.as_encoded().len()
    }
}
