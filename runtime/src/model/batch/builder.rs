//! Writing a batch.
//!
//! Records are encoded into a buffer that stays with the builder; `build` makes one allocation of
//! exactly the batch's size, which then lives as long as its readers need it. Exact, since the log
//! keeps batches in memory: the slack of a grown buffer would be paid for there.

use bytes::BytesMut;

use super::{
    EncodedBatch, Error, HeadersRef,
    header::{BatchHeader, HEADER_BYTES},
    headers::field_length,
    limits,
    varint::{Writer, encoded_len, zigzag},
};
use crate::model::compression::{Compression, Compressor};

/// What the encoding of a record needs at most besides its key, value and headers.
const MAX_RECORD_OVERHEAD_BYTES: usize = 48;

/// Collects records and encodes them as one batch. Reusable: [`build`](Self::build) leaves it
/// empty and keeps its memory.
#[derive(Debug)]
pub struct BatchBuilder {
    compressor: Compressor,
    /// Room for the header, then the records. All of it is initialised and `len` says how much is
    /// used, so that writing a record neither clears memory nor checks for capacity by the byte.
    buffer: Vec<u8>,
    len: usize,
    compressed: Vec<u8>,
    /// For the batches to come.
    delete_horizon_ms: Option<u64>,
    /// Whether this batch's base timestamp is a delete horizon.
    has_delete_horizon: bool,
    count: u32,
    next_delta: u32,
    base_timestamp_ms: u64,
    max_timestamp_ms: u64,
}

impl BatchBuilder {
    /// An empty builder whose batches are compressed with `compression`.
    ///
    /// A batch that compression would not make smaller is written uncompressed, which the batch's
    /// own attributes tell its readers.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self {
            compressor: Compressor::new(compression),
            buffer: Vec::new(),
            len: HEADER_BYTES,
            compressed: Vec::new(),
            delete_horizon_ms: None,
            has_delete_horizon: false,
            count: 0,
            next_delta: 0,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
        }
    }

    /// A batch of one record, uncompressed, for which a builder's room would be too much.
    ///
    /// # Errors
    /// Those of [`push`](Self::push), but for [`Error::BatchFull`].
    pub fn single(
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<EncodedBatch, Error> {
        let fields = [key, value, Some(headers.as_encoded())];
        let fields = fields.into_iter().flatten().map(<[u8]>::len);
        let mut builder = Self::new(Compression::None);
        builder.buffer = vec![0; HEADER_BYTES + fields.sum::<usize>() + MAX_RECORD_OVERHEAD_BYTES];
        builder.push(timestamp_ms, key, value, headers)?;
        builder.build()?.ok_or(Error::BatchFull)
    }

    /// Marks the batches to come with the time from which a compacted topic may drop their
    /// tombstones, in ms since the epoch. Takes effect with the next empty batch.
    pub fn set_delete_horizon_ms(&mut self, delete_horizon_ms: Option<u64>) {
        self.delete_horizon_ms = delete_horizon_ms.map(|at| at.min(limits::MAX_TIMESTAMP_MS));
    }

    /// Appends a record at the next offset.
    ///
    /// # Errors
    /// [`Error::BatchFull`] when the batch has to be built first; [`Error::RecordTooLarge`],
    /// [`Error::TooManyHeaders`] and [`Error::Timestamp`] when the record can never be appended.
    /// The builder is unchanged after an error.
    #[inline]
    pub fn push(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        self.push_at(self.next_delta, timestamp_ms, key, value, headers)
    }

    /// Appends an owned record. Otherwise as [`push`](Self::push).
    #[cfg(test)]
    pub(crate) fn push_record(&mut self, record: &crate::model::Record) -> Result<(), Error> {
        let mut headers = super::HeadersBuf::new();
        for header in &record.headers {
            headers.push(&header.name, header.value.as_deref())?;
        }
        self.push(
            record.timestamp_ms,
            record.key.as_deref(),
            record.value.as_deref(),
            headers.as_headers(),
        )
    }

    /// Appends a record whose offset lies `offset_delta` above the batch's base offset; deltas
    /// ascend strictly. For compaction, which keeps offsets and leaves gaps.
    ///
    /// # Errors
    /// Those of [`push`](Self::push), and [`Error::OffsetOrder`].
    #[inline]
    pub fn push_at(
        &mut self,
        offset_delta: u32,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        if offset_delta < self.next_delta || offset_delta > i32::MAX as u32 {
            return Err(Error::OffsetOrder {
                offset_delta,
                next_delta: self.next_delta,
            });
        }
        if timestamp_ms > limits::MAX_TIMESTAMP_MS {
            return Err(Error::Timestamp { timestamp_ms });
        }
        let first = self.count == 0;
        let base_timestamp_ms = match (first, self.delete_horizon_ms) {
            (false, _) => self.base_timestamp_ms,
            (true, Some(horizon_ms)) => horizon_ms,
            (true, None) => timestamp_ms,
        };
        // Both fit an `i64`, so the difference does.
        let timestamp = zigzag(timestamp_ms.cast_signed() - base_timestamp_ms.cast_signed());

        self.encode(timestamp, offset_delta, key, value, headers)?;

        if first {
            self.base_timestamp_ms = base_timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
            self.has_delete_horizon = self.delete_horizon_ms.is_some();
        } else {
            self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        }
        self.count += 1;
        self.next_delta = offset_delta + 1;
        Ok(())
    }

    /// Writes a record into the buffer, or leaves everything as it was.
    #[inline(always)]
    fn encode(
        &mut self,
        timestamp: u64,
        offset_delta: u32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        let offset = u64::from(offset_delta) << 1;
        let (key_length, value_length) = (field_length(key), field_length(value));
        let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
        let header_count = (headers.len() as u64) << 1;
        let encoded_headers = headers.as_encoded();

        let size_bytes = key.len() + value.len() + encoded_headers.len();
        if size_bytes > limits::MAX_RECORD_BYTES {
            return Err(Error::RecordTooLarge { size_bytes });
        }
        if headers.len() > limits::MAX_HEADERS as usize {
            return Err(Error::TooManyHeaders);
        }
        let body_bytes = size_bytes
            + 1
            + encoded_len(timestamp)
            + encoded_len(offset)
            + encoded_len(key_length)
            + encoded_len(value_length)
            + encoded_len(header_count);
        let length = (body_bytes as u64) << 1;
        let end = self.len + encoded_len(length) + body_bytes;
        if end > limits::MAX_BATCH_BYTES || self.count >= limits::MAX_RECORDS_PER_BATCH {
            return Err(Error::BatchFull);
        }
        if end > self.buffer.len() {
            self.grow(end);
        }

        let mut writer = Writer::new(&mut self.buffer[self.len..end]);
        writer.varint(length);
        writer.byte(0);
        writer.varint(timestamp);
        writer.varint(offset);
        writer.varint(key_length);
        writer.bytes(key);
        writer.varint(value_length);
        writer.bytes(value);
        writer.varint(header_count);
        writer.bytes(encoded_headers);
        self.len = end;
        Ok(())
    }

    #[cold]
    fn grow(&mut self, needed_bytes: usize) {
        const FIRST_BYTES: usize = 16 * 1024;
        let doubled = self.buffer.len().saturating_mul(2);
        self.buffer
            .resize(needed_bytes.max(doubled).max(FIRST_BYTES), 0);
    }

    /// How many records the batch has so far.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether the batch has no record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Size of the batch so far, header included, before compression. 0 when it is empty.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        if self.is_empty() { 0 } else { self.len }
    }

    /// Forgets the records pushed so far.
    pub fn clear(&mut self) {
        self.len = HEADER_BYTES;
        self.count = 0;
        self.next_delta = 0;
    }

    /// Finishes the batch and starts an empty one. `None` when no record was pushed. The batch has
    /// base offset 0 and no producer.
    ///
    /// # Errors
    /// [`Error::Compression`] when the codec fails; the records are kept then.
    pub fn build(&mut self) -> Result<Option<EncodedBatch>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut compression = self.compressor.compression();
        if compression != Compression::None {
            let records = &self.buffer[HEADER_BYTES..self.len];
            self.compressor.compress(records, &mut self.compressed)?;
            if self.compressed.len() >= records.len() {
                compression = Compression::None;
            }
        }
        let mut bytes;
        if compression == Compression::None {
            bytes = BytesMut::from(&self.buffer[..self.len]);
        } else {
            bytes = BytesMut::with_capacity(HEADER_BYTES + self.compressed.len());
            bytes.extend_from_slice(&[0; HEADER_BYTES]);
            bytes.extend_from_slice(&self.compressed);
        }
        let header = BatchHeader::without_producer(
            compression,
            self.has_delete_horizon,
            self.base_timestamp_ms.cast_signed(),
            self.max_timestamp_ms.cast_signed(),
            self.count,
            self.next_delta - 1,
        );
        let header = header.write(&mut bytes);
        self.clear();
        Ok(Some(EncodedBatch { bytes, header }))
    }
}
