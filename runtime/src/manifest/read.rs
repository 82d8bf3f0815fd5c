//! Reads typed values out of TOML tables, noting every mistake instead of stopping at the first.
//!
//! The raw form of a manifest is `toml`'s own tree with spans, checked against the key lists of
//! [`super::schema`]. A derived `Deserialize` would stop at the first wrong key and keep no span of
//! it, and an author with three mistakes would need three runs to see them.

use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use super::error::Report;
use super::quantity::{
    DURATION_EXPECTED, Reason, SIZE_EXPECTED, format_duration, format_size, parse_duration,
    parse_size,
};
use super::schema::TableSchema;
use super::words::{Key, describe, did_you_mean, list_keys, list_words, or_default, quoted};
use crate::model::suggest;

/// What every name has to be.
pub(super) const NAME_EXPECTED: &str =
    "1 to 249 of the characters a-z, A-Z, 0-9, `.`, `_` and `-`, and not `.` or `..`";

/// A value and where it is.
pub(super) type Value<'a> = &'a Spanned<DeValue<'a>>;
/// A key and where it is.
pub(super) type KeyRef<'a> = &'a Spanned<DeString<'a>>;

/// One table of the manifest. The default is a table without keys.
#[derive(Default)]
pub(super) struct Table<'a> {
    /// The table as messages call it, for example "`[topics.flights]`".
    label: String,
    /// What to point at when something is missing from the table.
    span: Range<usize>,
    entries: Option<&'a DeTable<'a>>,
}

impl<'a> Table<'a> {
    /// Takes a value as a table with the keys of `schema`; notes a value that is no table and every
    /// key that is unknown. `span` is pointed at when a key is missing.
    pub(super) fn read(
        schema: &TableSchema,
        label: String,
        span: Range<usize>,
        value: Value<'a>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let DeValue::Table(entries) = value.get_ref() else {
            report.error(
                value.span(),
                format!("{label} must be a table, found {}", describe(value)),
                format!("its keys are {}", list_keys(schema.keys)),
            );
            return None;
        };
        Some(Self::of(schema, label, span, entries, report))
    }

    /// Like [`Table::read`] for a value that is a table already.
    pub(super) fn of(
        schema: &TableSchema,
        label: String,
        span: Range<usize>,
        entries: &'a DeTable<'a>,
        report: &mut Report<'_>,
    ) -> Self {
        for key in entries.keys() {
            if !schema.keys.contains(&key.get_ref().as_ref()) {
                report_unknown_key(schema, &label, key, report);
            }
        }
        Self {
            label,
            span,
            entries: Some(entries),
        }
    }

    /// The table as messages call it.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<Value<'a>> {
        self.entries?.get(key)
    }

    /// The keys of `schema` that the table has, in the order of `schema`.
    pub(super) fn written_keys(&self, schema: &TableSchema) -> Vec<&'static str> {
        let keys = schema.keys.iter().copied();
        keys.filter(|key| self.value(key).is_some()).collect()
    }

    /// Where the key itself is written, or the table if it is not.
    pub(super) fn key_span(&self, key: &str) -> Range<usize> {
        self.entries
            .and_then(|entries| entries.get_key_value(key))
            .map_or(self.span.clone(), |(key, _)| key.span())
    }

    /// Where the value of a key is, or the table if it has none.
    pub(super) fn span_of(&self, key: &str) -> Range<usize> {
        self.value(key)
            .map_or(self.span.clone(), |value| value.span())
    }

    /// The value of a key that has to be there; `advice` says what to add.
    pub(super) fn required(
        &self,
        key: &str,
        advice: &str,
        report: &mut Report<'_>,
    ) -> Option<Value<'a>> {
        let value = self.value(key);
        if value.is_none() {
            let message = format!("`{key}` is missing from {}", self.label);
            report.error(self.span.clone(), message, advice);
        }
        value
    }

    /// The named tables below a key, in the order of the file.
    pub(super) fn named(&self, key: &str, report: &mut Report<'_>) -> Vec<(KeyRef<'a>, Value<'a>)> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        if let DeValue::Table(entries) = value.get_ref() {
            return in_file_order(entries);
        }
        let help = format!("write `[{key}.NAME]` and the keys below it");
        self.wrong(key, value, "a table of tables", help, report);
        Vec::new()
    }

    /// A whole number in a range.
    pub(super) fn integer(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        default: u64,
        report: &mut Report<'_>,
    ) -> u64 {
        let advice = || or_default(default);
        let number = self.integer_or(key, range, advice, report);
        number.unwrap_or(default)
    }

    /// A whole number in a range, if the key is there; `advice` is given when nothing better is known.
    pub(super) fn integer_or(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        advice: impl FnOnce() -> String,
        report: &mut Report<'_>,
    ) -> Option<u64> {
        let value = self.value(key)?;
        if let DeValue::Integer(number) = value.get_ref()
            && let Some(number) = to_u64(number)
            && range.contains(&number)
        {
            return Some(number);
        }
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let help = unquoted::<u64>(key, value).unwrap_or_else(advice);
        self.wrong(key, value, &expected, help, report);
        None
    }

    /// A number from 0 to 1.
    pub(super) fn ratio(&self, key: &str, default: f64, report: &mut Report<'_>) -> f64 {
        self.number(key, 0.0..=1.0, default, report)
    }

    /// A number in a range, with or without a fraction.
    pub(super) fn number(
        &self,
        key: &str,
        range: RangeInclusive<f64>,
        default: f64,
        report: &mut Report<'_>,
    ) -> f64 {
        let Some(value) = self.value(key) else {
            return default;
        };
        let number = match value.get_ref() {
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            DeValue::Integer(number) => to_u64(number)
                .and_then(|number| u32::try_from(number).ok())
                .map(f64::from),
            _ => None,
        };
        if let Some(number) = number.filter(|number| range.contains(number)) {
            // Not -0.0, which would be written differently from what it equals.
            return number.abs();
        }
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let help = unquoted::<f64>(key, value).unwrap_or_else(|| or_default(default));
        self.wrong(key, value, &expected, help, report);
        default
    }

    /// `true` or `false`; `false` when the key is not there.
    pub(super) fn boolean(&self, key: &str, report: &mut Report<'_>) -> bool {
        let Some(value) = self.value(key) else {
            return false;
        };
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return *boolean;
        }
        let help = unquoted::<bool>(key, value).unwrap_or_else(|| or_default(false));
        self.wrong(key, value, "`true` or `false`", help, report);
        false
    }

    /// A duration in a range.
    pub(super) fn duration(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
        default: Duration,
        report: &mut Report<'_>,
    ) -> Duration {
        let advice = || or_default(quoted(&format_duration(default)));
        let duration = self.duration_or(key, range, advice, report);
        duration.unwrap_or(default)
    }

    /// A duration in a range, if the key is there; `advice` is given when nothing better is known.
    pub(super) fn duration_or(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
        advice: impl FnOnce() -> String,
        report: &mut Report<'_>,
    ) -> Option<Duration> {
        let value = self.value(key)?;
        match to_duration(value) {
            Ok(duration) if range.contains(&duration) => return Some(duration),
            Ok(_) => {
                let from = format_duration(*range.start());
                let to = format_duration(*range.end());
                let expected = format!("a duration from {from} to {to}");
                self.wrong(key, value, &expected, advice(), report);
            }
            Err(reason) => {
                let help = reason.unwrap_or_else(advice);
                self.wrong(key, value, DURATION_EXPECTED, help, report);
            }
        }
        None
    }

    /// A size in bytes in a range; `advice` is given when nothing better is known.
    pub(super) fn size(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        default: u64,
        report: &mut Report<'_>,
    ) -> u64 {
        let advice = || or_default(quoted(&format_size(default)));
        self.size_or(key, range, advice, report).unwrap_or(default)
    }

    /// A size in bytes in a range, if the key is there; `advice` is given when nothing better is
    /// known.
    pub(super) fn size_or(
        &self,
        key: &str,
        range: RangeInclusive<u64>,
        advice: impl FnOnce() -> String,
        report: &mut Report<'_>,
    ) -> Option<u64> {
        let value = self.value(key)?;
        let read = match value.get_ref() {
            DeValue::String(text) => parse_size(text).map_err(Some),
            DeValue::Integer(number) => to_u64(number).ok_or(None),
            _ => Err(None),
        };
        match read {
            Ok(bytes) if range.contains(&bytes) => return Some(bytes),
            Ok(_) => {
                let (from, to) = (format_size(*range.start()), format_size(*range.end()));
                let expected = format!("a size from {from} to {to}");
                self.wrong(key, value, &expected, advice(), report);
            }
            Err(reason) => {
                let help = reason.unwrap_or_else(advice);
                self.wrong(key, value, SIZE_EXPECTED, help, report);
            }
        }
        None
    }

    /// One of several words, of which the first is the default.
    pub(super) fn choice<T: Copy, const N: usize>(
        &self,
        key: &str,
        words: &[(&'static str, T); N],
        report: &mut Report<'_>,
    ) -> T {
        const { assert!(N > 0, "a choice needs words") };
        let (default_word, default) = words[0];
        let Some(value) = self.value(key) else {
            return default;
        };
        let found = value.get_ref().as_str();
        if let Some((_, choice)) = words.iter().find(|(word, _)| found == Some(word)) {
            return *choice;
        }
        let known = || words.iter().map(|(word, _)| *word);
        let help = did_you_mean(found.unwrap_or_default(), known(), || {
            or_default(quoted(default_word))
        });
        let expected = format!("one of {}", list_words(known()));
        self.wrong(key, value, &expected, help, report);
        default
    }

    /// Notes a value that is not what the key needs.
    pub(super) fn wrong(
        &self,
        key: &str,
        value: Value<'_>,
        expected: &str,
        help: impl Into<String>,
        report: &mut Report<'_>,
    ) {
        let message = format!("`{key}` must be {expected}, found {}", describe(value));
        report.error(value.span(), message, help);
    }
}

/// The entries of a table in the order they are written in; the tree itself sorts by key.
pub(super) fn in_file_order<'a>(entries: &'a DeTable<'a>) -> Vec<(KeyRef<'a>, Value<'a>)> {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Reads a name of any kind; notes one that breaks the rules.
pub(super) fn name<N: FromStr>(
    what: &str,
    text: &str,
    span: Range<usize>,
    report: &mut Report<'_>,
) -> Option<N> {
    if let Ok(name) = text.parse() {
        return Some(name);
    }
    let message = format!("{what} must be {NAME_EXPECTED}, found {}", quoted(text));
    let mended: String = text
        .trim()
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => c,
            _ => '-',
        })
        .collect();
    let is_better =
        mended.parse::<N>().is_ok() && mended.contains(|c: char| c.is_ascii_alphanumeric());
    let example = if is_better { &mended } else { "flights" };
    report.error(span, message, format!("for example `{example}`"));
    None
}

/// Reads a duration; the reason is missing when the value is nothing like one.
pub(super) fn to_duration(value: Value<'_>) -> Result<Duration, Option<Reason>> {
    match value.get_ref() {
        DeValue::String(text) => parse_duration(text).map_err(Some),
        DeValue::Integer(number) => Err(Some(format!(
            "write it with its unit, for example \"{number}s\" or \"{number}ms\""
        ))),
        _ => Err(None),
    }
}

/// The number if it fits; underscores are gone already.
fn to_u64(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The advice for a value that would be right without its quotes.
fn unquoted<T: FromStr>(key: &str, value: Value<'_>) -> Option<String> {
    let text = value.get_ref().as_str()?;
    text.parse::<T>().ok()?;
    Some(format!("write it without quotes: `{key} = {text}`"))
}

/// Whether the value is the whole number -1, Kafka's word for "no bound".
pub(super) fn is_minus_one(value: Value<'_>) -> bool {
    match value.get_ref() {
        DeValue::Integer(number) => number.radix() == 10 && number.as_str() == "-1",
        DeValue::String(text) => text == "-1",
        _ => false,
    }
}

fn report_unknown_key(schema: &TableSchema, label: &str, key: KeyRef<'_>, report: &mut Report<'_>) {
    let found = key.get_ref().as_ref();
    let help = if schema.unsupported.contains(&found) {
        format!(
            "this version does not support `{found}`: it runs pipelines without retries or dead letters"
        )
    } else {
        match suggest(found, schema.keys.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("the known keys are {}", list_keys(schema.keys)),
        }
    };
    let message = format!("unknown key `{}` in {label}", Key(found));
    report.error(key.span(), message, help);
}
