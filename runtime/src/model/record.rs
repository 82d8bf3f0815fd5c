//! An owned record, for the paths where an allocation per record does not matter: the command
//! line, tests, dead letters. The hot path uses [`RecordRef`](super::RecordRef).

use std::sync::Arc;

use bytes::Bytes;

/// A record: an event in a topic or a message in a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The key, which chooses the partition and, in a compacted topic, what the record replaces.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in order; a name may occur several times.
    pub headers: Vec<Header>,
    /// When the event happened, in ms since the epoch.
    pub timestamp_ms: u64,
}

impl Record {
    /// The size of key, value and headers, without the encoding's lengths.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let field = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize = self
            .headers
            .iter()
            .map(|h| h.name.len() + field(&h.value))
            .sum();
        field(&self.key) + field(&self.value) + headers
    }
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name.
    pub name: Arc<str>,
    /// The value; null is not the same as empty.
    pub value: Option<Bytes>,
}

impl Header {
    /// A header with the given name and value.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, value: Option<Bytes>) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}
