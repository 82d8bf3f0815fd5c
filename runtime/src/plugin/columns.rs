//! Records on their way into a plugin, as columns.
//!
//! A task keeps one `Columns` and fills it again for every batch, so that no batch allocates. The
//! layout is the interface's `batch`: the columns are lowered into the guest as they are, in one
//! copy each.

use crate::model::{RecordRef, TIMERS_INPUT};

use super::{
    ends::range_of,
    headers::{self, EncodedHeaders},
};

/// A batch of records as columns.
#[derive(Debug, Clone, Default)]
pub struct Columns {
    input: u32,
    partition: u32,
    keys: NullableColumn,
    values: NullableColumn,
    headers: Vec<u8>,
    /// Empty while no record has headers.
    header_ends: Vec<u32>,
    timestamps: Vec<u64>,
    offsets: Vec<u64>,
    /// Empty while every record is delivered for the first time.
    delivery_counts: Vec<u32>,
}

/// A column of bytes that may be null.
#[derive(Debug, Clone, Default)]
pub(super) struct NullableColumn {
    /// All values, one after another.
    pub(super) bytes: Vec<u8>,
    /// Cumulative ends. For keys it is empty while every key is null, which is common, so that
    /// such a batch carries no key columns at all.
    pub(super) ends: Vec<u32>,
    /// Ascending indexes of the null values; not used while `ends` is empty.
    pub(super) nulls: Vec<u32>,
}

impl NullableColumn {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.nulls.clear();
    }

    /// Appends the value of record `index`.
    #[inline]
    fn push(&mut self, index: usize, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bytes.extend_from_slice(value),
            None => self.nulls.push(index as u32),
        }
        self.ends.push(end_of(&self.bytes));
    }

    #[inline]
    fn get(&self, index: usize) -> Option<&[u8]> {
        let range = range_of(&self.ends, index)?;
        // Null takes no bytes, so that only empty values need to be looked up.
        if range.is_empty() && self.nulls.binary_search(&(index as u32)).is_ok() {
            return None;
        }
        self.bytes.get(range)
    }
}

/// The end of what was just appended to `bytes`.
#[inline]
fn end_of(bytes: &[u8]) -> u32 {
    let end = bytes.len();
    // Batches are bounded to far less, and a wrapped end would mix up records.
    assert!(end <= u32::MAX as usize, "a column has at most 4 GiB");
    end as u32
}

impl Columns {
    /// No records, of input 0 and partition 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
        self.headers.clear();
        self.header_ends.clear();
        self.timestamps.clear();
        self.offsets.clear();
        self.delivery_counts.clear();
    }

    /// Starts a batch from the pipeline's input with this index, and that input's partition.
    /// Forgets the records of the batch before.
    pub fn start(&mut self, input: u32, partition: u32) {
        self.clear();
        self.input = input;
        self.partition = partition;
    }

    /// Appends a record that is delivered for the first time.
    ///
    /// # Panics
    /// When a column would exceed 4 GiB; batches are bounded to far less.
    #[inline]
    pub fn push(&mut self, record: &RecordRef<'_>) {
        self.push_delivery(record, 1);
    }

    /// Appends a record that is delivered for the `delivery_count`th time, the first being 1.
    ///
    /// # Panics
    /// When a column would exceed 4 GiB; batches are bounded to far less.
    #[inline]
    pub fn push_delivery(&mut self, record: &RecordRef<'_>, delivery_count: u32) {
        let index = self.len();
        if record.key.is_some() || !self.keys.ends.is_empty() {
            self.push_key(index, record.key);
        }
        self.values.push(index, record.value);
        if !record.headers.is_empty() || !self.header_ends.is_empty() {
            self.header_ends.resize(index, 0);
            headers::encode(record.headers, &mut self.headers);
            self.header_ends.push(end_of(&self.headers));
        }
        if delivery_count != 1 || !self.delivery_counts.is_empty() {
            self.delivery_counts.resize(index, 1);
            self.delivery_counts.push(delivery_count);
        }
        self.timestamps.push(record.timestamp_ms);
        self.offsets.push(record.offset);
    }

    /// Appends record `index` of another batch as it is there; nothing if there is no such record.
    ///
    /// # Panics
    /// When a column would exceed 4 GiB; batches are bounded to far less.
    pub fn push_from(&mut self, other: &Columns, at: usize) {
        if at >= other.len() {
            return;
        }
        let index = self.len();
        let key = other.key(at);
        if key.is_some() || !self.keys.ends.is_empty() {
            self.push_key(index, key);
        }
        self.values.push(index, other.value(at));
        let headers = other.headers(at);
        if !headers.is_empty() || !self.header_ends.is_empty() {
            self.header_ends.resize(index, 0);
            self.headers.extend_from_slice(headers.0);
            self.header_ends.push(end_of(&self.headers));
        }
        let delivery_count = other.delivery_count(at);
        if delivery_count != 1 || !self.delivery_counts.is_empty() {
            self.delivery_counts.resize(index, 1);
            self.delivery_counts.push(delivery_count);
        }
        self.timestamps.push(other.timestamp_ms(at));
        self.offsets.push(other.offset(at));
    }

    #[inline]
    fn push_key(&mut self, index: usize, key: Option<&[u8]>) {
        if self.keys.ends.is_empty() {
            // The first key that is not null: those before it are.
            self.keys.nulls.extend(0..index as u32);
            self.keys.ends.resize(index, 0);
        }
        self.keys.push(index, key);
    }

    /// How many records there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// What is copied into the guest, in bytes.
    pub fn size_bytes(&self) -> usize {
        let bytes = self.keys.bytes.len() + self.values.bytes.len() + self.headers.len();
        let words = self.keys.ends.len()
            + self.keys.nulls.len()
            + self.values.ends.len()
            + self.values.nulls.len()
            + self.header_ends.len()
            + self.delivery_counts.len();
        let double_words = self.timestamps.len() + self.offsets.len();
        bytes + words * 4 + double_words * 8
    }

    /// Bytes of a record's key, value and headers.
    pub fn record_bytes(&self, index: usize) -> usize {
        let field = |field: Option<&[u8]>| field.map_or(0, <[u8]>::len);
        field(self.key(index)) + field(self.value(index)) + self.headers(index).len_bytes()
    }

    /// Whether they are timers: keys, payloads as values, due times as timestamps.
    pub fn are_timers(&self) -> bool {
        self.input == TIMERS_INPUT
    }

    /// Index of the input; [`TIMERS_INPUT`] for timers.
    pub fn input(&self) -> u32 {
        self.input
    }

    /// Partition of the input.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The key of record `index`; none when it is null or there is no such record.
    #[inline]
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        self.keys.get(index)
    }

    /// The value of record `index`; none when it is null or there is no such record.
    #[inline]
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        self.values.get(index)
    }

    /// The headers of record `index`; none when there is no such record.
    #[inline]
    pub fn headers(&self, index: usize) -> EncodedHeaders<'_> {
        range_of(&self.header_ends, index)
            .and_then(|range| self.headers.get(range))
            .map_or(EncodedHeaders::EMPTY, EncodedHeaders)
    }

    /// Whether any record has headers.
    #[inline]
    pub fn has_headers(&self) -> bool {
        !self.headers.is_empty()
    }

    /// The timestamp of record `index` in ms since the epoch; 0 when there is no such record.
    #[inline]
    pub fn timestamp_ms(&self, index: usize) -> u64 {
        self.timestamps.get(index).copied().unwrap_or_default()
    }

    /// The offset of record `index`; 0 when there is no such record.
    #[inline]
    pub fn offset(&self, index: usize) -> u64 {
        self.offsets.get(index).copied().unwrap_or_default()
    }

    /// The offsets of all records.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// How often record `index` has been delivered.
    pub fn delivery_count(&self, index: usize) -> u32 {
        self.delivery_counts.get(index).copied().unwrap_or(1)
    }

    /// The columns as the interface has them, of timers: their keys, payloads as values and due times
    /// as timestamps.
    pub(super) fn lower_timers(&self) -> super::boundary::TimerBatch<'_> {
        super::boundary::TimerBatch {
            keys: &self.keys.bytes,
            key_ends: &self.keys.ends,
            due_ms: &self.timestamps,
            payloads: &self.values.bytes,
            payload_ends: &self.values.ends,
            delivery_counts: &self.delivery_counts,
        }
    }

    /// The columns as the interface has them.
    pub(super) fn lower(&self) -> super::boundary::Batch<'_> {
        super::boundary::Batch {
            input: self.input,
            partition: self.partition,
            keys: &self.keys.bytes,
            key_ends: &self.keys.ends,
            null_keys: &self.keys.nulls,
            values: &self.values.bytes,
            value_ends: &self.values.ends,
            null_values: &self.values.nulls,
            headers: &self.headers,
            header_ends: &self.header_ends,
            timestamps: &self.timestamps,
            offsets: &self.offsets,
            delivery_counts: &self.delivery_counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeadersBuf, HeadersRef};
    use proptest::prelude::*;

    type Field = Option<Vec<u8>>;

    fn field() -> impl Strategy<Value = Field> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..6))
    }

    proptest! {
        #[test]
        fn columns_hold_what_was_pushed(
            records in prop::collection::vec((field(), field(), any::<bool>(), 1u32..3), 0..40),
        ) {
            let mut named = HeadersBuf::new();
            named.push("name", Some(b"value")).unwrap();
            let mut columns = Columns::new();
            // What was there before does not matter.
            columns.push(&RecordRef { offset: 9, timestamp_ms: 9, key: Some(b"k"), value: None, headers: named.as_headers() });
            columns.start(2, 7);
            for (i, (key, value, has_headers, count)) in records.iter().enumerate() {
                let headers = if *has_headers { named.as_headers() } else { HeadersRef::EMPTY };
                let record = RecordRef {
                    offset: i as u64 * 2, timestamp_ms: i as u64 + 100,
                    key: key.as_deref(), value: value.as_deref(), headers,
                };
                columns.push_delivery(&record, *count);
            }
            prop_assert_eq!(columns.len(), records.len());
            prop_assert_eq!((columns.input(), columns.partition()), (2, 7));
            for (i, (key, value, has_headers, count)) in records.iter().enumerate() {
                prop_assert_eq!(columns.key(i), key.as_deref());
                prop_assert_eq!(columns.value(i), value.as_deref());
                prop_assert_eq!(columns.headers(i).count(), usize::from(*has_headers));
                prop_assert_eq!(columns.offset(i), i as u64 * 2);
                prop_assert_eq!(columns.timestamp_ms(i), i as u64 + 100);
                prop_assert_eq!(columns.delivery_count(i), *count);
            }
            let mut copied = Columns::new();
            copied.start(2, 7);
            (0..=columns.len()).for_each(|index| copied.push_from(&columns, index));
            prop_assert_eq!(format!("{copied:?}"), format!("{columns:?}"));
            prop_assert_eq!(columns.keys.ends.is_empty(), records.iter().all(|r| r.0.is_none()));
            prop_assert_eq!(columns.header_ends.is_empty(), !records.iter().any(|r| r.2));
            prop_assert_eq!(columns.key(records.len()), None);
        }
    }
}
