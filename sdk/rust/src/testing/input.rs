//! Input records of a test.

use crate::columns::Batch;
use crate::record::encode_header;

/// One input record of a test.
#[derive(Clone, Debug, Default)]
pub struct Input {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<u8>,
    timestamp_ms: u64,
    input: u32,
    deliveries: u32,
}

impl Input {
    /// A record with a key and a value.
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            key: Some(key.into()),
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A record with a value and a null key.
    pub fn value(value: impl Into<Vec<u8>>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A record with a key and a null value.
    pub fn tombstone(key: impl Into<Vec<u8>>) -> Self {
        Self {
            key: Some(key.into()),
            ..Self::default()
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        encode_header(&mut self.headers, name, Some(value.as_ref()));
        self
    }

    /// Sets the timestamp, in ms since the Unix epoch; 0 unless set.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: u64) -> Self {
        self.timestamp_ms = timestamp_ms;
        self
    }

    /// Sets the index of the input it comes from, which is one for a whole batch; 0 unless set.
    #[must_use]
    pub fn input(mut self, index: u32) -> Self {
        self.input = index;
        self
    }

    /// Sets how often it has been delivered; 1 unless set.
    #[must_use]
    pub fn delivery_count(mut self, count: u32) -> Self {
        self.deliveries = count;
        self
    }
}

/// The records as columns, without offsets.
pub(super) fn to_batch(records: &[Input], partition: u32) -> Batch {
    let mut batch = Batch::empty();
    batch.partition = partition;
    batch.input = records.first().map_or(0, |record| record.input);
    assert!(
        records.iter().all(|record| record.input == batch.input),
        "the records of one batch come from one input"
    );
    let with_keys = records.iter().any(|record| record.key.is_some());
    let with_headers = records.iter().any(|record| !record.headers.is_empty());
    let with_counts = records.iter().any(|record| record.deliveries > 1);
    for (index, record) in records.iter().enumerate() {
        let index = index as u32;
        if with_keys {
            let bytes = record.key.as_deref();
            push(
                &mut batch.keys,
                &mut batch.key_ends,
                &mut batch.null_keys,
                index,
                bytes,
            );
        }
        let bytes = record.value.as_deref();
        push(
            &mut batch.values,
            &mut batch.value_ends,
            &mut batch.null_values,
            index,
            bytes,
        );
        if with_headers {
            batch.headers.extend_from_slice(&record.headers);
            batch.header_ends.push(batch.headers.len() as u32);
        }
        if with_counts {
            batch.delivery_counts.push(record.deliveries.max(1));
        }
        batch.timestamps.push(record.timestamp_ms);
    }
    batch
}

fn push(
    bytes: &mut Vec<u8>,
    ends: &mut Vec<u32>,
    nulls: &mut Vec<u32>,
    index: u32,
    field: Option<&[u8]>,
) {
    match field {
        Some(field) => bytes.extend_from_slice(field),
        None => nulls.push(index),
    }
    ends.push(bytes.len() as u32);
}
