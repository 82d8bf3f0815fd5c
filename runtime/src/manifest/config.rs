//! Reads a pipeline's `config`: free keys whose values reach the plugin as text.

use serde_json::Value as Json;
use toml::de::DeValue;

use super::error::Report;
use super::read::{Table, Value};
use super::words::{Key, describe};

/// The most entries of one `config`.
const MAX_ENTRIES: usize = 256;
/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 256;

/// The entries in the order of their keys: a string stays as it is, everything else becomes JSON.
pub(super) fn read(table: &Table<'_>, report: &mut Report<'_>) -> Vec<(String, String)> {
    let Some(value) = table.value("config") else {
        return Vec::new();
    };
    let entries = match value.get_ref() {
        DeValue::Table(entries) if entries.len() <= MAX_ENTRIES => entries,
        DeValue::Table(entries) => {
            let message = format!(
                "`config` must have at most {MAX_ENTRIES} entries, found {}",
                entries.len()
            );
            let help = "put several settings into one entry: a table or an array";
            report.error(value.span(), message, help);
            return Vec::new();
        }
        _ => {
            let expected = "a table of the plugin's own keys";
            let help = "for example `config = { window = \"1h\" }`";
            table.wrong("config", value, expected, help, report);
            return Vec::new();
        }
    };
    let mut config = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let name = key.get_ref();
        if name.is_empty() || name.len() > MAX_KEY_BYTES {
            let message = format!(
                "a key of `config` must have 1 to {MAX_KEY_BYTES} bytes, found {}",
                name.len()
            );
            report.error(key.span(), message, "give the entry a short name");
            continue;
        }
        let text = match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => json(name, value, report).map(|value| value.to_string()),
        };
        config.extend(text.map(|text| (name.to_string(), text)));
    }
    config
}

/// A value as JSON; notes numbers that JSON doesn't have. Times become strings.
fn json(entry: &str, value: Value<'_>, report: &mut Report<'_>) -> Option<Json> {
    Some(match value.get_ref() {
        DeValue::String(text) => Json::from(text.as_ref()),
        DeValue::Boolean(boolean) => Json::from(*boolean),
        DeValue::Datetime(time) => Json::from(time.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Json::from(number),
            Err(_) => return refuse_number(entry, value, "a whole number of 64 bits", report),
        },
        DeValue::Float(number) => {
            let number = number.as_str().parse().ok().filter(|n: &f64| n.is_finite());
            match number {
                Some(number) => Json::from(number),
                None => return refuse_number(entry, value, "a finite number", report),
            }
        }
        // Every entry is read even after one that is wrong, so that all problems are noted.
        DeValue::Array(entries) => {
            let values: Vec<_> = entries
                .iter()
                .map(|value| json(entry, value, report))
                .collect();
            Json::Array(values.into_iter().collect::<Option<_>>()?)
        }
        DeValue::Table(entries) => {
            let values: Vec<_> = entries
                .iter()
                .map(|(key, value)| Some((key.get_ref().to_string(), json(entry, value, report)?)))
                .collect();
            Json::Object(values.into_iter().collect::<Option<_>>()?)
        }
    })
}

fn refuse_number(
    entry: &str,
    value: Value<'_>,
    expected: &str,
    report: &mut Report<'_>,
) -> Option<Json> {
    report.error(
        value.span(),
        format!(
            "`config` entry `{}` must be {expected}, found {}",
            Key(entry),
            describe(value)
        ),
        "write it as a string: it then reaches the plugin as it is written",
    );
    None
}
