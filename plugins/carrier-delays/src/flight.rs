//! What matters of a flight.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A flight.
pub struct Flight<'a> {
    pub carrier: Cow<'a, str>,
    /// Whether it left; a cancelled one did not.
    pub has_departed: bool,
    /// How late it arrived, in minutes; negative if it was early, `None` if it did not arrive as planned.
    pub arr_delay: Option<i64>,
}

/// As it comes. The times are null if there was none, but not left out.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    carrier: Cow<'a, str>,
    #[serde(deserialize_with = "Option::deserialize")]
    dep_time: Option<IgnoredAny>,
    #[serde(deserialize_with = "Option::deserialize")]
    arr_delay: Option<i64>,
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
