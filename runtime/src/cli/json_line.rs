//! Reads the fields that `produce` needs off a line of JSON, and checks the rest without building it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::quantity;
use crate::queue;
use crate::server::mistake::Mistake;

/// Which fields of a line are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// The field that holds the key.
    pub(super) key: Option<String>,
    /// The field that holds the timestamp.
    pub(super) timestamp: Option<String>,
    /// The fields that hold attributes of a message, see [`ATTRIBUTES`].
    pub(super) attributes: [Option<String>; ATTRIBUTES.len()],
}

/// The attributes of a message that can stand in a field.
pub(super) const ATTRIBUTES: [&str; 3] = [queue::PRIORITY, queue::GROUP, queue::DEDUPLICATION_ID];

/// The wanted fields of one line, as they are written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    key: Option<&'a str>,
    timestamp: Option<&'a str>,
    attributes: [Option<&'a str>; ATTRIBUTES.len()],
}

impl Selection {
    /// Reads the wanted fields of a line that must be one JSON value. The last of several fields
    /// with the same name counts.
    ///
    /// # Errors
    /// What is wrong, and at which column.
    pub(super) fn read<'a>(&self, line: &'a [u8]) -> Result<Fields<'a>, Mistake> {
        let text = std::str::from_utf8(line).map_err(|error| {
            Mistake::at(
                error.valid_up_to() + 1,
                "expected JSON in UTF-8, found bytes that are not UTF-8",
            )
        })?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let any_value = self.names().next().is_none();
        let expected = if any_value {
            "a JSON value"
        } else {
            "a JSON object"
        };
        let fields = if any_value {
            let checked: Result<IgnoredAny, _> = serde::Deserialize::deserialize(&mut deserializer);
            checked.map(|_| Fields::default())
        } else {
            deserializer.deserialize_map(FieldsVisitor(self))
        };
        let fields = fields.map_err(|error| Mistake::of_json(&error, expected))?;
        deserializer
            .end()
            .map_err(|error| Mistake::of_json(&error, "one JSON value a line"))?;
        Ok(fields)
    }

    /// The names of the wanted fields.
    fn names(&self) -> impl Iterator<Item = &String> {
        let attributes = self.attributes.iter();
        [&self.key, &self.timestamp]
            .into_iter()
            .chain(attributes)
            .flatten()
    }

    /// The attributes of a message that a line has, by header; a field that is missing or null is none.
    ///
    /// # Errors
    /// A field holds a list or an object.
    pub(super) fn attributes<'a>(
        &self,
        fields: &Fields<'a>,
    ) -> Result<Vec<(&'static str, Cow<'a, str>)>, Mistake> {
        let mut attributes = Vec::new();
        for ((header, raw), name) in ATTRIBUTES
            .iter()
            .zip(fields.attributes)
            .zip(&self.attributes)
        {
            match (raw, name) {
                (None | Some("null"), _) | (_, None) => {}
                (Some(raw), Some(name)) if raw.starts_with(['{', '[']) => {
                    return Err(Mistake::new(format!(
                        "expected a text or a number in the field `{name}`, found {}",
                        shorten(raw)
                    )));
                }
                (Some(raw), _) => attributes.push((*header, text_of(raw)?)),
            }
        }
        Ok(attributes)
    }

    /// The key of a line: the text of a string, the digits of a number, `true` or `false`.
    ///
    /// # Errors
    /// The field is missing or null and `allow_null` is not set; it holds a list or an object.
    pub(super) fn key<'a>(
        &self,
        fields: &Fields<'a>,
        allow_null: bool,
    ) -> Result<Option<Cow<'a, str>>, Mistake> {
        let Some(name) = &self.key else {
            return Ok(None);
        };
        match fields.key {
            None | Some("null") if allow_null => Ok(None),
            None => Err(Mistake::new(format!(
                "expected the key in the field `{name}`, which is missing; --allow-null-key stores such records without a key"
            ))),
            Some("null") => Err(Mistake::new(format!(
                "expected the key in the field `{name}`, which is null; --allow-null-key stores such records without a key"
            ))),
            Some(raw) if raw.starts_with(['{', '[']) => Err(Mistake::new(format!(
                "expected a text or a number as the key in the field `{name}`, found {}",
                shorten(raw)
            ))),
            Some(raw) => text_of(raw).map(Some),
        }
    }

    /// The timestamp of a line, in ms since the epoch; `None` if no field is wanted.
    ///
    /// # Errors
    /// The field is missing, or holds neither ms since the epoch nor an RFC 3339 time.
    pub(super) fn timestamp_ms(&self, fields: &Fields<'_>) -> Result<Option<u64>, Mistake> {
        let Some(name) = &self.timestamp else {
            return Ok(None);
        };
        let mistake = |found: &str| {
            Mistake::new(format!(
                "expected the timestamp in the field `{name}`, in ms since 1970 or as text such as \"2013-01-01T00:00:00Z\", found {found}"
            ))
        };
        let Some(raw) = fields.timestamp else {
            return Err(mistake("no such field"));
        };
        let read = match raw.starts_with('"') {
            true => quantity::time_ms(&text_of(raw)?).ok(),
            false => raw.parse().ok(),
        };
        read.map(Some).ok_or_else(|| mistake(&shorten(raw)))
    }
}

/// The text of a JSON string, or a number, `true` or `false` as it is written.
fn text_of(raw: &str) -> Result<Cow<'_, str>, Mistake> {
    let Some(inside) = raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        return Ok(Cow::Borrowed(raw));
    };
    if !inside.contains('\\') {
        return Ok(Cow::Borrowed(inside));
    }
    serde_json::from_str(raw)
        .map(Cow::Owned)
        .map_err(|error| Mistake::of_json(&error, "a text"))
}

/// The start of a value, for a message.
pub(super) fn shorten(raw: &str) -> String {
    const MAX_CHARS: usize = 40;
    let start: String = raw.chars().take(MAX_CHARS).collect();
    match start.len() < raw.len() {
        true => format!("{start}…"),
        false => start,
    }
}

struct FieldsVisitor<'s>(&'s Selection);

impl<'de> Visitor<'de> for FieldsVisitor<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted: Vec<_> = self.0.names().map(|name| format!("`{name}`")).collect();
        write!(f, "a JSON object with the field {}", wanted.join(" and "))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(wanted) = map.next_key_seed(NameSeed(self.0))? {
            if wanted == Wanted::default() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw = map.next_value::<&RawValue>()?.get();
            if wanted.key {
                fields.key = Some(raw);
            }
            if wanted.timestamp {
                fields.timestamp = Some(raw);
            }
            for (field, is_wanted) in fields.attributes.iter_mut().zip(wanted.attributes) {
                if is_wanted {
                    *field = Some(raw);
                }
            }
        }
        Ok(fields)
    }
}

/// What a field is wanted as.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    key: bool,
    timestamp: bool,
    attributes: [bool; ATTRIBUTES.len()],
}

/// Tells from a field's name what it is wanted as.
struct NameSeed<'s>(&'s Selection);

impl<'de> DeserializeSeed<'de> for NameSeed<'_> {
    type Value = Wanted;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameSeed<'_> {
    type Value = Wanted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Wanted, E> {
        let is = |wanted: &Option<String>| wanted.as_deref() == Some(name);
        Ok(Wanted {
            key: is(&self.0.key),
            timestamp: is(&self.0.timestamp),
            attributes: self.0.attributes.each_ref().map(is),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selection(key: &str, timestamp: &str) -> Selection {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Selection {
            key: name(key),
            timestamp: name(timestamp),
            ..Selection::default()
        }
    }

    fn key_of(line: &str) -> Result<Option<String>, String> {
        let selection = selection("k", "");
        let fields = selection.read(line.as_bytes()).map_err(|m| m.to_string())?;
        let key = selection.key(&fields, false).map_err(|m| m.to_string())?;
        Ok(key.map(Cow::into_owned))
    }

    #[test]
    fn a_key_is_the_value_as_text() {
        for (value, text) in [
            (r#""UA""#, "UA"),
            (r#""""#, ""),
            (r#""a\"b\u00e9""#, "a\"bé"),
            ("17", "17"),
            ("1.50", "1.50"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("true", "true"),
        ] {
            let line = format!(r#"{{"a":[1,{{"k":2}}],"k":{value},"z":null}}"#);
            assert_eq!(key_of(&line), Ok(Some(text.to_owned())), "{line}");
        }
        assert_eq!(key_of(r#"{"k":1,"k":2}"#), Ok(Some("2".to_owned())));
        assert_eq!(key_of(r#"{"\u006b":1}"#), Ok(Some("1".to_owned())));
    }

    #[test]
    fn a_bad_line_says_what_was_expected_and_where() {
        for (line, expected) in [
            (
                r#"{"a":1}"#,
                " expected the key in the field `k`, which is missing",
            ),
            (
                r#"{"k":null}"#,
                " expected the key in the field `k`, which is null",
            ),
            (
                r#"{"k":{"a":1}}"#,
                " expected a text or a number as the key in the field `k`, found {\"a\":1}",
            ),
            (
                r#"{"k":1"#,
                "6: expected a JSON object: EOF while parsing an object",
            ),
            (
                r#"{"k":1}}"#,
                "8: expected one JSON value a line: trailing characters",
            ),
            (r#"{"k":01}"#, "7: expected a JSON object: invalid number"),
            (r#"[1]"#, "expected a JSON object with the field `k`"),
            ("", "expected a JSON object: EOF"),
            ("hello", "1: expected a JSON object: expected value"),
            (r#"{"k":nul}"#, "9: expected a JSON object: invalid literal"),
        ] {
            let message = key_of(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
        let error = selection("k", "").read(b"{\"k\":\"\xff\"}").unwrap_err();
        assert!(
            error.to_string().starts_with("7: expected JSON in UTF-8"),
            "{error}"
        );
    }

    #[test]
    fn without_wanted_fields_any_json_value_will_do() {
        let selection = Selection::default();
        for line in ["1", "null", "[1, 2]", "{}", "\"x\""] {
            let fields = selection.read(line.as_bytes()).unwrap();
            assert_eq!(selection.key(&fields, false), Ok(None));
        }
        assert!(selection.read(b"x").is_err());
        assert!(selection.read(b"1 2").is_err());
    }

    #[test]
    fn timestamps_are_ms_or_times() {
        let selection = selection("", "t");
        let read = |line: &str| {
            let fields = selection.read(line.as_bytes()).unwrap();
            selection.timestamp_ms(&fields)
        };
        assert_eq!(read(r#"{"t":1357016400000}"#), Ok(Some(1_357_016_400_000)));
        assert_eq!(
            read(r#"{"t":"2013-01-01T05:00:00Z"}"#),
            Ok(Some(1_357_016_400_000))
        );
        for line in [
            r#"{}"#,
            r#"{"t":null}"#,
            r#"{"t":-1}"#,
            r#"{"t":1.5}"#,
            r#"{"t":"noon"}"#,
        ] {
            let message = read(line).unwrap_err().to_string();
            assert!(
                message.contains("expected the timestamp in the field `t`"),
                "{message}"
            );
        }
    }

    #[test]
    fn attributes_are_text_and_may_be_missing() {
        let name = |name: &str| Some(name.to_owned());
        let selection = Selection {
            key: name("id"),
            attributes: [name("p"), None, name("id")],
            ..Selection::default()
        };
        let read = |line: &str| {
            let fields = selection.read(line.as_bytes()).unwrap();
            let attributes = selection.attributes(&fields)?;
            let attributes = attributes.into_iter();
            Ok::<_, Mistake>(
                attributes
                    .map(|(_, text)| text.into_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(read(r#"{"id":"a","p":9,"g":1}"#).unwrap(), ["9", "a"]);
        assert_eq!(read(r#"{"p":null}"#).unwrap(), [""; 0]);
        let mistake = read(r#"{"p":[1]}"#).unwrap_err().to_string();
        assert!(mistake.contains("in the field `p`, found [1]"), "{mistake}");
    }

    #[test]
    fn one_field_can_be_both() {
        let selection = selection("t", "t");
        let fields = selection.read(br#"{"t":5}"#).unwrap();
        assert_eq!(selection.key(&fields, false), Ok(Some("5".into())));
        assert_eq!(selection.timestamp_ms(&fields), Ok(Some(5)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let selection = selection("k", "t");
            if let Ok(fields) = selection.read(&line) {
                let _ = (selection.key(&fields, true), selection.timestamp_ms(&fields));
            }
        }

        #[test]
        fn any_text_is_read_back_as_the_key(text in ".*") {
            let line = serde_json::json!({ "k": text }).to_string();
            prop_assert_eq!(key_of(&line), Ok(Some(text)));
        }
    }
}
