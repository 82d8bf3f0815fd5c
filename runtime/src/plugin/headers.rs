//! Headers as they cross the boundary: for each header a u32 name length, the name (UTF-8), a u32
//! value length (0xffffffff = null value) and the value; numbers are little-endian.

use crate::model::{HeadersBuf, HeadersRef, batch, limits};

/// Value length that stands for a null value.
const NULL: u32 = u32::MAX;

/// Appends `headers` to `column`.
pub(super) fn encode(headers: HeadersRef<'_>, column: &mut Vec<u8>) {
    for (name, value) in headers.iter() {
        // A record is at most 8 MiB, so that its lengths fit.
        column.extend_from_slice(&(name.len() as u32).to_le_bytes());
        column.extend_from_slice(name.as_bytes());
        let value_len = value.map_or(NULL, |value| value.len() as u32);
        column.extend_from_slice(&value_len.to_le_bytes());
        column.extend_from_slice(value.unwrap_or_default());
    }
}

/// Checks that `encoded` is a whole number of well-formed headers, within the limits.
///
/// # Errors
/// Which rule it breaks.
pub(super) fn validate(mut encoded: &[u8]) -> Result<(), &'static str> {
    let mut count = 0;
    while !encoded.is_empty() {
        take(&mut encoded)?;
        count += 1;
        if count > limits::MAX_HEADERS {
            return Err("a record has more headers than the 1,000 allowed");
        }
    }
    Ok(())
}

/// Takes one header off the front of `rest`.
fn take<'a>(rest: &mut &'a [u8]) -> Result<(&'a str, Option<&'a [u8]>), &'static str> {
    let name_len = take_u32(rest).ok_or("a header's name length is cut off")?;
    let name = take_bytes(rest, name_len).ok_or("a header's name is longer than its column")?;
    let name = std::str::from_utf8(name).map_err(|_| "a header's name is not UTF-8")?;
    let value_len = take_u32(rest).ok_or("a header's value length is cut off")?;
    if value_len == NULL {
        return Ok((name, None));
    }
    let value = take_bytes(rest, value_len).ok_or("a header's value is longer than its column")?;
    Ok((name, Some(value)))
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u32::from_le_bytes(*number))
}

fn take_bytes<'a>(rest: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (bytes, tail) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = tail;
    Some(bytes)
}

/// The headers of one record, validated: an iterator over name and value, in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncodedHeaders<'a>(pub(super) &'a [u8]);

impl<'a> EncodedHeaders<'a> {
    /// No headers.
    pub const EMPTY: EncodedHeaders<'static> = EncodedHeaders(&[]);

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Size as encoded at the boundary.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }

    /// The value of the first header of this name; `None` if there is none. Allocates nothing.
    pub fn value_of(&self, name: &str) -> Option<Option<&'a [u8]>> {
        let mut rest = self.0;
        // Validated before, so that it only fails at the end.
        loop {
            let name_len = take_u32(&mut rest)?;
            let is_wanted = take_bytes(&mut rest, name_len)? == name.as_bytes();
            let value = match take_u32(&mut rest)? {
                NULL => None,
                value_len => Some(take_bytes(&mut rest, value_len)?),
            };
            if is_wanted {
                return Some(value);
            }
        }
    }

    /// Whether they begin with all of these others.
    pub fn begin_with(&self, others: EncodedHeaders<'_>) -> bool {
        self.0.starts_with(others.0)
    }

    /// Replaces what `target` holds by these headers.
    ///
    /// # Errors
    /// Those of [`HeadersBuf::push`], when a record cannot take them.
    pub fn write_to(&self, target: &mut HeadersBuf) -> Result<(), batch::Error> {
        target.clear();
        for (name, value) in *self {
            target.push(name, value)?;
        }
        Ok(())
    }
}

impl<'a> Iterator for EncodedHeaders<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        // Validated before, so that it only fails at the end.
        take(&mut self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers_of(pairs: &[(String, Option<Vec<u8>>)]) -> HeadersBuf {
        let mut headers = HeadersBuf::new();
        for (name, value) in pairs {
            headers.push(name, value.as_deref()).unwrap();
        }
        headers
    }

    proptest! {
        #[test]
        fn round_trip(pairs in prop::collection::vec((".{0,12}", prop::option::of(prop::collection::vec(any::<u8>(), 0..20))), 0..8)) {
            let headers = headers_of(&pairs);
            let mut column = Vec::new();
            encode(headers.as_headers(), &mut column);
            prop_assert_eq!(validate(&column), Ok(()));
            let decoded: Vec<_> = EncodedHeaders(&column).map(|(n, v)| (n.to_owned(), v.map(<[u8]>::to_vec))).collect();
            for name in pairs.iter().map(|(name, _)| name.as_str()).chain(["not there"]) {
                let first = pairs.iter().find(|(known, _)| known == name);
                let first = first.map(|(_, value)| value.as_deref());
                prop_assert_eq!(EncodedHeaders(&column).value_of(name), first);
            }
            prop_assert_eq!(decoded, pairs);
            let mut again = HeadersBuf::new();
            EncodedHeaders(&column).write_to(&mut again).unwrap();
            prop_assert_eq!(again.as_headers(), headers.as_headers());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = validate(&bytes);
            let _ = EncodedHeaders(&bytes).count();
            let _ = EncodedHeaders(&bytes).value_of("a");
        }
    }

    #[test]
    fn malformed_headers_are_named() {
        assert_eq!(
            validate(&[1, 0, 0]),
            Err("a header's name length is cut off")
        );
        assert_eq!(
            validate(&[2, 0, 0, 0, b'a']),
            Err("a header's name is longer than its column")
        );
        assert_eq!(
            validate(&[1, 0, 0, 0, 0xff, 0, 0, 0, 0]),
            Err("a header's name is not UTF-8")
        );
        assert_eq!(
            validate(&[1, 0, 0, 0, b'a', 1, 0]),
            Err("a header's value length is cut off")
        );
        assert_eq!(
            validate(&[1, 0, 0, 0, b'a', 1, 0, 0, 0]),
            Err("a header's value is longer than its column")
        );
    }
}
