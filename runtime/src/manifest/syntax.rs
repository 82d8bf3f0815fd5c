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
    let line = text.get(line_start..)?.lines().next()?.trim();
    let before: Vec<_> = text.get(..line_start)?.lines().map(str::trim).collect();
    let index = if line.starts_with('[') {
        let header = line.get(..=line.rfind(']')?)?;
        before.iter().position(|line| line.starts_with(header))
    } else if text.get(line_start..at)?.trim().is_empty() {
        // Only in the same table, the part behind the last header.
        let table = before.iter().rposition(|line| line.starts_with('['));
        let from = table.map_or(0, |header| header + 1);
        let defines = |line: &&str| {
            let rest = line.strip_prefix(key).map(str::trim_start);
            rest.is_some_and(|rest| rest.starts_with('='))
        };
        let found = before.iter().skip(from).position(defines);
        found.map(|index| from + index)
    } else {
        None
    };
    index.map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_definitions_are_found_by_looking() {
        let text = "[a]\nx = 1\n[b]\nx = 1\n  x = 2\n[ c ]\n[a] # again\ny = { x = 1, x = 2 }\n";
        let find =
            |needle: &str, key: &str| first_definition(text, text.find(needle).unwrap(), key);
        assert_eq!(find("x = 2\n[", "x"), Some(4));
        assert_eq!(find("a] # again", "a"), Some(1));
        assert_eq!(find("x = 2 }", "x"), None);
        assert_eq!(first_definition(text, 10_000, "x"), None);
    }
}
