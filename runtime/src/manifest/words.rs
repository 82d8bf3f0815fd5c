//! The wording of messages: how a value, a key or a list is called, and what an author may have
//! meant.

use std::fmt;

use toml::Spanned;
use toml::de::DeValue;

use crate::model::suggest;

/// The longest text that a message quotes, in characters.
const MAX_QUOTED_CHARS: usize = 60;

/// A value as a message names it: its kind and, if it is short, the value.
pub(super) fn describe(value: &Spanned<DeValue<'_>>) -> String {
    match value.get_ref() {
        DeValue::String(text) if text.is_empty() => "an empty string".to_owned(),
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) => format!("the whole number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(boolean) => format!("the boolean {boolean}"),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(entries) if entries.is_empty() => "an empty array".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(entries) if entries.is_empty() => "an empty table".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A text in quotes, cut when long, with control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// Keys in backquotes with commas.
pub(super) fn list_keys(keys: &[&str]) -> String {
    let listed: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
    listed.join(", ")
}

/// Words in double quotes with commas.
pub(super) fn list_words<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let listed: Vec<_> = words.into_iter().map(quoted).collect();
    listed.join(", ")
}

/// The advice for a key that has a default.
pub(super) fn or_default(default: impl fmt::Display) -> String {
    format!("leave it out for the default, {default}")
}

/// The advice for a word that is near a known one, else `otherwise`.
pub(super) fn did_you_mean<'c>(
    found: &str,
    known: impl IntoIterator<Item = &'c str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    match suggest(found, known) {
        Some(word) => format!("did you mean {}?", quoted(word)),
        None => otherwise(),
    }
}

/// A TOML string on one line.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// A TOML key, quoted only if it has to be.
pub(super) struct Key<'a>(pub(super) &'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if !self.0.is_empty() && self.0.bytes().all(bare) {
            f.write_str(self.0)
        } else {
            write!(f, "{}", Text(self.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_cut() {
        assert_eq!(quoted("a\u{1b}\"b"), r#""a\u{1b}\"b""#);
        assert!(quoted(&"x".repeat(1000)).chars().count() < 70);
        assert_eq!(Key("a.b").to_string(), "\"a.b\"");
        assert_eq!(Key("").to_string(), "\"\"");
        assert_eq!(Text("a\n\u{7f}\\").to_string(), r#""a\n\u007f\\""#);
    }
}
