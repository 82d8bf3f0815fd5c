//! The 61-byte header of a record batch.
//!
//! | offset | field | type |
//! |---|---|---|
//! | 0 | base offset | i64 |
//! | 8 | batch length: bytes after this field | i32 |
//! | 12 | partition leader epoch | i32 |
//! | 16 | magic, 2 | i8 |
//! | 17 | CRC-32C of everything from the attributes to the end | u32 |
//! | 21 | attributes | i16 |
//! | 23 | last offset delta | i32 |
//! | 27 | base timestamp (delete horizon when attribute bit 6 is set) | i64 |
//! | 35 | max timestamp | i64 |
//! | 43 | producer id, −1 = none | i64 |
//! | 51 | producer epoch | i16 |
//! | 53 | base sequence | i32 |
//! | 57 | record count | i32 |
//! | 61 | records | |
//!
//! All numbers are big-endian. Base offset and leader epoch lie outside the CRC, so that the log
//! can assign them without touching the rest.

use super::{Compression, Error, limits};

/// The header's size; the records follow.
pub const HEADER_BYTES: usize = 61;

const BASE_OFFSET: usize = 0;
const BATCH_LENGTH: usize = 8;
const LEADER_EPOCH: usize = 12;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const RECORD_COUNT: usize = 57;

/// The batch length field counts from here.
const LENGTH_BASE: usize = LEADER_EPOCH;

const MAGIC_V2: u8 = 2;

const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// Encoded size of the smallest record: six one-byte numbers behind a one-byte length.
const MIN_RECORD_BYTES: usize = 7;

/// The header's fields as they are stored, checked for consistency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) base_offset: u64,
    pub(super) last_offset_delta: u32,
    pub(super) record_count: u32,
    pub(super) crc: u32,
    pub(super) compression: Compression,
    pub(super) attributes: i16,
    pub(super) base_timestamp: i64,
    pub(super) max_timestamp: i64,
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
}

/// Copies the field at a constant position out of the header.
#[inline(always)]
fn field<const AT: usize, const N: usize>(header: &[u8; HEADER_BYTES]) -> [u8; N] {
    const { assert!(AT + N <= HEADER_BYTES) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[AT..AT + N]);
    bytes
}

impl BatchHeader {
    /// Reads the header of a batch that is all of `bytes`, and checks everything that can be
    /// checked without reading the records.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Error> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Error::TooShort {
                len_bytes: bytes.len(),
            });
        };
        let declared_bytes = i32::from_be_bytes(field::<BATCH_LENGTH, 4>(header));
        let actual_bytes = bytes.len() - LENGTH_BASE;
        if usize::try_from(declared_bytes) != Ok(actual_bytes) {
            return Err(Error::Length {
                declared_bytes,
                actual_bytes,
            });
        }
        if header[MAGIC] != MAGIC_V2 {
            return Err(Error::Magic {
                magic: header[MAGIC],
            });
        }
        let attributes = i16::from_be_bytes(field::<ATTRIBUTES, 2>(header));
        let code = (attributes & COMPRESSION_MASK) as u8;
        let compression = Compression::from_code(code).ok_or(Error::CompressionCode { code })?;
        let (base_offset, last_offset_delta) = read_offsets(header)?;
        let count = i32::from_be_bytes(field::<RECORD_COUNT, 4>(header));
        let record_count = read_count(count, last_offset_delta)?;
        let records_bytes = bytes.len() - HEADER_BYTES;
        if compression == Compression::None
            && record_count as usize > records_bytes / MIN_RECORD_BYTES
        {
            return Err(Error::RecordCount {
                count,
                reason: "more than the batch has room for",
            });
        }
        Ok(Self {
            base_offset,
            last_offset_delta,
            record_count,
            crc: u32::from_be_bytes(field::<CRC, 4>(header)),
            compression,
            attributes,
            base_timestamp: i64::from_be_bytes(field::<BASE_TIMESTAMP, 8>(header)),
            max_timestamp: i64::from_be_bytes(field::<MAX_TIMESTAMP, 8>(header)),
            producer_id: i64::from_be_bytes(field::<PRODUCER_ID, 8>(header)),
            producer_epoch: i16::from_be_bytes(field::<PRODUCER_EPOCH, 2>(header)),
            base_sequence: i32::from_be_bytes(field::<BASE_SEQUENCE, 4>(header)),
        })
    }

    /// Writes the header in front of the records that `batch` has behind it, and returns it with
    /// the CRC that it has computed. `batch` is at least [`HEADER_BYTES`] and at most
    /// [`limits::MAX_BATCH_BYTES`] long.
    pub(super) fn write(mut self, batch: &mut [u8]) -> Self {
        let length = (batch.len() - LENGTH_BASE) as u32;
        let mut put = |at: usize, bytes: &[u8]| batch[at..at + bytes.len()].copy_from_slice(bytes);
        put(BASE_OFFSET, &self.base_offset.to_be_bytes());
        put(BATCH_LENGTH, &length.to_be_bytes());
        put(LEADER_EPOCH, &[0; 4]);
        put(MAGIC, &[MAGIC_V2]);
        put(ATTRIBUTES, &self.attributes.to_be_bytes());
        put(LAST_OFFSET_DELTA, &self.last_offset_delta.to_be_bytes());
        put(BASE_TIMESTAMP, &self.base_timestamp.to_be_bytes());
        put(MAX_TIMESTAMP, &self.max_timestamp.to_be_bytes());
        put(PRODUCER_ID, &self.producer_id.to_be_bytes());
        put(PRODUCER_EPOCH, &self.producer_epoch.to_be_bytes());
        put(BASE_SEQUENCE, &self.base_sequence.to_be_bytes());
        put(RECORD_COUNT, &self.record_count.to_be_bytes());
        self.crc = computed_crc(batch);
        batch[CRC..CRC + 4].copy_from_slice(&self.crc.to_be_bytes());
        self
    }

    /// A header for records from no particular producer.
    pub(super) fn without_producer(
        compression: Compression,
        delete_horizon: bool,
        base_timestamp: i64,
        max_timestamp: i64,
        record_count: u32,
        last_offset_delta: u32,
    ) -> Self {
        let horizon = if delete_horizon { DELETE_HORIZON } else { 0 };
        Self {
            base_offset: 0,
            last_offset_delta,
            record_count,
            crc: 0,
            compression,
            attributes: i16::from(compression.code()) | horizon,
            base_timestamp,
            max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
        }
    }

    pub(super) fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub(super) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub(super) fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }
}

fn read_offsets(header: &[u8; HEADER_BYTES]) -> Result<(u64, u32), Error> {
    let base_offset = i64::from_be_bytes(field::<BASE_OFFSET, 8>(header));
    let last_offset_delta = i32::from_be_bytes(field::<LAST_OFFSET_DELTA, 4>(header));
    let wrong = Error::Offsets {
        base_offset,
        last_offset_delta,
    };
    let (Ok(base), Ok(delta)) = (u64::try_from(base_offset), u32::try_from(last_offset_delta))
    else {
        return Err(wrong);
    };
    // Both are positive and signed on the wire, so the sum cannot wrap.
    if base + u64::from(delta) > limits::MAX_OFFSET {
        Err(wrong)
    } else {
        Ok((base, delta))
    }
}

fn read_count(count: i32, last_offset_delta: u32) -> Result<u32, Error> {
    let record_count = u32::try_from(count).map_err(|_| Error::RecordCount {
        count,
        reason: "negative",
    })?;
    // Compaction leaves gaps between offsets, so fewer is fine, down to an empty batch.
    if u64::from(record_count) > u64::from(last_offset_delta) + 1 {
        return Err(Error::RecordCount {
            count,
            reason: "more than the batch has offsets for",
        });
    }
    Ok(record_count)
}

/// CRC-32C of a batch, which is at least [`HEADER_BYTES`] long.
pub(super) fn computed_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[ATTRIBUTES..])
}

/// Overwrites base offset and leader epoch of a batch, which is at least [`HEADER_BYTES`] long.
pub(super) fn assign_base_offset(batch: &mut [u8], base_offset: u64) {
    batch[BASE_OFFSET..BASE_OFFSET + 8].copy_from_slice(&base_offset.to_be_bytes());
    batch[LEADER_EPOCH..LEADER_EPOCH + 4].copy_from_slice(&[0; 4]);
}
