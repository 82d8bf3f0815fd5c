//! Record headers, kept in their encoded form: reading a record does not build a list of them, and
//! passing them on copies bytes.

use super::{
    Error, limits,
    varint::{Writer, encoded_len, read_i32, zigzag},
};

/// A record's headers: ordered, and a name may occur several times.
///
/// What it holds has been validated, either by the record iterator or by being written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadersRef<'a> {
    encoded: &'a [u8],
    count: u32,
}

impl<'a> HeadersRef<'a> {
    /// No headers.
    pub const EMPTY: HeadersRef<'static> = HeadersRef {
        encoded: &[],
        count: 0,
    };

    /// Checks that `encoded` is exactly `count` headers.
    #[inline]
    pub(super) fn validate(encoded: &'a [u8], count: u32) -> Result<Self, &'static str> {
        if count == 0 {
            return if encoded.is_empty() {
                Ok(Self::EMPTY)
            } else {
                Err("bytes after the end")
            };
        }
        let mut rest = encoded;
        for _ in 0..count {
            read_header(&mut rest)?;
        }
        if rest.is_empty() {
            Ok(Self { encoded, count })
        } else {
            Err("bytes after the headers")
        }
    }

    /// How many headers there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers in the batch format's encoding, without their count.
    #[must_use]
    #[inline]
    pub fn as_encoded(&self) -> &'a [u8] {
        self.encoded
    }

    /// The headers in order, name and value.
    #[must_use]
    #[inline]
    pub fn iter(&self) -> HeaderIter<'a> {
        HeaderIter {
            rest: self.encoded,
            remaining: self.count,
        }
    }
}

impl Default for HeadersRef<'_> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<'a> IntoIterator for HeadersRef<'a> {
    type Item = (&'a str, Option<&'a [u8]>);
    type IntoIter = HeaderIter<'a>;

    fn into_iter(self) -> HeaderIter<'a> {
        self.iter()
    }
}

/// Iterator over a record's headers.
#[derive(Debug, Clone)]
pub struct HeaderIter<'a> {
    rest: &'a [u8],
    remaining: u32,
}

impl<'a> Iterator for HeaderIter<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        // Validated before: this does not fail.
        read_header(&mut self.rest).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl ExactSizeIterator for HeaderIter<'_> {}

/// Takes one header off the front of `rest`.
fn read_header<'a>(rest: &mut &'a [u8]) -> Result<(&'a str, Option<&'a [u8]>), &'static str> {
    let name = read_field(rest)?.ok_or("null header name")?;
    let name = std::str::from_utf8(name).map_err(|_| "header name is not UTF-8")?;
    Ok((name, read_field(rest)?))
}

/// Takes a nullable field, which is a length (−1 = null) and as many bytes, off the front of
/// `rest`.
#[inline(always)]
pub(super) fn read_field<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let length = read_i32(rest).ok_or("malformed field length")?;
    if length < 0 {
        return if length == -1 {
            Ok(None)
        } else {
            Err("negative field length")
        };
    }
    // Not negative, so the conversion keeps the value.
    let (field, tail) = rest
        .split_at_checked(length as usize)
        .ok_or("field longer than its record")?;
    *rest = tail;
    Ok(Some(field))
}

/// The number that stands in front of a nullable field's bytes.
#[inline(always)]
pub(super) fn field_length(field: Option<&[u8]>) -> u64 {
    field.map_or(zigzag(-1), |bytes| zigzag(bytes.len() as i64))
}

/// Builds headers, reusing its memory from record to record.
#[derive(Debug, Clone, Default)]
pub struct HeadersBuf {
    encoded: Vec<u8>,
    count: u32,
}

impl HeadersBuf {
    /// No headers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all headers and keeps the memory.
    pub fn clear(&mut self) {
        self.encoded.clear();
        self.count = 0;
    }

    /// Appends a header.
    ///
    /// # Errors
    /// [`Error::TooManyHeaders`] and [`Error::RecordTooLarge`] when a record could not take it;
    /// nothing is appended then.
    pub fn push(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Error> {
        if self.count >= limits::MAX_HEADERS {
            return Err(Error::TooManyHeaders);
        }
        let (name_length, value_length) = (zigzag(name.len() as i64), field_length(value));
        let value = value.unwrap_or_default();
        let added_bytes = name
            .len()
            .saturating_add(value.len())
            .saturating_add(encoded_len(name_length) + encoded_len(value_length));
        let start = self.encoded.len();
        let size_bytes = start.saturating_add(added_bytes);
        if size_bytes > limits::MAX_RECORD_BYTES {
            return Err(Error::RecordTooLarge { size_bytes });
        }
        self.encoded.resize(size_bytes, 0);
        let mut writer = Writer::new(&mut self.encoded[start..]);
        writer.varint(name_length);
        writer.bytes(name.as_bytes());
        writer.varint(value_length);
        writer.bytes(value);
        self.count += 1;
        Ok(())
    }

    /// The headers pushed so far.
    #[must_use]
    pub fn as_headers(&self) -> HeadersRef<'_> {
        HeadersRef {
            encoded: &self.encoded,
            count: self.count,
        }
    }
}
