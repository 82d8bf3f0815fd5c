//! The manifest's `config` of the plugin.

use std::fmt::Display;
use std::str::FromStr;

use crate::failure::{Failure, Reject};

/// The entries of the manifest's `config`, given to `open`.
///
/// Strings come as they are; other values (numbers, booleans, lists) come as JSON.
#[derive(Clone, Debug, Default)]
pub struct Config {
    entries: Vec<(String, String)>,
}

impl Config {
    /// A configuration with the given entries.
    pub fn new(entries: Vec<(String, String)>) -> Self {
        Self { entries }
    }

    /// The value of a key as it is written, or `None` if the key is not set.
    pub fn text(&self, key: &str) -> Option<&str> {
        let entry = self.entries.iter().find(|(name, _)| name == key)?;
        Some(&entry.1)
    }

    /// The value of a key, or `None` if the key is not set.
    ///
    /// # Errors
    /// If the value is not a `T`.
    pub fn value<T>(&self, key: &str) -> Result<Option<T>, Failure>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.text(key).map(|text| parse(key, text)).transpose()
    }

    /// The value of a key that must be set.
    ///
    /// # Errors
    /// If the key is not set or the value is not a `T`.
    pub fn require<T>(&self, key: &str) -> Result<T, Failure>
    where
        T: FromStr,
        T::Err: Display,
    {
        let missing = || Reject::new(format_args!("config `{key}` is missing"));
        parse(key, self.text(key).ok_or_else(missing)?)
    }

    /// The value of a key, or `default` if the key is not set.
    ///
    /// # Errors
    /// If the value is not a `T`.
    pub fn value_or<T>(&self, key: &str, default: T) -> Result<T, Failure>
    where
        T: FromStr,
        T::Err: Display,
    {
        Ok(self.value(key)?.unwrap_or(default))
    }

    /// A duration in ms, written as in the manifest: `"500ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"`.
    ///
    /// # Errors
    /// If the value is not a duration.
    pub fn duration_ms(&self, key: &str) -> Result<Option<u64>, Failure> {
        let parse = |text: &str| {
            parse_duration_ms(text).ok_or_else(|| {
                Reject::new(format_args!(
                    "config `{key}` is `{text}`; expected a duration such as `500ms`, `30s`, `1h`"
                ))
            })
        };
        self.text(key).map(parse).transpose()
    }

    /// All entries, ordered by their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

fn parse<T>(key: &str, text: &str) -> Result<T, Failure>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error| {
        let wanted = std::any::type_name::<T>();
        Reject::new(format_args!(
            "config `{key}` is `{text}`; expected {wanted}: {error}"
        ))
    })
}

fn parse_duration_ms(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Config::new(vec![
            entry("limit", "12"),
            entry("name", "x"),
            entry("window", "1h"),
        ])
    }

    #[test]
    fn typed_values() {
        let config = config();
        assert_eq!(config.value::<u32>("limit").unwrap(), Some(12));
        assert_eq!(config.value_or("absent", 5u8).unwrap(), 5);
        assert_eq!(config.require::<String>("name").unwrap(), "x");
        assert_eq!(config.duration_ms("window").unwrap(), Some(3_600_000));
        assert_eq!(config.iter().count(), 3);
    }

    #[test]
    fn errors_name_the_key_and_the_value() {
        let config = config();
        assert_eq!(
            config.require::<u32>("count").unwrap_err().reason(),
            "config `count` is missing"
        );
        let reason = config.require::<u32>("name").unwrap_err().to_string();
        assert_eq!(
            reason,
            "config `name` is `x`; expected u32: invalid digit found in string"
        );
        assert!(config.duration_ms("name").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration_ms("250ms"), Some(250));
        assert_eq!(parse_duration_ms("7d"), Some(604_800_000));
        for bad in [
            "",
            "7",
            "h",
            "1w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse_duration_ms(bad), None, "{bad}");
        }
    }
}
