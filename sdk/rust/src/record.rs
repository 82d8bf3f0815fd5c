//! One input record, as a view over the batch's columns.

use std::ops::Range;

use crate::columns::{Batch, NULL_HEADER, cell};

/// One input record. A view: copying it copies a reference and an index, and what a plugin does not
/// look at costs nothing.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    batch: &'a Batch,
    index: usize,
}

impl<'a> Record<'a> {
    #[inline]
    pub(crate) fn at(batch: &'a Batch, index: usize) -> Self {
        Self { batch, index }
    }

    /// The key, or `None` if it is null.
    #[inline]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.key(self.index)
    }

    /// The key as text, or `None` if it is null or not UTF-8.
    #[inline]
    pub fn key_str(&self) -> Option<&'a str> {
        self.key().and_then(|key| std::str::from_utf8(key).ok())
    }

    /// The value; empty if it is null. [`Record::is_tombstone`] tells the two apart.
    #[inline]
    pub fn value(&self) -> &'a [u8] {
        self.batch.value_bytes(self.index)
    }

    /// The value as text, or `None` if it is null or not UTF-8.
    #[inline]
    pub fn value_str(&self) -> Option<&'a str> {
        self.nullable_value()
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The value, or `None` if it is null.
    #[inline]
    pub fn nullable_value(&self) -> Option<&'a [u8]> {
        self.batch.value(self.index)
    }

    /// Whether the value is null, which in a compacted topic means "this key is gone".
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        self.nullable_value().is_none()
    }

    /// The headers, in their order.
    pub fn headers(&self) -> Headers<'a> {
        Headers {
            rest: self.batch.header_bytes(self.index),
        }
    }

    /// The value of the last header of that name; `None` if there is none or its value is null.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers()
            .filter(|header| header.name == name)
            .last()?
            .value
    }

    /// Timestamp in ms since the Unix epoch.
    #[inline]
    pub fn timestamp_ms(&self) -> u64 {
        self.batch.timestamps[self.index]
    }

    /// Offset in the input's partition.
    #[inline]
    pub fn offset(&self) -> u64 {
        self.batch.offsets[self.index]
    }

    /// Partition of the input the record comes from.
    #[inline]
    pub fn partition(&self) -> u32 {
        self.batch.partition
    }

    /// Index of the pipeline's input (the order of `from` in the manifest).
    #[inline]
    pub fn input(&self) -> u32 {
        self.batch.input
    }

    /// How often the record has been delivered; the first time is 1.
    #[inline]
    pub fn delivery_count(&self) -> u32 {
        self.batch
            .delivery_counts
            .get(self.index)
            .copied()
            .unwrap_or(1)
    }

    /// Index of the record in its batch.
    #[inline]
    pub fn index(&self) -> u32 {
        self.index as u32
    }
}

impl std::fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Record")
            .field("partition", &self.partition())
            .field("offset", &self.offset())
            .field("key", &self.key().map(lossy))
            .field("value", &self.nullable_value().map(lossy))
            .finish_non_exhaustive()
    }
}

/// Iterator over a batch's records.
#[derive(Clone)]
pub struct Records<'a> {
    batch: &'a Batch,
    indexes: Range<usize>,
}

impl<'a> Records<'a> {
    #[inline]
    pub(crate) fn new(batch: &'a Batch) -> Self {
        Self {
            batch,
            indexes: 0..batch.len(),
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Record<'a>> {
        self.indexes
            .next()
            .map(|index| Record::at(self.batch, index))
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.indexes.size_hint()
    }
}

impl ExactSizeIterator for Records<'_> {}

/// One header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name. Names may repeat.
    pub name: &'a str,
    /// Its value, or `None` if it is null.
    pub value: Option<&'a [u8]>,
}

/// Iterator over a record's headers, in their order.
#[derive(Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn from_encoded(encoded: &'a [u8]) -> Self {
        Self { rest: encoded }
    }

    fn read(&mut self) -> Option<Header<'a>> {
        let name_len = u32::from_le_bytes(*self.rest.first_chunk()?) as usize;
        let (name, rest) = self.rest[4..].split_at_checked(name_len)?;
        let value_len = u32::from_le_bytes(*rest.first_chunk()?);
        let rest = &rest[4..];
        let (value, rest) = if value_len == NULL_HEADER {
            (None, rest)
        } else {
            let (value, rest) = rest.split_at_checked(value_len as usize)?;
            (Some(value), rest)
        };
        self.rest = rest;
        Some(Header {
            name: std::str::from_utf8(name).ok()?,
            value,
        })
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        let header = self.read();
        if header.is_none() {
            self.rest = &[];
        }
        header
    }
}

/// Appends one header in the boundary's encoding.
pub(crate) fn encode_header(into: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    into.extend_from_slice(&(name.len() as u32).to_le_bytes());
    into.extend_from_slice(name.as_bytes());
    match value {
        None => into.extend_from_slice(&NULL_HEADER.to_le_bytes()),
        Some(value) => {
            into.extend_from_slice(&(value.len() as u32).to_le_bytes());
            into.extend_from_slice(value);
        }
    }
}

/// Names of the state keys a batch will need; filled by
/// [`Consumer::state_keys`](crate::Consumer::state_keys).
#[derive(Default)]
pub struct StateKeys {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<u32>,
}

impl StateKeys {
    /// Adds one key.
    pub fn push(&mut self, key: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(key.as_ref());
        self.ends.push(self.bytes.len() as u32);
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map(|index| cell(&self.bytes, &self.ends, index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch() -> Batch {
        let mut headers = Vec::new();
        encode_header(&mut headers, "a", Some(b"1"));
        encode_header(&mut headers, "b", None);
        encode_header(&mut headers, "a", Some(b"2"));
        let end = headers.len() as u32;
        Batch {
            partition: 7,
            keys: b"k0k2".to_vec(),
            key_ends: vec![2, 2, 4],
            null_keys: vec![1],
            values: b"v0v1".to_vec(),
            value_ends: vec![2, 4, 4],
            null_values: vec![2],
            headers,
            header_ends: vec![0, end, end],
            timestamps: vec![10, 11, 12],
            offsets: vec![5, 6, 9],
            ..Batch::empty()
        }
    }

    proptest! {
        #[test]
        fn headers_come_back_as_they_were_encoded(
            headers in prop::collection::vec((".{0,20}", prop::option::of(prop::collection::vec(any::<u8>(), 0..20))), 0..8)
        ) {
            let mut encoded = Vec::new();
            for (name, value) in &headers {
                encode_header(&mut encoded, name, value.as_deref());
            }
            let read: Vec<_> = Headers::from_encoded(&encoded).map(|it| (it.name, it.value)).collect();
            let given: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            prop_assert_eq!(read, given);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Each header takes 8 bytes at least.
            prop_assert!(Headers::from_encoded(&bytes).count() <= bytes.len() / 8);
        }
    }

    #[test]
    fn iteration_and_random_access_agree() {
        let batch = batch();
        let walked: Vec<_> = batch
            .records()
            .map(|r| (r.key(), r.nullable_value()))
            .collect();
        type Pair = (Option<&'static [u8]>, Option<&'static [u8]>);
        let expected: [Pair; 3] = [
            (Some(b"k0"), Some(b"v0")),
            (None, Some(b"v1")),
            (Some(b"k2"), None),
        ];
        assert_eq!(walked, expected);
        for (index, pair) in expected.iter().enumerate() {
            let record = batch.record(index).unwrap();
            assert_eq!((record.key(), record.nullable_value()), *pair);
        }
        assert!(batch.record(3).is_none());
    }

    #[test]
    fn fields_of_a_record() {
        let batch = batch();
        let record = batch.record(2).unwrap();
        assert_eq!(
            (record.offset(), record.timestamp_ms(), record.partition()),
            (9, 12, 7)
        );
        assert_eq!(record.delivery_count(), 1);
        assert!(record.is_tombstone());
        assert_eq!(record.value(), b"");
    }

    #[test]
    fn headers_keep_order_and_the_last_wins() {
        let batch = batch();
        let record = batch.record(1).unwrap();
        let names: Vec<_> = record.headers().map(|h| h.name).collect();
        assert_eq!(names, ["a", "b", "a"]);
        assert_eq!(record.header("a"), Some(&b"2"[..]));
        assert_eq!(record.header("b"), None);
        assert_eq!(batch.record(0).unwrap().headers().count(), 0);
    }

    #[test]
    fn damaged_headers_end_the_iteration() {
        assert_eq!(Headers::from_encoded(&[9, 0, 0, 0, b'x']).count(), 0);
        assert_eq!(Headers::from_encoded(&[1, 0]).count(), 0);
    }

    #[test]
    fn all_keys_null() {
        let batch = Batch {
            keys: vec![],
            key_ends: vec![],
            null_keys: vec![],
            ..batch()
        };
        assert!(batch.records().all(|record| record.key().is_none()));
    }
}
