//! Records as JSON, one object a line: what `consume --output json` writes, and what
//! `produce --format record` reads.
//!
//! ```json
//! {"topic":"t","partition":0,"offset":7,"timestamp":1357016400000,"key":"UA","value":{"base64":"/w=="},"headers":[["trace","1"]]}
//! ```
//!
//! Bytes that are UTF-8 are a string, others an object with their base64; null stays null. Headers
//! are a list of pairs: they have an order, and a name may occur several times.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::mistake::Mistake;
use crate::model::{HeadersBuf, QueueName, RecordRef, TopicName};
use crate::queue::LeasedMessage;

/// Writes the records of one partition.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Everything before the offset, which is the same for all records.
    prefix: Vec<u8>,
}

impl Writer {
    /// A writer for the records of a partition.
    pub(crate) fn new(topic: &TopicName, partition: u32) -> Self {
        // A topic's name has no character that JSON escapes.
        let prefix = format!("{{\"topic\":\"{topic}\",\"partition\":{partition},\"offset\":");
        Self {
            prefix: prefix.into_bytes(),
        }
    }

    /// Appends a record and the end of its line.
    pub(crate) fn write(&self, record: &RecordRef<'_>, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.prefix);
        // Writing to memory does not fail.
        let _ = write!(into, "{}", record.offset);
        write_record(record, into);
    }
}

/// Appends a record as it is sent to be stored, and the end of its line.
pub(crate) fn write_input(partition: Option<u32>, record: &RecordRef<'_>, into: &mut Vec<u8>) {
    into.extend_from_slice(b"{\"partition\":");
    // Writing to memory does not fail.
    let _ = match partition {
        Some(partition) => write!(into, "{partition}"),
        None => write!(into, "null"),
    };
    write_record(record, into);
}

/// Appends everything after the offset, and the end of the line.
fn write_record(record: &RecordRef<'_>, into: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = write!(into, ",\"timestamp\":{}", record.timestamp_ms);
    into.extend_from_slice(b",\"key\":");
    write_field(record.key, into);
    into.extend_from_slice(b",\"value\":");
    write_field(record.value, into);
    into.extend_from_slice(b",\"headers\":[");
    for (at, (name, value)) in record.headers.iter().enumerate() {
        into.extend_from_slice(if at == 0 { b"[" } else { b",[" });
        write_string(name, into);
        into.push(b',');
        write_field(value, into);
        into.push(b']');
    }
    into.extend_from_slice(b"]}\n");
}

/// Writes the messages of one queue.
#[derive(Debug)]
pub(crate) struct QueueWriter {
    /// Everything before the offset.
    prefix: Vec<u8>,
}

impl QueueWriter {
    /// A writer for the messages of a queue.
    pub(crate) fn new(queue: &QueueName) -> Self {
        // A queue's name has no character that JSON escapes.
        let prefix = format!("{{\"queue\":\"{queue}\",\"offset\":");
        Self {
            prefix: prefix.into_bytes(),
        }
    }

    /// Appends a message and the end of its line; with what it waits for and until when, if that is
    /// known.
    pub(crate) fn write(
        &self,
        record: &RecordRef<'_>,
        delivery_count: u32,
        state: Option<(&str, Option<u64>)>,
        into: &mut Vec<u8>,
    ) {
        into.extend_from_slice(&self.prefix);
        // Writing to memory does not fail.
        let _ = write!(
            into,
            "{},\"delivery_count\":{delivery_count}",
            record.offset
        );
        if let Some((state, until_ms)) = state {
            let _ = write!(into, ",\"state\":\"{state}\",\"until_ms\":");
            let _ = match until_ms {
                Some(until_ms) => write!(into, "{until_ms}"),
                None => write!(into, "null"),
            };
        }
        write_record(record, into);
    }
}

impl QueueWriter {
    /// Appends a message that is leased, with the receipt to settle it by, and the end of its line.
    pub(crate) fn write_leased(
        &self,
        message: &LeasedMessage,
        into: &mut Vec<u8>,
    ) -> Result<(), crate::model::batch::Error> {
        into.extend_from_slice(&self.prefix);
        // Writing to memory does not fail.
        let _ = write!(
            into,
            "{},\"delivery_count\":{},\"receipt\":\"{}\",\"deadline_ms\":{}",
            message.offset(),
            message.delivery_count(),
            message.receipt(),
            message.deadline_ms()
        );
        write_record(&message.record()?, into);
        Ok(())
    }
}

fn write_field(field: Option<&[u8]>, into: &mut Vec<u8>) {
    let Some(bytes) = field else {
        into.extend_from_slice(b"null");
        return;
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => write_string(text, into),
        Err(_) => {
            into.extend_from_slice(b"{\"base64\":\"");
            into.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            into.extend_from_slice(b"\"}");
        }
    }
}

/// Writes a JSON string: stretches without anything to escape are copied as they are.
fn write_string(text: &str, into: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    into.reserve(bytes.len() + 2);
    into.push(b'"');
    let mut copied = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte >= b' ' && *byte != b'"' && *byte != b'\\' {
            continue;
        }
        into.extend_from_slice(bytes.get(copied..at).unwrap_or_default());
        copied = at + 1;
        match byte {
            b'"' => into.extend_from_slice(b"\\\""),
            b'\\' => into.extend_from_slice(b"\\\\"),
            b'\n' => into.extend_from_slice(b"\\n"),
            b'\r' => into.extend_from_slice(b"\\r"),
            b'\t' => into.extend_from_slice(b"\\t"),
            // Writing to memory does not fail.
            _ => _ = write!(into, "\\u{byte:04x}"),
        }
    }
    into.extend_from_slice(bytes.get(copied..).unwrap_or_default());
    into.push(b'"');
}

/// What a line is expected to be.
const EXAMPLE: &str = "a record such as {\"key\":\"k\",\"value\":\"v\"}";

/// A record as it is read. Where it came from (`topic` or `queue`, `offset`) and what `consume` tells of
/// a message besides is ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JsonRecord<'a> {
    /// The partition it goes to; by its key if there is none.
    #[serde(default)]
    pub(crate) partition: Option<u32>,
    /// Its timestamp in ms since the epoch; now if there is none.
    #[serde(default)]
    pub(crate) timestamp: Option<u64>,
    #[serde(default, borrow)]
    key: Option<Field<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    value: Option<Field<'a>>,
    #[serde(default, borrow)]
    headers: Vec<(String, Option<Field<'a>>)>,
    #[serde(default, rename = "topic")]
    _topic: IgnoredAny,
    #[serde(default, rename = "queue")]
    _queue: IgnoredAny,
    #[serde(default, rename = "offset")]
    _offset: IgnoredAny,
    #[serde(default, rename = "delivery_count")]
    _delivery_count: IgnoredAny,
    #[serde(default, rename = "state")]
    _state: IgnoredAny,
    #[serde(default, rename = "until_ms")]
    _until_ms: IgnoredAny,
    #[serde(default, rename = "receipt")]
    _receipt: IgnoredAny,
    #[serde(default, rename = "deadline_ms")]
    _deadline_ms: IgnoredAny,
}

impl<'a> JsonRecord<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong, and at which column.
    pub(crate) fn read(line: &'a [u8]) -> Result<Self, Mistake> {
        let text = std::str::from_utf8(line)
            .map_err(|_| Mistake::new("expected JSON in UTF-8, found bytes that are not UTF-8"))?;
        if text.trim_start().starts_with('[') {
            // It would count as the fields in the order of their declaration.
            return Err(Mistake::new(format!("expected {EXAMPLE}, found a list")));
        }
        serde_json::from_str(text).map_err(|error| Mistake::of_json(&error, EXAMPLE))
    }

    /// Its key.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.key.as_ref().map(Field::as_bytes)
    }

    /// Its value.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.value.as_ref().map(Field::as_bytes)
    }

    /// Bytes of its key and its value.
    pub(crate) fn size_bytes(&self) -> usize {
        self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, <[u8]>::len)
    }

    /// Writes its headers into `into`, which is cleared first.
    ///
    /// # Errors
    /// More or larger headers than a record takes.
    pub(crate) fn encode_headers(&self, into: &mut HeadersBuf) -> Result<(), Mistake> {
        into.clear();
        for (name, value) in &self.headers {
            into.push(name, value.as_ref().map(Field::as_bytes))
                .map_err(|error| Mistake::new(error.to_string()))?;
        }
        Ok(())
    }
}

/// What a line says of the place of its record, or of the delivery of its message.
#[derive(Debug, Deserialize)]
pub(crate) struct Place<'a> {
    #[serde(default)]
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    #[serde(default)]
    pub(crate) delivery_count: u32,
    #[serde(default, borrow)]
    pub(crate) state: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) receipt: Option<String>,
}

/// A line as it was written: its record and its place.
///
/// # Errors
/// It is something else.
pub(crate) fn read_back(line: &[u8]) -> Result<(Place<'_>, JsonRecord<'_>), Mistake> {
    let record = JsonRecord::read(line)?;
    let place = serde_json::from_slice(line)
        .map_err(|error| Mistake::of_json(&error, "a record with its offset"))?;
    Ok((place, record))
}

/// A value that must be there, and may be null: what is left out by mistake is no tombstone.
fn nullable<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Field<'a>>, D::Error> {
    Option::deserialize(deserializer)
}

/// The bytes of a key, a value or a header in a document: null, a string, or an object with their base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(Option<Vec<u8>>);

impl Bytes {
    /// These bytes.
    pub(crate) fn of(bytes: Option<&[u8]>) -> Self {
        Self(bytes.map(<[u8]>::to_vec))
    }

    /// The bytes; `None` if they are null.
    pub(crate) fn as_deref(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(bytes) = &self.0 else {
            return serializer.serialize_none();
        };
        if let Ok(text) = std::str::from_utf8(bytes) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(bytes))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let field: Option<Field<'_>> = Option::deserialize(deserializer)?;
        Ok(Self(field.map(|field| field.as_bytes().to_vec())))
    }
}

impl utoipa::PartialSchema for Bytes {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        // Anything: null, a string, or an object with base64.
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("null, a string, or {\"base64\":\"…\"}"))
            .into()
    }
}

impl utoipa::ToSchema for Bytes {}

/// Bytes: a string, or an object with their base64.
#[derive(Debug)]
enum Field<'a> {
    Text(Cow<'a, str>),
    Bytes(Vec<u8>),
}

impl Field<'_> {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;

        impl<'de> Visitor<'de> for FieldVisitor {
            type Value = Field<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, {\"base64\":\"…\"} or null")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
                let expected = || de::Error::custom("expected {\"base64\":\"…\"}");
                let entry = map.next_entry::<String, String>()?;
                let Some((_, text)) = entry.filter(|(name, _)| name == "base64") else {
                    return Err(expected());
                };
                let bytes = STANDARD
                    .decode(text)
                    .map_err(|error| de::Error::custom(format!("expected base64: {error}")))?;
                match map.next_key::<IgnoredAny>()? {
                    None => Ok(Field::Bytes(bytes)),
                    Some(_) => Err(expected()),
                }
            }
        }

        deserializer.deserialize_any(FieldVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::HeadersRef;

    fn written(record: &RecordRef<'_>) -> String {
        let mut text = Vec::new();
        Writer::new(&"flights".parse().unwrap(), 3).write(record, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_record_is_one_object_a_line() {
        let mut headers = HeadersBuf::new();
        headers.push("a", Some(b"1")).unwrap();
        headers.push("a", None).unwrap();
        let record = RecordRef {
            offset: 7,
            timestamp_ms: 1_357_016_400_000,
            key: Some(b"U\"A"),
            value: Some(b"\xff"),
            headers: headers.as_headers(),
        };
        assert_eq!(
            written(&record),
            "{\"topic\":\"flights\",\"partition\":3,\"offset\":7,\"timestamp\":1357016400000,\
             \"key\":\"U\\\"A\",\"value\":{\"base64\":\"/w==\"},\
             \"headers\":[[\"a\",\"1\"],[\"a\",null]]}\n"
        );
        let tombstone = RecordRef {
            value: None,
            headers: HeadersRef::EMPTY,
            ..record
        };
        assert!(written(&tombstone).ends_with("\"value\":null,\"headers\":[]}\n"));
    }

    #[test]
    fn strings_are_escaped_as_json_wants_it() {
        let text: String = (0u8..128)
            .map(char::from)
            .chain("é\u{2028}😀".chars())
            .collect();
        let mut written = Vec::new();
        write_string(&text, &mut written);
        let read: String = serde_json::from_slice(&written).unwrap();
        assert_eq!(read, text);
    }

    #[test]
    fn what_is_left_out_has_a_default_but_the_value() {
        let record = JsonRecord::read(br#"{"value":null}"#).unwrap();
        assert_eq!((record.key(), record.value()), (None, None));
        assert_eq!((record.partition, record.timestamp), (None, None));
        for (line, hint) in [
            (r#"{"key":"k"}"#, "missing field `value`"),
            (r#"{"value":1}"#, "a string, {\"base64\":\"…\"} or null"),
            (
                r#"{"value":{"base63":"AA=="}}"#,
                "expected {\"base64\":\"…\"}",
            ),
            (r#"{"value":{"base64":"!"}}"#, "expected base64"),
            (
                r#"{"value":"v","timestmap":1}"#,
                "unknown field `timestmap`",
            ),
            (
                r#"{"value":"v","timestamp":-1}"#,
                "invalid value: integer `-1`, expected u64",
            ),
            ("x", "expected"),
        ] {
            let message = JsonRecord::read(line.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(hint), "{line}: {message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(
            timestamp_ms: u64,
            key: Option<Vec<u8>>,
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64)),
            text in ".*",
            header: Option<Vec<u8>>,
        ) {
            let mut headers = HeadersBuf::new();
            headers.push(&text, header.as_deref()).unwrap();
            headers.push("second", Some(text.as_bytes())).unwrap();
            let record = RecordRef {
                offset: 1,
                timestamp_ms,
                key: key.as_deref(),
                value: value.as_deref(),
                headers: headers.as_headers(),
            };
            let line = written(&record);
            let read = JsonRecord::read(line.as_bytes()).unwrap();
            prop_assert_eq!(read.key(), key.as_deref());
            prop_assert_eq!(read.value(), value.as_deref());
            prop_assert_eq!(read.timestamp, Some(timestamp_ms));
            prop_assert_eq!(read.partition, Some(3));
            let mut again = HeadersBuf::new();
            read.encode_headers(&mut again).unwrap();
            prop_assert_eq!(again.as_headers(), record.headers);
        }

        #[test]
        fn arbitrary_bytes_never_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = JsonRecord::read(&line);
        }
    }
}
