//! W3C trace context: the `traceparent` header of a record or a request, read and written without allocation.

use std::fmt;

/// The header that names the trace and the span that a record or a request comes from.
pub const TRACE_PARENT: &str = "traceparent";
/// The header in which tracing systems keep what is theirs; it goes along with the other one.
pub const TRACE_STATE: &str = "tracestate";
/// Longest `tracestate` that is passed on, in bytes: as much as W3C wants passed on at least. A longer one is left out.
pub const MAX_TRACE_STATE_BYTES: usize = 512;
/// What both headers may take in a batch besides what a record has, with all that a batch has around a record.
pub const TRACE_HEADERS_BYTES: usize = 1 << 10;

/// How long a `traceparent` is.
const HEADER_BYTES: usize = 55;
const SAMPLED: u8 = 1;
/// The flags that are defined: sampled, and that the id of the trace is random.
const KNOWN_FLAGS: u8 = 3;

/// A span as others name it: the trace that it belongs to, its id there, and whether it is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// No span.
    pub const NONE: Self = Self {
        trace_id: [0; 16],
        span_id: [0; 8],
        flags: 0,
    };

    /// Reads a `traceparent`; `None` if it is none, or of a version that says nothing.
    pub fn parse(header: &[u8]) -> Option<Self> {
        let (known, more) = header.split_first_chunk::<HEADER_BYTES>()?;
        let [v0, v1, b'-', rest @ ..] = known else {
            return None;
        };
        let version = byte(*v0, *v1)?;
        let is_whole = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|next| *next == b'-'),
        };
        let (trace, rest) = rest.split_first_chunk::<32>()?;
        let (span, flags) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
        let [b'-', f0, f1] = flags else { return None };
        let context = Self {
            trace_id: bytes(trace)?,
            span_id: bytes(span)?,
            flags: byte(*f0, *f1)? & KNOWN_FLAGS,
        };
        let is_valid = context.trace_id != [0; 16] && context.span_id != [0; 8];
        (is_whole && is_valid).then_some(context)
    }

    /// A span of a new trace, sampled.
    pub(super) fn root(trace_id: [u8; 16], span_id: [u8; 8]) -> Self {
        Self {
            trace_id,
            span_id,
            flags: KNOWN_FLAGS,
        }
    }

    /// Another span of the same trace, sampled.
    pub fn sibling(&self, span_id: [u8; 8]) -> Self {
        Self {
            span_id,
            flags: self.flags | SAMPLED,
            ..*self
        }
    }

    /// As a `traceparent`.
    pub fn to_header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [b'-'; HEADER_BYTES];
        let mut write = |at: usize, bytes: &[u8]| {
            let places = header.iter_mut().skip(at);
            for (place, digit) in places.zip(bytes.iter().flat_map(|byte| digits(*byte))) {
                *place = digit;
            }
        };
        write(0, &[0]);
        write(3, &self.trace_id);
        write(36, &self.span_id);
        write(53, &[self.flags]);
        header
    }

    /// The id of the trace.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The id of the span.
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Whether whoever made the span has exported it.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub(super) fn flags(&self) -> u8 {
        self.flags
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = self.to_header();
        f.write_str(std::str::from_utf8(&header).unwrap_or_default())
    }
}

fn bytes<const DIGITS: usize, const BYTES: usize>(digits: &[u8; DIGITS]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    for (into, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *into = byte(*high, *low)?;
    }
    Some(bytes)
}

fn byte(high: u8, low: u8) -> Option<u8> {
    Some(nibble(high)? << 4 | nibble(low)?)
}

/// Upper case is not allowed.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn digits(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + nibble - 10,
    };
    [digit(byte >> 4), digit(byte & 15)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_reads_and_writes() {
        let context = TraceContext::parse(EXAMPLE.as_bytes()).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), EXAMPLE);
        assert_eq!(
            context.sibling([1; 8]).to_string(),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0101010101010101-01"
        );
        let not_sampled = EXAMPLE.replace("-01", "-00");
        assert!(
            !TraceContext::parse(not_sampled.as_bytes())
                .unwrap()
                .is_sampled()
        );
    }

    #[test]
    fn what_is_no_context_is_none() {
        let later = EXAMPLE.replacen("00", "01", 1);
        assert!(TraceContext::parse(format!("{later}-more").as_bytes()).is_some());
        for bad in [
            String::new(),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replacen("00", "ff", 1),
            format!("{EXAMPLE}-more"),
            format!("{later}more"),
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace('-', "_"),
            EXAMPLE[..54].to_owned(),
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(trace_id: [u8; 16], span_id: [u8; 8]) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let context = TraceContext::root(trace_id, span_id);
            prop_assert_eq!(TraceContext::parse(&context.to_header()), Some(context));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&bytes);
        }
    }
}
