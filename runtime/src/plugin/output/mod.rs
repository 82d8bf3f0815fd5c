//! What a plugin returned, checked.
//!
//! Nothing that a guest returns is trusted: [`Output::check`] verifies every index, end and length
//! once, so that the accessors, which the task calls for every record, need not. A reply that
//! breaks a rule is a fault, never half a success.

mod check;

use super::{
    ends::range_of,
    headers::EncodedHeaders,
    reply::{Reply, ReplyFailure},
};

pub(super) use check::Expected;

/// `source` of a record that derives from no input record.
const NO_SOURCE: u32 = u32::MAX;

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
        let failed = check::check(&mut reply, expected)?;
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
