//! Sends output records to the partitions of the topics behind a pipeline's ports.

use crate::log::{Cleanup, Topic};
use crate::model::{
    BatchBuilder, Compression, HeadersBuf, HeadersRef, PortName, batch, partition_for_key,
};
use crate::plugin::{Columns, Field, HeadersField, Output};
use crate::storage::Commit;

/// Builders that have grown beyond this are not kept for the next batch.
const MAX_KEPT_BUILDER_BYTES: usize = 256 << 10;
/// What a record takes in a batch besides its key, value and headers, at most.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// Collects the output records of one batch by partition, and adds them to its commit.
pub(super) struct Outputs {
    ports: Vec<Port>,
    headers: HeadersBuf,
    /// Bytes that one batch may lead to, what is taken over from its source records included.
    max_bytes: usize,
    bytes: usize,
    unkeyed_turn: u32,
}

struct Port {
    name: PortName,
    topic: Topic,
    /// By partition; made when first needed, kept between batches with their buffers.
    builders: Vec<Option<BatchBuilder>>,
    compression: Compression,
    needs_key: bool,
    max_batch_bytes: usize,
}

/// One output record.
pub(super) struct OutputRecord<'a> {
    pub(super) timestamp_ms: u64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: HeadersRef<'a>,
}

/// Why an output record cannot be stored.
#[derive(Debug)]
pub(super) struct OutputError {
    /// Index in the batch of the record that it derives from.
    pub(super) source: Option<usize>,
    pub(super) reason: String,
}

impl Outputs {
    /// Outputs to these ports; one batch may lead to at most `max_bytes` of keys, values and headers.
    pub(super) fn new(
        ports: impl IntoIterator<Item = (PortName, Topic)>,
        max_bytes: usize,
    ) -> Self {
        let ports = ports
            .into_iter()
            .map(|(name, topic)| Port::new(name, topic))
            .collect();
        Self {
            ports,
            headers: HeadersBuf::new(),
            max_bytes,
            bytes: 0,
            unkeyed_turn: 0,
        }
    }

    /// Adds the records of a plugin's output. `source` is the batch that it was made from.
    pub(super) fn add_output(
        &mut self,
        output: &Output,
        source: &Columns,
        now_ms: u64,
        commit: &mut Commit,
    ) -> Result<(), OutputError> {
        for index in 0..output.len() {
            let from = output.source(index);
            self.add_one(output, index, source, now_ms, commit)
                .map_err(|reason| OutputError {
                    source: from,
                    reason,
                })?;
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
    ) -> Result<(), String> {
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
        let encoded = match output.headers(index) {
            HeadersField::AsSource => from.map(|from| source.headers(from)),
            HeadersField::Encoded(encoded) => Some(encoded),
        };
        let headers = match encoded.filter(|encoded| !encoded.is_empty()) {
            None => HeadersRef::EMPTY,
            Some(encoded) => {
                encoded
                    .write_to(&mut self.headers)
                    .map_err(|error| port.reason(&error.to_string()))?;
                self.headers.as_headers()
            }
        };
        let timestamp_ms = output
            .timestamp_ms(index)
            .unwrap_or_else(|| from.map_or(now_ms, |from| source.timestamp_ms(from)));
        let record = OutputRecord {
            timestamp_ms,
            key,
            value,
            headers,
        };
        self.bytes += record.size_bytes();
        if self.bytes > self.max_bytes {
            return Err(format!(
                "the output of the batch, with what it takes over from its source records, is larger than {} bytes (limits.output)",
                self.max_bytes
            ));
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
        let added = port.add(record, self.unkeyed_turn, commit);
        added.map_err(|reason| OutputError {
            source: None,
            reason,
        })
    }

    /// Forgets what is still open: the batch failed.
    pub(super) fn discard(&mut self) {
        self.bytes = 0;
        for builder in self.ports.iter_mut().flat_map(|port| &mut port.builders) {
            *builder = None;
        }
    }

    /// Adds what is still open to the commit.
    pub(super) fn finish(&mut self, commit: &mut Commit) -> Result<(), OutputError> {
        self.bytes = 0;
        self.unkeyed_turn = self.unkeyed_turn.wrapping_add(1);
        for port in &mut self.ports {
            for partition in 0..port.topic.partition_count() {
                port.close(partition, commit)
                    .map_err(|reason| OutputError {
                        source: None,
                        reason,
                    })?;
            }
        }
        Ok(())
    }
}

impl OutputRecord<'_> {
    fn size_bytes(&self) -> usize {
        let field = |field: Option<&[u8]>| field.map_or(0, <[u8]>::len);
        field(self.key) + field(self.value) + self.headers.as_encoded().len()
    }
}

impl Port {
    fn new(name: PortName, topic: Topic) -> Self {
        let config = topic.config();
        Self {
            builders: topic.partitions().iter().map(|_| None).collect(),
            compression: config.batch_compression(),
            needs_key: config.cleanup == Cleanup::Compact,
            max_batch_bytes: config.max_batch_bytes,
            name,
            topic,
        }
    }

    /// Adds a record; `unkeyed_turn` chooses the partition of those without a key.
    #[inline]
    fn add(
        &mut self,
        record: &OutputRecord<'_>,
        unkeyed_turn: u32,
        commit: &mut Commit,
    ) -> Result<(), String> {
        let partitions = self.topic.partition_count();
        let partition = match record.key {
            Some(key) => partition_for_key(key, partitions),
            None if self.needs_key => {
                return Err(self.reason("a record without a key cannot go to a compacted topic"));
            }
            None => unkeyed_turn % partitions.max(1),
        };
        let Some(slot) = self.builders.get_mut(partition as usize) else {
            return Ok(());
        };
        let builder = slot.get_or_insert_with(|| BatchBuilder::new(self.compression));
        let size_bytes = builder.size_bytes() + record.size_bytes() + RECORD_OVERHEAD_BYTES;
        if !builder.is_empty() && size_bytes > self.max_batch_bytes {
            self.close(partition, commit)?;
        }
        let mut pushed = self.push(partition, record);
        if let Err(batch::Error::BatchFull) = pushed {
            self.close(partition, commit)?;
            pushed = self.push(partition, record);
        }
        pushed.map_err(|error| self.reason(&error.to_string()))
    }

    #[inline]
    fn push(&mut self, partition: u32, record: &OutputRecord<'_>) -> Result<(), batch::Error> {
        let Some(slot) = self.builders.get_mut(partition as usize) else {
            return Ok(());
        };
        let builder = slot.get_or_insert_with(|| BatchBuilder::new(self.compression));
        builder.push(
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )
    }

    fn close(&mut self, partition: u32, commit: &mut Commit) -> Result<(), String> {
        let Some(slot) = self.builders.get_mut(partition as usize) else {
            return Ok(());
        };
        let Some(builder) = slot else { return Ok(()) };
        let is_large = builder.size_bytes() > MAX_KEPT_BUILDER_BYTES;
        let built = builder.build();
        if is_large {
            *slot = None;
        }
        let Some(batch) = built.map_err(|error| self.reason(&error.to_string()))? else {
            return Ok(());
        };
        if batch.len_bytes() > self.max_batch_bytes {
            let (len_bytes, limit) = (batch.len_bytes(), self.max_batch_bytes);
            return Err(self.reason(&format!(
                "a record makes a batch of {len_bytes} bytes, larger than the topic's max-batch-bytes of {limit}"
            )));
        }
        let partition = self
            .topic
            .partition(partition)
            .map_err(|error| error.to_string())?;
        commit.append(std::sync::Arc::clone(partition), batch);
        Ok(())
    }

    fn reason(&self, reason: &str) -> String {
        format!(
            "port `{}`, topic `{}`: {reason}",
            self.name,
            self.topic.name()
        )
    }
}
