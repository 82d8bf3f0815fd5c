//! Where records go: the producer of a topic, or batches of messages of a queue.

use std::sync::Arc;

use super::remote::{self, RemoteSink};
use super::{Message, ProduceArgs};
use crate::cli::json_line::ATTRIBUTES;
use crate::log::{self, Producer};
use crate::model::{Header, HeadersBuf, HeadersRef, partition_for_key};
use crate::queue::{self, MessageBatch, Queue};

/// Bytes and messages after which what is waiting is enqueued.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_MESSAGES: u64 = 10_000;

/// Takes records.
pub(super) enum Sink {
    Topic(Box<TopicSink>),
    Queue(Box<QueueSink>),
    Remote(Box<RemoteTarget>),
}

/// Sends records to a server, without those that are there already.
pub(super) struct RemoteTarget {
    sink: RemoteSink,
    resume: Resume,
}

/// Sends records to a topic, without those that are there already.
pub(super) struct TopicSink {
    producer: Producer,
    resume: Resume,
}

/// Passes over the records of an input that a topic holds.
#[derive(Default)]
pub(super) struct Resume {
    /// By partition: records of the input that are there, and not passed over yet; none if nothing is passed over.
    present: Vec<u64>,
    left_out: u64,
}

/// Takes messages.
pub(super) struct QueueSink {
    batch: MessageBatch,
    /// Attributes of all messages.
    attributes: Vec<Header>,
    headers: HeadersBuf,
    acknowledged: u64,
    duplicates: u64,
}

/// Why a record was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Topic(#[from] log::Error),
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error("{0:#}")]
    Remote(anyhow::Error),
    #[error(
        "the record has no key: with --resume its key has to tell its partition; produce it without --resume, or use --skip"
    )]
    Unkeyed,
}

impl Error {
    /// Whether writing failed, so that no record is to blame.
    pub(super) fn is_storage(&self) -> bool {
        match self {
            Self::Topic(log::Error::Storage(_)) | Self::Queue(queue::Error::Storage(_)) => true,
            Self::Remote(error) => remote::is_storage(error),
            _ => false,
        }
    }
}

impl Sink {
    pub(super) fn queue(queue: &Queue, args: &ProduceArgs) -> Self {
        Self::Queue(Box::new(QueueSink {
            batch: queue.batch(),
            attributes: args.message.attributes(),
            headers: HeadersBuf::new(),
            acknowledged: 0,
            duplicates: 0,
        }))
    }

    pub(super) fn remote(sink: RemoteSink, resume: Resume) -> Self {
        Self::Remote(Box::new(RemoteTarget { sink, resume }))
    }

    /// Records that are stored.
    pub(super) fn acknowledged(&self) -> u64 {
        match self {
            Self::Topic(sink) => sink.producer.acknowledged().records,
            Self::Queue(sink) => sink.acknowledged,
            Self::Remote(target) => target.sink.acknowledged(),
        }
    }

    /// Records that were not stored, since they, or a message with their deduplication id, were there already.
    pub(super) fn left_out(&self) -> u64 {
        match self {
            Self::Topic(sink) => sink.resume.left_out,
            Self::Queue(sink) => sink.duplicates,
            Self::Remote(target) => target.resume.left_out + target.sink.duplicates(),
        }
    }

    pub(super) async fn send(
        &mut self,
        partition: Option<u32>,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        match self {
            Self::Topic(sink) => {
                sink.send(partition, timestamp_ms, key, value, headers)
                    .await
            }
            Self::Queue(sink) => Ok(sink.send(timestamp_ms, key, value, headers).await?),
            Self::Remote(target) => {
                if target.resume.passes_over(partition, key)? {
                    return Ok(());
                }
                let sent = target
                    .sink
                    .send(partition, timestamp_ms, key, value, headers);
                sent.await.map_err(Error::Remote)
            }
        }
    }

    /// Sends what is waiting, and waits until everything is acknowledged.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        match self {
            Self::Topic(sink) => {
                sink.producer.flush().await?;
            }
            Self::Queue(sink) => sink.flush().await?,
            Self::Remote(target) => target.sink.flush().await.map_err(Error::Remote)?,
        }
        Ok(())
    }
}

impl TopicSink {
    /// Records go through a producer of the topic.
    pub(super) fn new(producer: Producer, resume: Resume) -> Self {
        Self { producer, resume }
    }

    async fn send(
        &mut self,
        partition: Option<u32>,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        if self.resume.passes_over(partition, key)? {
            return Ok(());
        }
        let sent = self
            .producer
            .send(partition, timestamp_ms, key, value, headers);
        Ok(sent.await?)
    }
}

impl Resume {
    /// Passes over as many records for each partition as it has.
    pub(super) fn after(ends: impl Iterator<Item = u64>) -> Self {
        Self {
            present: ends.collect(),
            left_out: 0,
        }
    }

    /// Whether the next record of the input for its partition is there. A partition holds an unbroken run of
    /// the records that the input has for it.
    fn passes_over(&mut self, partition: Option<u32>, key: Option<&[u8]>) -> Result<bool, Error> {
        if self.present.is_empty() {
            return Ok(false);
        }
        let count = u32::try_from(self.present.len()).unwrap_or(u32::MAX);
        let partition = match (partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_for_key(key, count),
            (None, None) if count == 1 => 0,
            (None, None) => return Err(Error::Unkeyed),
        };
        let Some(present) = self.present.get_mut(partition as usize) else {
            return Ok(false);
        };
        let is_present = *present > 0;
        *present = present.saturating_sub(1);
        self.left_out += u64::from(is_present);
        Ok(is_present)
    }
}

impl QueueSink {
    async fn send(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), queue::Error> {
        let pushed = if self.attributes.is_empty() {
            self.batch.push(timestamp_ms, key, value, headers)
        } else {
            self.headers.clear();
            for header in &self.attributes {
                self.headers.push(&header.name, header.value.as_deref())?;
            }
            // What a record says itself comes later, and counts.
            for (name, value) in headers {
                self.headers.push(name, value)?;
            }
            let headers = self.headers.as_headers();
            self.batch.push(timestamp_ms, key, value, headers)
        };
        if !pushed? {
            self.duplicates += 1;
        }
        if self.batch.len_bytes() >= BATCH_BYTES || self.batch.len() >= BATCH_MESSAGES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), queue::Error> {
        if !self.batch.is_empty() {
            self.acknowledged += self.batch.enqueue().await?.accepted_count();
        }
        Ok(())
    }
}

impl Message {
    /// The fields that hold attributes, in the order of [`ATTRIBUTES`].
    pub(super) fn fields(&self) -> [Option<String>; ATTRIBUTES.len()] {
        [
            self.priority_field.clone(),
            self.message_group_field.clone(),
            self.deduplication_id_field.clone(),
        ]
    }

    /// As headers.
    pub(super) fn attributes(&self) -> Vec<Header> {
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let given = [
            (queue::PRIORITY, number(self.priority.map(u64::from))),
            (queue::GROUP, self.message_group.clone()),
            (queue::DELAY, number(self.delay)),
            (queue::TIME_TO_LIVE, number(self.time_to_live)),
        ];
        let headers = given.into_iter().filter_map(|(name, value)| {
            let value = value?.into_bytes().into();
            Some(Header::new(Arc::<str>::from(name), Some(value)))
        });
        headers.collect()
    }
}
