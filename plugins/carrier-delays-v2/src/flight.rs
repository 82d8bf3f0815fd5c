//! What matters of a flight, whether its numbers come as numbers or as text.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de};

/// A flight.
pub struct Flight<'a> {
    pub carrier: Cow<'a, str>,
    /// Whether it left; a cancelled one did not.
    pub has_departed: bool,
    /// How late it arrived, in minutes; negative if it was early, `None` if it did not arrive as planned.
    pub arr_delay: Option<i64>,
}

/// As it comes. The times are null or `"NA"` if there was none, but not left out.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    carrier: Cow<'a, str>,
    #[serde(deserialize_with = "number")]
    dep_time: Option<i64>,
    #[serde(deserialize_with = "number")]
    arr_delay: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number<'a> {
    Number(i64),
    #[serde(borrow)]
    Text(Cow<'a, str>),
}

fn number<'a, D: Deserializer<'a>>(value: D) -> Result<Option<i64>, D::Error> {
    match Option::<Number<'a>>::deserialize(value)? {
        None => Ok(None),
        Some(Number::Number(number)) => Ok(Some(number)),
        Some(Number::Text(text)) if text == "NA" => Ok(None),
        Some(Number::Text(text)) => text.parse().map(Some).map_err(de::Error::custom),
    }
}

impl<'a> Flight<'a> {
    /// Reads a flight, a JSON object.
    pub fn read(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        let fields: Fields<'a> = serde_json::from_slice(json)?;
        Ok(Self {
            carrier: fields.carrier,
            has_departed: fields.dep_time.is_some(),
            arr_delay: fields.arr_delay,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dep_time: &str, arr_delay: &str) -> Option<(bool, Option<i64>)> {
        let json = format!(r#"{{"carrier":"UA","dep_time":{dep_time},"arr_delay":{arr_delay}}}"#);
        let flight = Flight::read(json.as_bytes()).ok()?;
        assert_eq!(flight.carrier, "UA");
        Some((flight.has_departed, flight.arr_delay))
    }

    #[test]
    fn numbers_are_numbers_or_text() {
        assert_eq!(read("517", "-11"), Some((true, Some(-11))));
        assert_eq!(read(r#""517""#, r#""-11""#), Some((true, Some(-11))));
        assert_eq!(read(r#""NA""#, r#""NA""#), Some((false, None)));
        assert_eq!(read("null", "null"), Some((false, None)));
        assert_eq!(read("517", r#""soon""#), None);
        assert_eq!(read("517", "[]"), None);
    }
}
