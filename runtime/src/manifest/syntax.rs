//! Tells errors of the TOML syntax in the words of its parser, with what to do about the most
//! frequent ones.

use super::error::Report;
use super::words::quoted;

/// Notes a syntax error.
pub(super) fn report(error: &toml::de::Error, text: &str, report: &mut Report<'_>) {
    let span = error.span().unwrap_or(text.len()..text.len());
    let found = text.get(span.clone()).unwrap_or_default().trim();
    if error.message() == "duplicate key" {
        let message = match first_definition(text, span.start, found) {
            Some(line) => format!("duplicate key `{found}`, defined on line {line} already"),
            None => format!("duplicate key `{found}`"),
        };
        report.error(
            span,
            message,
            "a key stands once in its table, and a table once in the manifest: remove or rename \
             one of the two",
        );
        return;
    }
    let message = match error.message() {
        // The parser's words for this assume that there is a value.
        parser if parser.contains("must be quoted") && found.is_empty() => {
            "a value is missing".to_owned()
        }
        parser if parser.contains("must be quoted") => {
            format!("a string must be quoted, found {}", quoted(found))
        }
        parser => parser.to_owned(),
    };
    let help = match error.message() {
        parser if parser.contains("must be quoted") && found.is_empty() => {
            "write the value behind the `=`"
        }
        parser if parser.contains("must be quoted") => "put it in double quotes",
        parser if parser.contains("no value") => "write `key = value`",
        parser if parser.contains("string") => "a string ends with the quotes it starts with",
        parser if parser.contains("unclosed") => "add the closing bracket",
        _ => "a manifest is TOML: https://toml.io/en/v1.1.0",
    };
    report.error(span, format!("invalid TOML: {message}"), help);
}

/// The line on which a key or table was defined before `at`, if it is found by simply looking: a
/// table by its header, a key by the line it starts.
fn first_definition(text: &str, at: usize, key: &str) -> Option<usize> {
    let line_start = text.get(..at)?.rfind('\n').map_or(0, |at| at + 1);
    let before = text.get(..line_start)?;
    let line = text.get(line_start..)?.lines().next()?.trim();
    let lines = before.lines().map(str::trim).enumerate();
    let found = if line.starts_with('[') {
        let header = line.get(..=line.rfind(']')?)?;
        lines.into_iter().find(|(_, line)| line.starts_with(header))
    } else if line.starts_with(key) {
        lines
            .rev()
            .take_while(|(_, line)| !line.starts_with('['))
            .find(|(_, line)| {
                let rest = line.strip_prefix(key).map(str::trim_start);
                rest.is_some_and(|rest| rest.starts_with('='))
            })
    } else {
        None
    };
    found.map(|(index, _)| index + 1)
}
