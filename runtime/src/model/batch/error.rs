//! What can be wrong with a batch, or with a record that is to become part of one.

use super::{HEADER_BYTES, compression, limits};

/// Why bytes are not a batch, or a record cannot become part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than a header has.
    #[error("a record batch has at least {HEADER_BYTES} bytes, this one has {len_bytes}")]
    TooShort {
        /// What there is.
        len_bytes: usize,
    },
    /// More bytes than a batch may have.
    #[error(
        "a record batch has at most {} bytes, this one has {len_bytes}",
        limits::MAX_BATCH_BYTES
    )]
    TooLarge {
        /// What there is.
        len_bytes: usize,
    },
    /// The length field does not match the number of bytes: truncated, or more than one batch.
    #[error("the batch's length field says {declared_bytes} bytes, {actual_bytes} are there")]
    Length {
        /// What the field says.
        declared_bytes: i32,
        /// What follows the field.
        actual_bytes: usize,
    },
    /// Another version of the format.
    #[error("record batch of format version {magic}: only version 2 is supported")]
    Magic {
        /// The version.
        magic: u8,
    },
    /// The checksum does not match: the bytes were changed after they were written.
    #[error(
        "the batch is corrupt: its CRC-32C is {computed:#010x}, the header says {stored:#010x}"
    )]
    Crc {
        /// What the header says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// No codec has this code.
    #[error("unknown compression code {code}")]
    CompressionCode {
        /// The code.
        code: u8,
    },
    /// Negative or out of range.
    #[error("base offset {base_offset} with last offset delta {last_offset_delta} is no range")]
    Offsets {
        /// As in the header.
        base_offset: i64,
        /// As in the header.
        last_offset_delta: i32,
    },
    /// A record count that cannot be.
    #[error("record count {count} is impossible: {reason}")]
    RecordCount {
        /// As in the header.
        count: i32,
        /// Why not.
        reason: &'static str,
    },
    /// A batch that a client may not append.
    #[error("the batch cannot be appended: {reason}")]
    NotAppendable {
        /// Why not.
        reason: &'static str,
    },
    /// A record in the batch is malformed.
    #[error("record {index} of the batch is malformed: {reason}")]
    Record {
        /// Its place in the batch, from 0.
        index: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The records cannot be decompressed (or compressed).
    #[error(transparent)]
    Compression(#[from] compression::Error),
    /// The record has more bytes than any record may have.
    #[error(
        "a record has at most {} bytes, this one has {size_bytes}",
        limits::MAX_RECORD_BYTES
    )]
    RecordTooLarge {
        /// Key, value and encoded headers.
        size_bytes: usize,
    },
    /// The record has more headers than any record may have.
    #[error("a record has at most {} headers", limits::MAX_HEADERS)]
    TooManyHeaders,
    /// The timestamp does not fit the format.
    #[error("timestamp {timestamp_ms} ms is out of range")]
    Timestamp {
        /// In ms since the epoch.
        timestamp_ms: u64,
    },
    /// The batch takes no further record: build it, then push again.
    #[error("the batch is full")]
    BatchFull,
    /// Offsets must ascend within a batch.
    #[error("offset delta {offset_delta} is out of order: at least {next_delta} is due")]
    OffsetOrder {
        /// The record's.
        offset_delta: u32,
        /// The smallest that is possible.
        next_delta: u32,
    },
}
