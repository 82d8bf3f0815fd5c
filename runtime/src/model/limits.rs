//! What the system accepts at most. A limit on everything keeps memory bounded and turns a
//! mistake (or an attack) into a clear error at the door.

/// Longest name of a topic, group, pipeline, plugin or port, in bytes (Kafka's limit).
pub const MAX_NAME_BYTES: usize = 249;

/// Largest record batch, header included. It bounds a batch as it is stored as well as its records
/// before [`BatchBuilder`](super::BatchBuilder) compresses them.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Largest record batch that a topic takes from outside unless its settings say otherwise: Kafka's
/// `max.message.bytes`, which is 1 MiB and the 12 bytes that a batch has before what Kafka counts.
pub const DEFAULT_MAX_BATCH_BYTES: usize = 1_048_588;

/// Largest record: key, value and encoded headers together.
///
/// Half of [`MAX_BATCH_BYTES`], so that an empty builder always has room for one record.
pub const MAX_RECORD_BYTES: usize = 8 * 1024 * 1024;

/// Most records in one batch.
pub const MAX_RECORDS_PER_BATCH: u32 = 65_536;

/// Most headers on one record.
pub const MAX_HEADERS: u32 = 1_000;

/// Most bytes that the records of one compressed batch may decompress to. A compressed batch which
/// holds more is refused while it is being decompressed, before the memory is spent.
pub const MAX_DECOMPRESSED_BYTES: usize = 64 * 1024 * 1024;

/// Most partitions of one topic.
pub const MAX_PARTITIONS: u32 = 4_096;

/// Most topics in one data directory.
pub const MAX_TOPICS: u32 = 10_000;

/// Most queues in one data directory.
pub const MAX_QUEUES: u32 = 10_000;

/// Latest timestamp of a record, in ms since the epoch: the batch format stores an `i64`.
pub const MAX_TIMESTAMP_MS: u64 = i64::MAX as u64;

/// Greatest offset of a record: the batch format stores an `i64`, and the offset after the last
/// one must be representable, too.
pub const MAX_OFFSET: u64 = i64::MAX as u64 - 1;

const _: () = assert!(MAX_RECORD_BYTES + 1024 < MAX_BATCH_BYTES);
const _: () = assert!(MAX_BATCH_BYTES <= MAX_DECOMPRESSED_BYTES);
