//! What `consume --output json` prints.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A key, a value or a header's value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Bytes that are UTF-8.
    Text(String),
    /// Other bytes.
    Bytes {
        /// The bytes.
        base64: String,
    },
}

/// A record, one line of the output. A field that is missing or one too many is an error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumed {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// In ms since the epoch.
    pub timestamp: u64,
    /// `None` for a null key.
    #[serde(deserialize_with = "Option::deserialize")]
    pub key: Option<Value>,
    /// `None` for a tombstone.
    #[serde(deserialize_with = "Option::deserialize")]
    pub value: Option<Value>,
    /// Names and values, in their order.
    pub headers: Vec<(String, Option<Value>)>,
}

impl Consumed {
    /// Reads the output of `consume`.
    #[track_caller]
    pub fn parse_lines(output: &str) -> Vec<Self> {
        output
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// The key as text.
    #[track_caller]
    pub fn key_text(&self) -> &str {
        match &self.key {
            Some(Value::Text(text)) => text,
            other => panic!("the key is {other:?}"),
        }
    }

    /// The value as text.
    #[track_caller]
    pub fn value_text(&self) -> &str {
        match &self.value {
            Some(Value::Text(text)) => text,
            other => panic!("the value is {other:?}"),
        }
    }

    /// The value as JSON.
    #[track_caller]
    pub fn value_json(&self) -> serde_json::Value {
        serde_json::from_str(self.value_text()).unwrap()
    }
}

/// Asserts that the records of each partition have the offsets 0, 1, 2, …, in this order: nothing
/// is missing and nothing is twice.
#[track_caller]
pub fn assert_dense(records: &[Consumed]) {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for record in records {
        let expected = next.entry(record.partition).or_default();
        assert_eq!(record.offset, *expected, "{record:?}");
        *expected += 1;
    }
}

/// The last value of each key; a tombstone removes it.
pub fn last_values(records: &[Consumed]) -> BTreeMap<String, serde_json::Value> {
    let mut table = BTreeMap::new();
    for record in records {
        match &record.value {
            Some(_) => table.insert(record.key_text().to_owned(), record.value_json()),
            None => table.remove(record.key_text()),
        };
    }
    table
}
