//! Sends output records to the partitions of the topics behind a pipeline's ports.

use crate::log::{Cleanup, Topic};
use crate::model::{BatchBuilder, HeadersBuf, HeadersRef, PortName, batch, partition_for_key};
use crate::plugin::{Columns, Field, HeadersField, Output};
use crate::storage::Commit;

use super::TaskError;

/// Collects the output records of one batch by partition, and adds them to its commit.
pub(super) struct Outputs {
    ports: Vec<Port>,
    headers: HeadersBuf,
}

struct Port {
    name: PortName,
    topic: Topic,
    /// One for each partition; kept between batches with their buffers.
    builders: Vec<BatchBuilder>,
    needs_key: bool,
    max_batch_bytes: usize,
    /// Where the records without a key of this batch go.
    unkeyed_partition: u32,
}

/// One output record.
pub(super) struct OutputRecord<'a> {
    pub(super) timestamp_ms: u64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: HeadersRef<'a>,
}

impl Outputs {
    pub(super) fn new(ports: impl IntoIterator<Item = (PortName, Topic)>) -> Self {
        let ports = ports
            .into_iter()
            .map(|(name, topic)| Port::new(name, topic))
            .collect();
        Self {
            ports,
            headers: HeadersBuf::new(),
        }
    }

    /// Adds the records of a plugin's output. `source` is the batch that it was made from.
    pub(super) fn add_output(
        &mut self,
        output: &Output,
        source: &Columns,
        now_ms: u64,
        commit: &mut Commit,
    ) -> Result<(), TaskError> {
        let Self { ports, headers } = self;
        for index in 0..output.len() {
            let from = output.source(index);
            let Some(port) = ports.get_mut(output.port(index)) else {
                continue;
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
                        .write_to(headers)
                        .map_err(|error| port.error(&error))?;
                    headers.as_headers()
                }
            };
            let timestamp_ms = output
                .timestamp_ms(index)
                .unwrap_or_else(|| from.map_or(now_ms, |from| source.timestamp_ms(from)));
            port.add(
                &OutputRecord {
                    timestamp_ms,
                    key,
                    value,
                    headers,
                },
                commit,
            )?;
        }
        Ok(())
    }

    /// Adds one record to the first port.
    pub(super) fn add_record(
        &mut self,
        record: &OutputRecord<'_>,
        commit: &mut Commit,
    ) -> Result<(), TaskError> {
        match self.ports.first_mut() {
            Some(port) => port.add(record, commit),
            None => Ok(()),
        }
    }

    /// Adds what is still open to the commit.
    pub(super) fn finish(&mut self, commit: &mut Commit) -> Result<(), TaskError> {
        for port in &mut self.ports {
            for partition in 0..port.topic.partition_count() {
                port.close(partition, commit)?;
            }
            port.unkeyed_partition = (port.unkeyed_partition + 1) % port.topic.partition_count();
        }
        Ok(())
    }
}

impl Port {
    fn new(name: PortName, topic: Topic) -> Self {
        let config = topic.config();
        let compression = config.batch_compression();
        Self {
            builders: topic
                .partitions()
                .iter()
                .map(|_| BatchBuilder::new(compression))
                .collect(),
            needs_key: config.cleanup == Cleanup::Compact,
            max_batch_bytes: config.max_batch_bytes,
            unkeyed_partition: 0,
            name,
            topic,
        }
    }

    fn add(&mut self, record: &OutputRecord<'_>, commit: &mut Commit) -> Result<(), TaskError> {
        let partition = match record.key {
            Some(key) => partition_for_key(key, self.topic.partition_count()),
            None if self.needs_key => {
                return Err(self.reason("a record without a key cannot go to a compacted topic"));
            }
            None => self.unkeyed_partition,
        };
        let mut pushed = self.push(partition, record);
        if let Err(batch::Error::BatchFull) = pushed {
            self.close(partition, commit)?;
            pushed = self.push(partition, record);
        }
        pushed.map_err(|error| self.error(&error))?;
        let size_bytes = self
            .builders
            .get(partition as usize)
            .map_or(0, BatchBuilder::size_bytes);
        // The next record of usual size still fits; a batch that ends up larger has one record.
        if size_bytes >= self.max_batch_bytes / 2 {
            self.close(partition, commit)?;
        }
        Ok(())
    }

    fn push(&mut self, partition: u32, record: &OutputRecord<'_>) -> Result<(), batch::Error> {
        match self.builders.get_mut(partition as usize) {
            Some(builder) => builder.push(
                record.timestamp_ms,
                record.key,
                record.value,
                record.headers,
            ),
            None => Ok(()),
        }
    }

    fn close(&mut self, partition: u32, commit: &mut Commit) -> Result<(), TaskError> {
        let Some(builder) = self.builders.get_mut(partition as usize) else {
            return Ok(());
        };
        let built = builder.build();
        let Some(batch) = built.map_err(|error| self.error(&error))? else {
            return Ok(());
        };
        if batch.len_bytes() > self.max_batch_bytes {
            let (len_bytes, limit) = (batch.len_bytes(), self.max_batch_bytes);
            return Err(self.reason(&format!(
                "a batch of {len_bytes} bytes is larger than the topic's max-batch-bytes of {limit}"
            )));
        }
        let partition = self.topic.partition(partition)?;
        commit.append(std::sync::Arc::clone(partition), batch);
        Ok(())
    }

    fn error(&self, error: &batch::Error) -> TaskError {
        TaskError::output(self.name.as_str(), self.topic.name(), error)
    }

    fn reason(&self, reason: &str) -> TaskError {
        let (port, topic) = (self.name.to_string(), self.topic.name().clone());
        TaskError::Output {
            port,
            topic,
            reason: reason.to_owned(),
        }
    }
}
