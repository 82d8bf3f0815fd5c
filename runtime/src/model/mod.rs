//! The data model: names, limits, records, and Kafka's record batch v2 as the one format in which
//! records are stored, cached and sent.
//!
//! - [`names`]: validated names of topics, groups, pipelines, plugins and ports.
//! - [`histogram`]: counts of values by size, for metrics.
//! - [`http_host`]: hosts that a plugin may call.
//! - [`limits`]: what the system accepts at most, in one place.
//! - [`record`]: an owned record, for the paths where allocation does not matter.
//! - [`batch`]: the codec. [`RecordBatch`] is read without copying, [`BatchBuilder`] writes one
//!   exact allocation per batch.
//! - [`compression`]: the five codecs of the batch format, bounded against decompression bombs.
//! - [`queue_settings`]: choices of a queue's settings.
//! - [`suggestion`]: the known name that a mistyped one means.
//! - [`target`]: a topic or a queue, `topic:NAME` or `queue:NAME`.
//! - [`partitioner`]: Kafka's default key to partition mapping.
//! - [`timer_id`]: how a timer is called.
//!
//! This module depends on no other module of the crate, and everything in it that reads bytes from
//! outside answers malformed input with an error, never with a panic.

pub mod batch;
pub mod compression;
pub mod histogram;
pub mod http_host;
pub mod limits;
pub mod names;
pub mod partitioner;
pub mod queue_settings;
pub mod record;
pub mod suggestion;
pub mod target;
pub mod timer_id;

pub use batch::{
    BatchBuilder, EncodedBatch, HeadersBuf, HeadersRef, RecordBatch, RecordIter, RecordPosition,
    RecordRef, Records,
};
pub use compression::Compression;
pub use histogram::{Histogram, HistogramCounts};
pub use http_host::{HttpAuthority, HttpHost, HttpHostPattern, InvalidHttpHost};
pub use names::{GroupName, PipelineName, PluginName, PortName, QueueName, TokenName, TopicName};
pub use partitioner::{key_hash, partition_for_key};
pub use queue_settings::{GroupBy, MaxLengthPolicy};
pub use record::{Header, Record};
pub use suggestion::suggest;
pub use target::Target;
pub use timer_id::{TIMERS_INPUT, TimerId};
