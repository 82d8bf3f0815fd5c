//! What a plugin emits.
//!
//! Records are gathered as columns. A column stays empty as long as every record takes that field
//! from its source, so that forwarding costs one index a record and a new value costs one copy.

mod column;
mod message;

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::columns::{Batch, NO_SOURCE, Output};
use crate::host;
use crate::progress;
use crate::record::Record;
use column::{Column, Of};

pub(crate) use column::Field;
pub use message::Message;

// Which columns are in use, as bits of `Outputs::used`.
const PORTS: u8 = 1;
const KEYS: u8 = 2;
const VALUES: u8 = 4;
const HEADERS: u8 = 8;
const TIMESTAMPS: u8 = 16;

/// Port index of a name that the manifest does not know; what is sent there is dropped, and the
/// batch fails with the fault noted.
const UNKNOWN_PORT: u32 = u32::MAX;

/// The records a plugin emits: to the first port of the manifest's `to`, or to a named one with
/// [`Outputs::to`].
pub struct Outputs {
    batch: Rc<Batch>,
    /// Index of the record being processed, which what is emitted derives from.
    current: u32,
    used: u8,
    source: Vec<u32>,
    port: Vec<u32>,
    keys: Column,
    values: Column,
    headers: Column,
    timestamps: Vec<u64>,
    /// The manifest's port names, asked for at the first `to`.
    port_names: Option<Vec<String>>,
    fault: Option<String>,
}

impl Outputs {
    pub(crate) fn new() -> Self {
        Self {
            batch: Rc::new(Batch::empty()),
            current: NO_SOURCE,
            used: 0,
            source: Vec::new(),
            port: Vec::new(),
            keys: Column::default(),
            values: Column::default(),
            headers: Column::default(),
            timestamps: Vec::new(),
            port_names: None,
            fault: None,
        }
    }

    /// Sends a record on, unchanged.
    #[inline]
    pub fn forward(&mut self, record: Record<'_>) {
        if self.used == 0 {
            self.source.push(record.index());
        } else {
            self.port(0).forward(record);
        }
    }

    /// Emits a value; key, headers and timestamp are those of the record being processed.
    #[inline]
    pub fn emit(&mut self, value: impl AsRef<[u8]>) {
        self.emit_with(|writer| writer.bytes.extend_from_slice(value.as_ref()));
    }

    /// Emits what `write` writes, straight into the reply: nothing is allocated for it.
    ///
    /// Returns what `write` returns. If that is an error, hand it on with `?`: a record that fails
    /// emits nothing.
    #[inline]
    pub fn emit_with<R>(&mut self, write: impl FnOnce(&mut ValueWriter<'_>) -> R) -> R {
        self.push_written(0, write)
    }

    /// Emits a key and a value; headers and timestamp are those of the record being processed.
    #[inline]
    pub fn emit_keyed(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.port(0).emit_keyed(key, value);
    }

    /// Starts a message of which every field can be set.
    #[inline]
    pub fn message(&mut self) -> Message<'_> {
        self.port(0).message()
    }

    /// The port of that name in the manifest's `to`.
    ///
    /// If there is none, what is sent there is dropped and the batch fails with an error that says
    /// so: a manifest that does not fit its plugin stops the pipeline.
    pub fn to(&mut self, name: &str) -> Port<'_> {
        let names = self.port_names.get_or_insert_with(host::ports);
        let found = names.iter().position(|port| port == name);
        let index = found.map_or(UNKNOWN_PORT, |index| index as u32);
        if index == UNKNOWN_PORT && self.fault.is_none() {
            let known = names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>();
            self.fault = Some(format!(
                "the plugin sends to port `{name}`, which the manifest's `to` does not have; it has {}",
                if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                }
            ));
        }
        self.port(index)
    }

    /// Number of records emitted so far in this batch.
    pub fn len(&self) -> usize {
        self.source.len()
    }

    /// Whether nothing has been emitted so far in this batch.
    pub fn is_empty(&self) -> bool {
        self.source.is_empty()
    }

    #[inline]
    fn port(&mut self, index: u32) -> Port<'_> {
        Port {
            outputs: self,
            index,
        }
    }

    /// Starts the reply to a batch.
    pub(crate) fn begin(&mut self, batch: Rc<Batch>) {
        self.source = Vec::with_capacity(batch.len());
        self.truncate(0);
        self.used = 0;
        self.fault = None;
        self.current = NO_SOURCE;
        self.batch = batch;
    }

    /// Sets the record that what is emitted derives from; returns the mark to come back to.
    #[inline]
    pub(crate) fn enter(&mut self, index: u32) -> usize {
        self.current = index;
        progress::enter(index);
        self.source.len()
    }

    /// What is emitted from here on derives from no record.
    pub(crate) fn leave(&mut self) {
        self.current = NO_SOURCE;
        progress::leave();
    }

    /// Takes back what was emitted since the mark.
    pub(crate) fn truncate(&mut self, mark: usize) {
        self.source.truncate(mark);
        self.port.truncate(mark);
        self.keys.truncate(mark);
        self.values.truncate(mark);
        self.headers.truncate(mark);
        self.timestamps.truncate(mark);
    }

    /// The reply, or the fault that the plugin and the manifest do not fit together.
    pub(crate) fn finish(&mut self) -> Result<Output, String> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut output = Output::empty(self.batch.len() as u32);
        output.source = std::mem::take(&mut self.source);
        output.port = std::mem::take(&mut self.port);
        let keys = std::mem::take(&mut self.keys);
        (output.keys, output.key_ends, output.null_keys) = (keys.bytes, keys.ends, keys.nulls);
        let values = std::mem::take(&mut self.values);
        output.values = values.bytes;
        output.value_ends = values.ends;
        output.null_values = values.nulls;
        let headers = std::mem::take(&mut self.headers);
        (output.headers, output.header_ends) = (headers.bytes, headers.ends);
        output.timestamps = std::mem::take(&mut self.timestamps);
        Ok(output)
    }

    /// Appends a record whose value `write` writes and whose other fields are the current one's.
    #[inline]
    fn push_written<R>(&mut self, port: u32, write: impl FnOnce(&mut ValueWriter<'_>) -> R) -> R {
        if self.used & VALUES == 0 {
            self.start_values();
        }
        let start = self.values.bytes.len();
        let result = write(&mut ValueWriter {
            bytes: &mut self.values.bytes,
            start,
        });
        self.values.end();
        if self.used == VALUES && port == 0 {
            self.source.push(self.current);
        } else {
            self.push_rest(port, self.current, Field::AsSource, None, None);
        }
        result
    }

    /// Appends a record field by field.
    fn push(
        &mut self,
        port: u32,
        source: u32,
        key: Field<'_>,
        value: Field<'_>,
        headers: Option<&[u8]>,
        timestamp_ms: Option<u64>,
    ) {
        // A record without a source has no value to take over, so its value is always written.
        if self.used & VALUES == 0 && (value != Field::AsSource || source == NO_SOURCE) {
            self.start_values();
        }
        if self.used & VALUES != 0 {
            self.values.push(value, Of::Values, &self.batch, source);
        }
        self.push_rest(port, source, key, headers, timestamp_ms);
    }

    /// Appends every field but the value, which has been appended.
    fn push_rest(
        &mut self,
        port: u32,
        source: u32,
        key: Field<'_>,
        headers: Option<&[u8]>,
        timestamp_ms: Option<u64>,
    ) {
        if port != 0 && self.used & PORTS == 0 {
            self.used |= PORTS;
            self.port.reserve(self.source.capacity());
            self.port.resize(self.source.len(), 0);
        }
        if key != Field::AsSource && self.used & KEYS == 0 {
            self.used |= KEYS;
            self.keys.start(Of::Keys, &self.batch, &self.source);
        }
        if headers.is_some() && self.used & HEADERS == 0 {
            self.used |= HEADERS;
            self.headers.start(Of::Headers, &self.batch, &self.source);
        }
        if timestamp_ms.is_some() && self.used & TIMESTAMPS == 0 {
            self.start_timestamps();
        }
        if self.used & PORTS != 0 {
            self.port.push(port);
        }
        if self.used & KEYS != 0 {
            self.keys.push(key, Of::Keys, &self.batch, source);
        }
        if self.used & HEADERS != 0 {
            let field = headers.map_or(Field::AsSource, Field::Bytes);
            self.headers.push(field, Of::Headers, &self.batch, source);
        }
        if self.used & TIMESTAMPS != 0 {
            let time = timestamp_ms.unwrap_or_else(|| self.default_timestamp_ms(source));
            self.timestamps.push(time);
        }
        self.source.push(source);
    }

    #[cold]
    fn start_values(&mut self) {
        self.used |= VALUES;
        self.values.start(Of::Values, &self.batch, &self.source);
    }

    #[cold]
    fn start_timestamps(&mut self) {
        self.used |= TIMESTAMPS;
        let times = self
            .source
            .iter()
            .map(|&source| self.default_timestamp_ms(source));
        self.timestamps = times.collect();
    }

    /// The source's timestamp; without a source the newest there is in the batch, or else the one
    /// given last: there is no clock here.
    fn default_timestamp_ms(&self, source: u32) -> u64 {
        let own = self.batch.timestamps.get(source as usize).copied();
        own.or_else(|| self.batch.timestamps.iter().max().copied())
            .or_else(|| self.timestamps.last().copied())
            .unwrap_or_default()
    }
}

/// One named output of the pipeline.
pub struct Port<'a> {
    outputs: &'a mut Outputs,
    index: u32,
}

impl<'a> Port<'a> {
    /// Sends a record on, unchanged.
    #[inline]
    pub fn forward(self, record: Record<'_>) {
        if self.index != UNKNOWN_PORT {
            let (key, value) = (Field::AsSource, Field::AsSource);
            self.outputs
                .push(self.index, record.index(), key, value, None, None);
        }
    }

    /// Emits a value; key, headers and timestamp are those of the record being processed.
    #[inline]
    pub fn emit(self, value: impl AsRef<[u8]>) {
        self.emit_with(|writer| writer.bytes.extend_from_slice(value.as_ref()));
    }

    /// Emits what `write` writes, straight into the reply; see [`Outputs::emit_with`].
    #[inline]
    pub fn emit_with<R>(self, write: impl FnOnce(&mut ValueWriter<'_>) -> R) -> R {
        if self.index == UNKNOWN_PORT {
            return write(&mut ValueWriter {
                bytes: &mut Vec::new(),
                start: 0,
            });
        }
        self.outputs.push_written(self.index, write)
    }

    /// Emits a key and a value; headers and timestamp are those of the record being processed.
    #[inline]
    pub fn emit_keyed(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        if self.index != UNKNOWN_PORT {
            let (key, value) = (Field::Bytes(key.as_ref()), Field::Bytes(value.as_ref()));
            self.outputs
                .push(self.index, self.outputs.current, key, value, None, None);
        }
    }

    /// Starts a message of which every field can be set.
    #[inline]
    pub fn message(self) -> Message<'a> {
        Message::new(self.outputs, self.index)
    }
}

/// Writes one value into the reply; dereferences to what has been written of that value.
pub struct ValueWriter<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl ValueWriter<'_> {
    /// Appends bytes.
    #[inline]
    pub fn push(&mut self, bytes: impl AsRef<[u8]>) {
        self.bytes.extend_from_slice(bytes.as_ref());
    }
}

impl Deref for ValueWriter<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl DerefMut for ValueWriter<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl Extend<u8> for ValueWriter<'_> {
    #[inline]
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.bytes.extend(bytes);
    }
}

impl io::Write for ValueWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for ValueWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
