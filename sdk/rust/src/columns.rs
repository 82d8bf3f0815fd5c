//! Records as they cross the boundary: one list per field.
//!
//! Most plugins never see this: [`Record`] and [`Outputs`](crate::Outputs) are a
//! view of one record at a time over the same lists. A plugin that wants whole columns implements
//! [`BatchConsumer`](crate::BatchConsumer) and works on [`Batch`] and [`Output`] themselves.

pub use crate::bindings::consumer::millstream::plugin::types::{
    Batch, Failure as FailedRecord, FailureKind, Output, TimerBatch,
};
use crate::record::{Record, Records};

/// Index in [`Output::source`] that says "derives from no input record".
pub const NO_SOURCE: u32 = u32::MAX;

/// Length in a header's encoding that says "null value".
pub(crate) const NULL_HEADER: u32 = u32::MAX;

impl Batch {
    /// A batch without records, of input 0 and partition 0.
    pub fn empty() -> Self {
        Self {
            input: 0,
            partition: 0,
            keys: Vec::new(),
            key_ends: Vec::new(),
            null_keys: Vec::new(),
            values: Vec::new(),
            value_ends: Vec::new(),
            null_values: Vec::new(),
            headers: Vec::new(),
            header_ends: Vec::new(),
            timestamps: Vec::new(),
            offsets: Vec::new(),
            delivery_counts: Vec::new(),
        }
    }

    /// Number of records.
    #[inline]
    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    /// Whether there are no records.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    /// The records, one after another.
    #[inline]
    pub fn records(&self) -> Records<'_> {
        Records::new(self)
    }

    /// The record at an index, or `None` if there are not that many.
    pub fn record(&self, index: usize) -> Option<Record<'_>> {
        (index < self.len()).then(|| Record::at(self, index))
    }

    /// The key of the record at an index, or `None` if it is null.
    ///
    /// # Panics
    /// If there is no such record.
    #[inline]
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        if self.key_ends.is_empty() || holds(&self.null_keys, index) {
            return None;
        }
        Some(cell(&self.keys, &self.key_ends, index))
    }

    /// The value of the record at an index, or `None` if it is null (a tombstone).
    ///
    /// # Panics
    /// If there is no such record.
    #[inline]
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        let bytes = self.value_bytes(index);
        (!holds(&self.null_values, index)).then_some(bytes)
    }

    /// The value of the record at an index; empty if it is null.
    #[inline]
    pub(crate) fn value_bytes(&self, index: usize) -> &[u8] {
        cell(&self.values, &self.value_ends, index)
    }

    /// The encoded headers of the record at an index.
    pub(crate) fn header_bytes(&self, index: usize) -> &[u8] {
        if self.header_ends.is_empty() {
            return &[];
        }
        cell(&self.headers, &self.header_ends, index)
    }
}

/// Whether a list of nulls holds an index. Most lists are empty.
#[inline]
fn holds(nulls: &[u32], index: usize) -> bool {
    !nulls.is_empty() && nulls.binary_search(&(index as u32)).is_ok()
}

/// Value `index` of a column of bytes with cumulative ends.
#[inline]
pub(crate) fn cell<'a>(bytes: &'a [u8], ends: &[u32], index: usize) -> &'a [u8] {
    let start = if index == 0 {
        0
    } else {
        ends[index - 1] as usize
    };
    &bytes[start..ends[index] as usize]
}

impl Output {
    /// A reply without output records that accounts for `processed` input records.
    pub fn empty(processed: u32) -> Self {
        Self {
            processed,
            source: Vec::new(),
            port: Vec::new(),
            values: Vec::new(),
            value_ends: Vec::new(),
            null_values: Vec::new(),
            keys: Vec::new(),
            key_ends: Vec::new(),
            null_keys: Vec::new(),
            headers: Vec::new(),
            header_ends: Vec::new(),
            timestamps: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// A reply that sends every record of a batch on, unchanged, to the first port.
    pub fn forward_all(batch: &Batch) -> Self {
        let count = batch.len() as u32;
        let mut output = Self::empty(count);
        output.source = (0..count).collect();
        output
    }

    /// A reply that sends the records at the given indexes on, unchanged, to the first port.
    pub fn forward(batch: &Batch, indexes: impl IntoIterator<Item = u32>) -> Self {
        let mut output = Self::empty(batch.len() as u32);
        output.source.reserve(batch.len());
        output.source.extend(indexes);
        output
    }

    /// Number of output records.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether there are no output records.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    /// Appends one output record with a new value; its key, headers and time are its source's.
    /// All output records of a reply that uses this must be appended with it.
    pub fn push_value(&mut self, source: u32, value: &[u8]) {
        self.source.push(source);
        self.values.extend_from_slice(value);
        self.value_ends.push(self.values.len() as u32);
    }
}
