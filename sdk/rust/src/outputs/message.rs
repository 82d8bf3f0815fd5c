//! A message whose fields are set one by one.

use super::{Field, Outputs, UNKNOWN_PORT};
use crate::columns::NO_SOURCE;
use crate::record::{Record, encode_header};

/// An output record in the making. What is not set is as in the record being processed; a message
/// without a source has a null key, a null value, no headers and the time of the call.
///
/// ```
/// # use millstream_sdk::prelude::*;
/// fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
///     out.message().key("k").value(record.value()).header("seen-by", "me").send();
///     Ok(())
/// }
/// ```
#[must_use = "a message is emitted by `send`"]
pub struct Message<'a> {
    outputs: &'a mut Outputs,
    port: u32,
    source: u32,
    key: Option<Vec<u8>>,
    key_set: bool,
    value: Option<Vec<u8>>,
    value_set: bool,
    headers: Option<Vec<u8>>,
    timestamp_ms: Option<u64>,
}

impl<'a> Message<'a> {
    pub(super) fn new(outputs: &'a mut Outputs, port: u32) -> Self {
        Self {
            source: outputs.current,
            outputs,
            port,
            key: None,
            key_set: false,
            value: None,
            value_set: false,
            headers: None,
            timestamp_ms: None,
        }
    }

    /// Sets the key.
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        (self.key, self.key_set) = (Some(key.into()), true);
        self
    }

    /// Sets the key to null.
    pub fn null_key(mut self) -> Self {
        (self.key, self.key_set) = (None, true);
        self
    }

    /// Sets the value.
    pub fn value(mut self, value: impl Into<Vec<u8>>) -> Self {
        (self.value, self.value_set) = (Some(value.into()), true);
        self
    }

    /// Sets the value to null: in a compacted topic this removes the key.
    pub fn null_value(mut self) -> Self {
        (self.value, self.value_set) = (None, true);
        self
    }

    /// Adds a header after the source's.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        encode_header(self.headers_mut(), name, Some(value.as_ref()));
        self
    }

    /// Adds a header without a value after the source's.
    pub fn null_header(mut self, name: &str) -> Self {
        encode_header(self.headers_mut(), name, None);
        self
    }

    /// Drops the headers set so far, and the source's.
    pub fn without_headers(mut self) -> Self {
        self.headers = Some(Vec::new());
        self
    }

    /// Sets the timestamp, in ms since the Unix epoch.
    pub fn timestamp_ms(mut self, timestamp_ms: u64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Makes the message derive from another record of the batch. Call it before
    /// [`Message::header`].
    pub fn source(mut self, record: Record<'_>) -> Self {
        self.source = record.index();
        self
    }

    /// Makes the message derive from no record. Call it before [`Message::header`].
    pub fn without_source(mut self) -> Self {
        self.source = NO_SOURCE;
        self
    }

    /// Emits the message.
    pub fn send(self) {
        if self.port == UNKNOWN_PORT {
            return;
        }
        let key = field(self.key_set, self.key.as_deref());
        let value = field(self.value_set, self.value.as_deref());
        let headers = self.headers.as_deref();
        self.outputs.push(
            self.port,
            self.source,
            key,
            value,
            headers,
            self.timestamp_ms,
        );
    }

    fn headers_mut(&mut self) -> &mut Vec<u8> {
        let (batch, source) = (&self.outputs.batch, self.source);
        self.headers.get_or_insert_with(|| match source {
            NO_SOURCE => Vec::new(),
            source => batch.header_bytes(source as usize).to_vec(),
        })
    }
}

fn field(set: bool, bytes: Option<&[u8]>) -> Field<'_> {
    match (set, bytes) {
        (false, _) => Field::AsSource,
        (true, None) => Field::Null,
        (true, Some(bytes)) => Field::Bytes(bytes),
    }
}
