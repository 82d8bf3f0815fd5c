//! Kafka's record batch, version 2 (magic 2): the one format in which records are stored, cached
//! and sent.
//!
//! - [`RecordBatch`] is a stored batch. Its header is read once; its records are read in place
//!   ([`Records`], [`RecordRef`]) or decompressed within a bound.
//! - [`BatchBuilder`] writes batches, [`EncodedBatch`] is one whose offsets the log has not assigned
//!   yet.
//!
//! The layout is described in [`header`](HEADER_BYTES) and in the record decoder. Nothing here
//! panics on bytes from outside: lengths are checked before they are used, and arithmetic on them
//! is checked or bounded.

mod builder;
mod error;
mod header;
mod headers;
mod records;
mod varint;

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{
    compression::{self, Compression},
    limits,
    record::{Header, Record},
};

pub use builder::BatchBuilder;
pub use error::Error;
pub use header::HEADER_BYTES;
pub use headers::{HeaderIter, HeadersBuf, HeadersRef};
pub use records::{RecordIter, RecordPosition, RecordRef, Records};

use header::BatchHeader;
use records::clamp_timestamp;

/// A batch with assigned offsets. Cheap to clone: the bytes are shared.
#[derive(Clone)]
pub struct RecordBatch {
    bytes: Bytes,
    header: BatchHeader,
}

impl RecordBatch {
    /// Checks bytes from outside: exactly one batch, with a consistent header, within the limits,
    /// and a matching CRC. The records inside are checked when they are read, or by
    /// [`validate_records`](Self::validate_records).
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        if bytes.len() > limits::MAX_BATCH_BYTES {
            return Err(Error::TooLarge {
                len_bytes: bytes.len(),
            });
        }
        let batch = Self::from_stored(bytes)?;
        if batch.header.record_count > limits::MAX_RECORDS_PER_BATCH {
            return Err(Error::RecordCount {
                // It came from an `i32`.
                count: batch.header.record_count.cast_signed(),
                reason: "more than a batch may have",
            });
        }
        batch.verify_crc()?;
        Ok(batch)
    }

    /// Reads a batch that was checked before it was stored: its header only, not the CRC.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn from_stored(bytes: Bytes) -> Result<Self, Error> {
        let header = BatchHeader::read(&bytes)?;
        Ok(Self { bytes, header })
    }

    /// Compares the CRC in the header with that of the bytes.
    ///
    /// # Errors
    /// [`Error::Crc`] when they differ.
    pub fn verify_crc(&self) -> Result<(), Error> {
        let computed = header::computed_crc(&self.bytes);
        if computed == self.header.crc {
            Ok(())
        } else {
            Err(Error::Crc {
                stored: self.header.crc,
                computed,
            })
        }
    }

    /// Reads every record, decompressing if necessary, and checks it against the limits. Readers
    /// downstream can then rely on the batch.
    ///
    /// # Errors
    /// What is wrong with the first bad record.
    pub fn validate_records(&self) -> Result<(), Error> {
        for record in &self.records()? {
            let record = record?;
            let size_bytes = record.size_bytes();
            if size_bytes > limits::MAX_RECORD_BYTES {
                return Err(Error::RecordTooLarge { size_bytes });
            }
            if record.headers.len() > limits::MAX_HEADERS as usize {
                return Err(Error::TooManyHeaders);
            }
        }
        Ok(())
    }

    /// Offset of the batch's first record (or, after compaction, a lower bound of it).
    #[must_use]
    pub fn base_offset(&self) -> u64 {
        self.header.base_offset
    }

    /// Last offset that belongs to the batch.
    #[must_use]
    pub fn last_offset(&self) -> u64 {
        self.header.base_offset + u64::from(self.header.last_offset_delta)
    }

    /// The offset after [`last_offset`](Self::last_offset).
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.last_offset() + 1
    }

    /// How many records the batch has.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.header.record_count
    }

    /// Timestamp of the first record as the producer set it, in ms since the epoch. In a batch with
    /// a delete horizon it is that horizon, as Kafka has no other place for it.
    #[must_use]
    pub fn first_timestamp_ms(&self) -> u64 {
        clamp_timestamp(self.header.base_timestamp)
    }

    /// Greatest timestamp of the records, in ms since the epoch.
    #[must_use]
    pub fn max_timestamp_ms(&self) -> u64 {
        clamp_timestamp(self.header.max_timestamp)
    }

    /// When the tombstones of this batch may be dropped, in ms since the epoch; set by compaction.
    #[must_use]
    pub fn delete_horizon_ms(&self) -> Option<u64> {
        self.header
            .has_delete_horizon()
            .then(|| clamp_timestamp(self.header.base_timestamp))
    }

    /// How the records are compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.header.compression
    }

    /// Whether this is a transaction marker instead of data.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.header.is_control()
    }

    /// Whether the batch is part of a Kafka transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.header.is_transactional()
    }

    /// Id of the idempotent producer, −1 when there is none.
    #[must_use]
    pub fn producer_id(&self) -> i64 {
        self.header.producer_id
    }

    /// Epoch of the idempotent producer, −1 when there is none.
    #[must_use]
    pub fn producer_epoch(&self) -> i16 {
        self.header.producer_epoch
    }

    /// Sequence number of the first record, −1 when there is no idempotent producer.
    #[must_use]
    pub fn base_sequence(&self) -> i32 {
        self.header.base_sequence
    }

    /// Size of the batch as stored.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The batch as stored.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records: in place when they are not compressed, otherwise decompressed within
    /// [`limits::MAX_DECOMPRESSED_BYTES`].
    ///
    /// # Errors
    /// [`Error::Compression`] when they cannot be decompressed.
    pub fn records(&self) -> Result<Records, Error> {
        let encoded = self.bytes.slice(HEADER_BYTES..);
        let compression = self.header.compression;
        if compression == Compression::None || encoded.is_empty() {
            return Ok(Records::new(&self.header, encoded));
        }
        let limit_bytes = limits::MAX_DECOMPRESSED_BYTES;
        let decompressed = compression::decompress(compression, &encoded, limit_bytes)?;
        Ok(Records::new(&self.header, decompressed.into()))
    }
}

impl fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "RecordBatch", &self.header, self.bytes.len())
    }
}

/// A batch whose base offset is not assigned yet.
pub struct EncodedBatch {
    bytes: BytesMut,
    header: BatchHeader,
}

impl EncodedBatch {
    /// Takes a batch that a client has encoded. On top of what [`RecordBatch::parse`] checks, it
    /// has records, as many as offsets, and is no transaction marker; and every record is read
    /// ([`RecordBatch::validate_records`]), since a record that no consumer can decode would block
    /// its partition for good.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn from_wire(bytes: Bytes) -> Result<Self, Error> {
        let batch = RecordBatch::parse(bytes)?;
        let header = batch.header;
        if header.is_control() {
            return Err(Error::NotAppendable {
                reason: "clients do not write control records",
            });
        }
        if header.has_delete_horizon() {
            return Err(Error::NotAppendable {
                reason: "only compaction sets a delete horizon",
            });
        }
        if header.record_count == 0 {
            return Err(Error::NotAppendable {
                reason: "it has no records",
            });
        }
        if header.record_count != header.last_offset_delta + 1 {
            return Err(Error::NotAppendable {
                reason: "its offsets have gaps",
            });
        }
        batch.validate_records()?;
        // A batch that shares its buffer with others is copied, which also frees that buffer early.
        let bytes = batch
            .bytes
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&*shared));
        Ok(Self { bytes, header })
    }

    /// How many records the batch has.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.header.record_count
    }

    /// How many offsets the batch takes: the last delta + 1, which is the number of records unless
    /// compaction has left gaps.
    #[must_use]
    pub fn offset_count(&self) -> u32 {
        self.header.last_offset_delta + 1
    }

    /// Size of the batch.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Greatest timestamp of the records, in ms since the epoch.
    #[must_use]
    pub fn max_timestamp_ms(&self) -> u64 {
        clamp_timestamp(self.header.max_timestamp)
    }

    /// How the records are compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.header.compression
    }

    /// Gives the batch its place in the partition, in place: neither base offset nor leader epoch
    /// is part of the CRC. The batch's last offset must not exceed [`limits::MAX_OFFSET`].
    #[must_use]
    pub fn assign(mut self, base_offset: u64) -> RecordBatch {
        debug_assert!(
            base_offset <= limits::MAX_OFFSET - u64::from(self.header.last_offset_delta),
            "base offset {base_offset} is out of range"
        );
        header::assign_base_offset(&mut self.bytes, base_offset);
        self.header.base_offset = base_offset;
        RecordBatch {
            bytes: self.bytes.freeze(),
            header: self.header,
        }
    }
}

impl fmt::Debug for EncodedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "EncodedBatch", &self.header, self.bytes.len())
    }
}

fn debug(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    header: &BatchHeader,
    len_bytes: usize,
) -> fmt::Result {
    f.debug_struct(name)
        .field("base_offset", &header.base_offset)
        .field("record_count", &header.record_count)
        .field("last_offset_delta", &header.last_offset_delta)
        .field("compression", &header.compression)
        .field("len_bytes", &len_bytes)
        .finish_non_exhaustive()
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
