//! What a plugin made of a batch.

use super::check::check;
use crate::columns::{Batch, FailureKind, NO_SOURCE, Output, cell};
use crate::record::Headers;

/// What a plugin made of a batch.
#[derive(Debug)]
pub struct Outcome {
    /// What it emitted, in order.
    pub outputs: Vec<OutputRecord>,
    /// The records it could not process, by ascending index.
    pub failures: Vec<FailedInput>,
}

/// One emitted record, with what it takes from its source filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord {
    /// Name of the port it was sent to.
    pub port: String,
    /// Index of the input record it derives from, if any.
    pub source: Option<usize>,
    /// Its key, or `None` if that is null.
    pub key: Option<Vec<u8>>,
    /// Its value, or `None` if that is null.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Its timestamp in ms since the Unix epoch; `None` = the time of the call.
    pub timestamp_ms: Option<u64>,
}

impl OutputRecord {
    /// The key as text; empty if it is null.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn key_str(&self) -> &str {
        std::str::from_utf8(self.key.as_deref().unwrap_or_default()).expect("the key is UTF-8")
    }

    /// The value as text; empty if it is null.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn value_str(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap_or_default()).expect("the value is UTF-8")
    }
}

/// One input record that could not be processed.
#[derive(Clone, Debug)]
pub struct FailedInput {
    /// Its index in the batch.
    pub index: usize,
    /// What is to be done with it.
    pub kind: FailureKind,
    /// Why.
    pub reason: String,
}

impl FailedInput {
    /// Whether it is never to be tried again.
    pub fn is_rejected(&self) -> bool {
        matches!(self.kind, FailureKind::Reject)
    }
}

impl Outcome {
    pub(super) fn new(batch: &Batch, output: &Output, ports: &[String]) -> Self {
        if let Err(rule) = check(batch, output, ports.len()) {
            panic!("the plugin's reply breaks the rules of the interface: {rule}");
        }
        let outputs = (0..output.len()).map(|index| resolve(batch, output, ports, index));
        let failures = output.failed.iter().map(|failure| FailedInput {
            index: failure.index as usize,
            kind: failure.kind,
            reason: failure.reason.clone(),
        });
        Self {
            outputs: outputs.collect(),
            failures: failures.collect(),
        }
    }

    /// The outputs' values as text.
    ///
    /// # Panics
    /// If one is not UTF-8.
    pub fn values(&self) -> Vec<&str> {
        self.outputs.iter().map(OutputRecord::value_str).collect()
    }

    /// The outputs sent to a port.
    pub fn on(&self, port: &str) -> Vec<&OutputRecord> {
        self.outputs
            .iter()
            .filter(|record| record.port == port)
            .collect()
    }
}

fn resolve(batch: &Batch, output: &Output, ports: &[String], index: usize) -> OutputRecord {
    let source = output.source[index];
    let source = (source != NO_SOURCE).then_some(source as usize);
    let port = output.port.get(index).copied().unwrap_or_default();
    let field = |bytes: &[u8], ends: &[u32], nulls: &[u32]| {
        let null = nulls.binary_search(&(index as u32)).is_ok();
        (!null).then(|| cell(bytes, ends, index).to_vec())
    };
    let key = if output.key_ends.is_empty() {
        source
            .and_then(|source| batch.key(source))
            .map(<[u8]>::to_vec)
    } else {
        field(&output.keys, &output.key_ends, &output.null_keys)
    };
    let value = if output.value_ends.is_empty() {
        source
            .and_then(|source| batch.value(source))
            .map(<[u8]>::to_vec)
    } else {
        field(&output.values, &output.value_ends, &output.null_values)
    };
    let headers = if output.header_ends.is_empty() {
        source.map_or(&[][..], |source| batch.header_bytes(source))
    } else {
        cell(&output.headers, &output.header_ends, index)
    };
    let headers = Headers::from_encoded(headers)
        .map(|header| (header.name.to_owned(), header.value.map(<[u8]>::to_vec)));
    let timestamp_ms = match output.timestamps.get(index) {
        Some(&time) => Some(time),
        None => source.map(|source| batch.timestamps[source]),
    };
    OutputRecord {
        port: ports[port as usize].clone(),
        source,
        key,
        value,
        headers: headers.collect(),
        timestamp_ms,
    }
}
