//! What a plugin returned, checked.
//!
//! Nothing that a guest returns is trusted: [`Output::check`] verifies every index, end and length
//! once, so that the accessors, which the task calls for every record, need not. A reply that
//! breaks a rule is a fault, never half a success.

use crate::model::limits::{MAX_RECORD_BYTES, MAX_TIMESTAMP_MS};

use super::{
    ends::range_of,
    headers::{self, EncodedHeaders},
    reply::{Reply, ReplyFailure},
    text::{MAX_REASON_BYTES, cut},
};

/// `source` of a record that derives from no input record.
const NO_SOURCE: u32 = u32::MAX;

/// What a reply is checked against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// How many records the plugin was given.
    pub(super) inputs: usize,
    /// How many ports the pipeline has.
    pub(super) ports: usize,
    /// Most bytes of keys, values and headers together.
    pub(super) max_bytes: usize,
    /// Most output records.
    pub(super) max_records: usize,
}

/// The records that a plugin returned, and those it could not process.
#[derive(Debug, Clone, Default)]
pub struct Output {
    reply: Reply,
    failed: Vec<Failure>,
}

/// A column's value for one output record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    /// The source record's; only for records that have a source.
    AsSource,
    /// Null.
    Null,
    /// These bytes.
    Bytes(&'a [u8]),
}

/// An output record's headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadersField<'a> {
    /// The source record's; only for records that have a source.
    AsSource,
    /// These.
    Encoded(EncodedHeaders<'a>),
}

/// An input record that the plugin could not process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Index of the record in the batch.
    pub index: usize,
    /// What to do with it.
    pub kind: FailureKind,
    /// Why, as the plugin put it, cut at 1,024 bytes.
    pub reason: String,
}

/// What to do with a record that could not be processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Try again.
    Retry {
        /// After that many ms; none: after the pipeline's backoff.
        delay_ms: Option<u32>,
    },
    /// Never try again.
    Reject,
}

impl Output {
    /// Checks what a guest returned.
    ///
    /// # Errors
    /// The first rule that it breaks, and where.
    pub(super) fn check(mut reply: Reply, expected: &Expected) -> Result<Self, String> {
        let inputs = expected.inputs;
        if reply.processed as usize != inputs {
            return Err(format!(
                "`processed` is {}, expected {inputs}",
                reply.processed
            ));
        }
        let records = reply.source.len();
        if records > expected.max_records {
            return Err(format!(
                "{records} records, at most {} are allowed",
                expected.max_records
            ));
        }
        let bytes = reply.values.len() + reply.keys.len() + reply.headers.len();
        if bytes > expected.max_bytes {
            return Err(format!(
                "{bytes} bytes of keys, values and headers, at most {} are allowed",
                expected.max_bytes
            ));
        }
        check_sources(&reply, inputs)?;
        check_ports(&reply, expected.ports)?;
        check_column(
            "value",
            &reply.values,
            &reply.value_ends,
            Some(&reply.null_values),
            records,
        )?;
        check_column(
            "key",
            &reply.keys,
            &reply.key_ends,
            Some(&reply.null_keys),
            records,
        )?;
        check_column("header", &reply.headers, &reply.header_ends, None, records)?;
        check_headers(&reply)?;
        check_record_sizes(&reply)?;
        check_timestamps(&reply.timestamps, records)?;
        let failed = check_failed(&mut reply, inputs)?;
        Ok(Self { reply, failed })
    }

    /// How many output records there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.reply.source.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.reply.source.is_empty()
    }

    /// Index of the input record that output record `index` derives from.
    #[inline]
    pub fn source(&self, index: usize) -> Option<usize> {
        match self.reply.source.get(index) {
            Some(&NO_SOURCE) | None => None,
            Some(&source) => Some(source as usize),
        }
    }

    /// Index of the port that output record `index` goes to.
    #[inline]
    pub fn port(&self, index: usize) -> usize {
        self.reply.port.get(index).map_or(0, |&port| port as usize)
    }

    /// Whether all records go to the first port.
    pub fn is_single_port(&self) -> bool {
        self.reply.port.iter().all(|&port| port == 0)
    }

    /// Whether the output is the input, record for record and unchanged, all to the first port: a
    /// task may then pass its stored batch on as it is.
    pub fn is_identity(&self) -> bool {
        let reply = &self.reply;
        reply.source.len() == reply.processed as usize
            && reply.value_ends.is_empty()
            && reply.key_ends.is_empty()
            && reply.header_ends.is_empty()
            && reply.timestamps.is_empty()
            && reply
                .source
                .iter()
                .zip(0..)
                .all(|(&source, index)| source == index)
            && self.is_single_port()
    }

    /// The key of output record `index`.
    #[inline]
    pub fn key(&self, index: usize) -> Field<'_> {
        if self.reply.key_ends.is_empty() {
            return self.default_field(index);
        }
        field(
            &self.reply.keys,
            &self.reply.key_ends,
            &self.reply.null_keys,
            index,
        )
    }

    /// The value of output record `index`; null is a tombstone.
    #[inline]
    pub fn value(&self, index: usize) -> Field<'_> {
        if self.reply.value_ends.is_empty() {
            return self.default_field(index);
        }
        field(
            &self.reply.values,
            &self.reply.value_ends,
            &self.reply.null_values,
            index,
        )
    }

    /// What an empty column means.
    #[inline]
    fn default_field(&self, index: usize) -> Field<'static> {
        if self.source(index).is_some() {
            Field::AsSource
        } else {
            Field::Null
        }
    }

    /// The headers of output record `index`.
    #[inline]
    pub fn headers(&self, index: usize) -> HeadersField<'_> {
        if self.reply.header_ends.is_empty() && self.source(index).is_some() {
            return HeadersField::AsSource;
        }
        let encoded = range_of(&self.reply.header_ends, index)
            .and_then(|range| self.reply.headers.get(range))
            .unwrap_or_default();
        HeadersField::Encoded(EncodedHeaders(encoded))
    }

    /// The timestamp of output record `index` in ms since the epoch. None: the source record's, or
    /// the time of the call for a record without a source.
    #[inline]
    pub fn timestamp_ms(&self, index: usize) -> Option<u64> {
        self.reply.timestamps.get(index).copied()
    }

    /// The input records that could not be processed, by ascending index.
    pub fn failed(&self) -> &[Failure] {
        &self.failed
    }

    /// Size of the keys, values and headers that the plugin returned.
    pub fn size_bytes(&self) -> usize {
        self.reply.values.len() + self.reply.keys.len() + self.reply.headers.len()
    }
}

/// The value of record `index` in a checked column.
#[inline]
fn field<'a>(bytes: &'a [u8], ends: &[u32], nulls: &[u32], index: usize) -> Field<'a> {
    let Some(range) = range_of(ends, index) else {
        return Field::Null;
    };
    if range.is_empty() && nulls.binary_search(&(index as u32)).is_ok() {
        return Field::Null;
    }
    Field::Bytes(bytes.get(range).unwrap_or_default())
}

fn check_sources(reply: &Reply, inputs: usize) -> Result<(), String> {
    // Without a branch, so that it is vectorised: this runs for every record.
    let inputs_u32 = u32::try_from(inputs).unwrap_or(NO_SOURCE);
    let valid = reply.source.iter().fold(true, |valid, &source| {
        valid & ((source < inputs_u32) | (source == NO_SOURCE))
    });
    if !valid {
        let at = reply
            .source
            .iter()
            .position(|&s| s >= inputs_u32 && s != NO_SOURCE);
        let at = at.unwrap_or_default();
        let source = reply.source.get(at).copied().unwrap_or_default();
        return Err(format!(
            "`source[{at}]` is {source}, but the batch has {inputs} records; a record without a \
             source has 4294967295"
        ));
    }
    if reply.value_ends.is_empty()
        && let Some(at) = reply.source.iter().position(|&source| source == NO_SOURCE)
    {
        return Err(format!(
            "record {at} has no source, so that `values` may not be left empty"
        ));
    }
    Ok(())
}

fn check_ports(reply: &Reply, ports: usize) -> Result<(), String> {
    if reply.port.is_empty() {
        return if ports == 0 && !reply.source.is_empty() {
            Err("there are records, but the pipeline has no output to send them to".into())
        } else {
            Ok(())
        };
    }
    if reply.port.len() != reply.source.len() {
        return Err(length_mismatch(
            "port",
            reply.port.len(),
            reply.source.len(),
        ));
    }
    match reply.port.iter().position(|&port| port as usize >= ports) {
        None => Ok(()),
        Some(at) => {
            let port = reply.port.get(at).copied().unwrap_or_default();
            Err(format!(
                "`port[{at}]` is {port}, but the pipeline has {ports} ports"
            ))
        }
    }
}

/// Checks a column: `ends` ascend to the end of `bytes`, and null values are empty.
fn check_column(
    name: &str,
    bytes: &[u8],
    ends: &[u32],
    nulls: Option<&[u32]>,
    records: usize,
) -> Result<(), String> {
    let nulls = nulls.unwrap_or_default();
    if ends.is_empty() {
        if !bytes.is_empty() && records > 0 {
            return Err(format!(
                "`{name}s` has {} bytes, but `{name}-ends` is empty",
                bytes.len()
            ));
        }
        if !bytes.is_empty() {
            return Err(format!(
                "`{name}s` has {} bytes, but there are no records",
                bytes.len()
            ));
        }
        if !nulls.is_empty() {
            return Err(format!(
                "`null-{name}s` is given, but `{name}-ends` is empty"
            ));
        }
        return Ok(());
    }
    if ends.len() != records {
        return Err(length_mismatch(
            &format!("{name}-ends"),
            ends.len(),
            records,
        ));
    }
    // Without a branch, so that it is vectorised: this runs for every record.
    let ascending = ends
        .iter()
        .zip(ends.iter().skip(1))
        .fold(true, |valid, (before, end)| valid & (before <= end));
    if !ascending {
        return Err(format!("`{name}-ends` does not ascend"));
    }
    let last = ends.last().copied().unwrap_or_default() as usize;
    if last != bytes.len() {
        return Err(format!(
            "`{name}-ends` ends at {last}, but `{name}s` has {} bytes",
            bytes.len()
        ));
    }
    check_nulls(name, ends, nulls)
}

/// Checks the indexes of null values: they ascend, exist, and have no bytes.
fn check_nulls(name: &str, ends: &[u32], nulls: &[u32]) -> Result<(), String> {
    let records = ends.len();
    let mut next = 0;
    for (at, &null) in nulls.iter().enumerate() {
        if (null as usize) < next {
            return Err(format!("`null-{name}s` does not ascend at index {at}"));
        }
        next = null as usize + 1;
        match range_of(ends, null as usize) {
            None => {
                return Err(format!(
                    "`null-{name}s[{at}]` is {null}, but there are {records} records"
                ));
            }
            Some(range) if !range.is_empty() => {
                return Err(format!(
                    "{name} {null} is null, but has {} bytes",
                    range.len()
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_headers(reply: &Reply) -> Result<(), String> {
    if reply.headers.is_empty() {
        return Ok(());
    }
    for index in 0..reply.header_ends.len() {
        let encoded =
            range_of(&reply.header_ends, index).and_then(|range| reply.headers.get(range));
        headers::validate(encoded.unwrap_or_default())
            .map_err(|reason| format!("headers of record {index}: {reason}"))?;
    }
    Ok(())
}

/// What the record's own columns have must fit a record; what it takes over from its source is
/// checked when it is written.
fn check_record_sizes(reply: &Reply) -> Result<(), String> {
    if reply.values.len() + reply.keys.len() + reply.headers.len() <= MAX_RECORD_BYTES {
        return Ok(());
    }
    let columns = [&reply.value_ends, &reply.key_ends, &reply.header_ends];
    for index in 0..reply.source.len() {
        let size: usize = columns
            .iter()
            .filter_map(|ends| range_of(ends, index))
            .map(|range| range.len())
            .sum();
        if size > MAX_RECORD_BYTES {
            return Err(format!(
                "record {index} has {size} bytes, at most {MAX_RECORD_BYTES} are allowed"
            ));
        }
    }
    Ok(())
}

fn check_timestamps(timestamps: &[u64], records: usize) -> Result<(), String> {
    if timestamps.is_empty() {
        return Ok(());
    }
    if timestamps.len() != records {
        return Err(length_mismatch("timestamps", timestamps.len(), records));
    }
    match timestamps
        .iter()
        .position(|&timestamp_ms| timestamp_ms > MAX_TIMESTAMP_MS)
    {
        None => Ok(()),
        Some(at) => Err(format!(
            "`timestamps[{at}]` is later than {MAX_TIMESTAMP_MS} ms"
        )),
    }
}

fn check_failed(reply: &mut Reply, inputs: usize) -> Result<Vec<Failure>, String> {
    let mut failed = Vec::with_capacity(reply.failed.len());
    let mut next = 0;
    for (at, failure) in std::mem::take(&mut reply.failed).into_iter().enumerate() {
        let index = failure.index as usize;
        if index >= inputs {
            return Err(format!(
                "`failed[{at}]` names record {index}, but the batch has {inputs}"
            ));
        }
        if index < next {
            return Err(format!("`failed` does not ascend at index {at}"));
        }
        next = index + 1;
        let kind = failure.kind;
        failed.push(Failure {
            index,
            kind,
            reason: cut(failure.reason, MAX_REASON_BYTES),
        });
    }
    check_failed_have_no_output(&failed, &reply.source)?;
    Ok(failed)
}

/// A record that failed is delivered again, or is a dead letter: what it has put out would be
/// there twice, or in spite of its failure.
fn check_failed_have_no_output(failed: &[Failure], source: &[u32]) -> Result<(), String> {
    if failed.is_empty() {
        return Ok(());
    }
    for (at, &source) in source.iter().enumerate() {
        if failed
            .binary_search_by_key(&(source as usize), |failure| failure.index)
            .is_ok()
        {
            return Err(format!(
                "record {at} derives from record {source}, which is in `failed`"
            ));
        }
    }
    Ok(())
}

fn length_mismatch(column: &str, len: usize, records: usize) -> String {
    format!("`{column}` has {len} entries, but there are {records} records")
}

/// Checks an output made of arbitrary `bytes` and, if it passes, reads all of it: for fuzzing.
#[doc(hidden)]
pub fn check_arbitrary(bytes: &[u8]) {
    let mut rest = bytes;
    let reply = arbitrary_output(&mut rest);
    let inputs = usize::from(take_u8(&mut rest));
    let expected = Expected {
        inputs,
        ports: 2,
        max_bytes: 128,
        max_records: 16,
    };
    let Ok(output) = Output::check(reply, &expected) else {
        return;
    };
    for index in 0..output.len() {
        assert!(output.source(index).is_none_or(|source| source < inputs));
        assert!(output.port(index) < expected.ports);
        for field in [output.key(index), output.value(index)] {
            assert!(output.source(index).is_some() || field != Field::AsSource);
        }
        if let HeadersField::Encoded(headers) = output.headers(index) {
            let read: usize = headers
                .map(|(n, v)| 8 + n.len() + v.map_or(0, <[u8]>::len))
                .sum();
            assert_eq!(read, headers.len_bytes());
        }
    }
    assert!(output.failed().iter().all(|failure| failure.index < inputs));
}

fn take_u8(rest: &mut &[u8]) -> u8 {
    let Some((first, tail)) = rest.split_first() else {
        return 0;
    };
    *rest = tail;
    *first
}

fn arbitrary_output(rest: &mut &[u8]) -> Reply {
    // Small numbers, so that some of what comes out is valid, and the greatest now and then.
    fn numbers(rest: &mut &[u8]) -> Vec<u32> {
        let len = take_u8(rest) % 6;
        (0..len)
            .map(|_| take_u8(rest))
            .map(|n| if n == 255 { NO_SOURCE } else { n.into() })
            .collect()
    }
    fn bytes(rest: &mut &[u8]) -> Vec<u8> {
        let len = take_u8(rest) % 24;
        (0..len).map(|_| take_u8(rest)).collect()
    }
    Reply {
        processed: take_u8(rest).into(),
        source: numbers(rest),
        port: numbers(rest),
        values: bytes(rest),
        value_ends: numbers(rest),
        null_values: numbers(rest),
        keys: bytes(rest),
        key_ends: numbers(rest),
        null_keys: numbers(rest),
        headers: bytes(rest),
        header_ends: numbers(rest),
        timestamps: numbers(rest).into_iter().map(u64::from).collect(),
        failed: numbers(rest)
            .into_iter()
            .map(|index| ReplyFailure {
                index,
                kind: FailureKind::Reject,
                reason: String::new(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
