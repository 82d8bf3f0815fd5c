//! Output columns that exist only once a record needs them.

use crate::columns::{Batch, NO_SOURCE};

/// What one field of an output record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// What the source record holds; null if there is no source.
    AsSource,
    /// Null.
    Null,
    /// These bytes.
    Bytes(&'a [u8]),
}

/// Which field of the source record a column stands for.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Keys,
    Values,
    Headers,
}

impl Of {
    /// The field of a source record; `None` is null.
    fn source(self, batch: &Batch, source: u32) -> Option<&[u8]> {
        let index = source as usize;
        match self {
            _ if source == NO_SOURCE => None,
            Self::Keys => batch.key(index),
            Self::Values => batch.value(index),
            Self::Headers => Some(batch.header_bytes(index)),
        }
    }

    fn source_bytes(self, batch: &Batch) -> usize {
        match self {
            Self::Keys => batch.keys.len(),
            Self::Values => batch.values.len(),
            Self::Headers => batch.headers.len(),
        }
    }
}

/// Fields of all output records, one after another, with cumulative ends.
///
/// Until [`Column::start`] it stays empty, which on the boundary means "as in the source record".
#[derive(Default)]
pub(crate) struct Column {
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<u32>,
    pub(crate) nulls: Vec<u32>,
}

impl Column {
    /// Brings the column into being: the records emitted so far get their sources' fields.
    #[cold]
    pub(crate) fn start(&mut self, of: Of, batch: &Batch, sources: &[u32]) {
        self.bytes.reserve(of.source_bytes(batch));
        self.ends.reserve(batch.len().max(sources.len() + 1));
        for &source in sources {
            self.push_source(of, batch, source);
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, field: Field<'_>, of: Of, batch: &Batch, source: u32) {
        match field {
            Field::Bytes(bytes) => self.push_bytes(bytes),
            Field::Null => self.push_null(),
            Field::AsSource => self.push_source(of, batch, source),
        }
    }

    #[inline]
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.end();
    }

    /// Ends the field whose bytes have been appended.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.ends.push(self.bytes.len() as u32);
    }

    fn push_null(&mut self) {
        self.nulls.push(self.ends.len() as u32);
        self.end();
    }

    fn push_source(&mut self, of: Of, batch: &Batch, source: u32) {
        match of.source(batch, source) {
            Some(bytes) => self.push_bytes(bytes),
            // Headers have no null.
            None if matches!(of, Of::Headers) => self.end(),
            None => self.push_null(),
        }
    }

    /// Keeps the first `len` fields.
    pub(crate) fn truncate(&mut self, len: usize) {
        if self.ends.len() > len {
            self.ends.truncate(len);
            self.bytes
                .truncate(self.ends.last().map_or(0, |&end| end as usize));
            while self
                .nulls
                .last()
                .is_some_and(|&index| index as usize >= len)
            {
                self.nulls.pop();
            }
        }
    }
}
