//! A dead letter as it is shown.

use crate::cli::consume::push_readable;
use crate::cli::output::{self, Output};
use crate::cli::quantity::format_time_ms;
use crate::server::LetterView;
use crate::server::json_record::Bytes;

/// Characters of an error in a table.
const ERROR_CHARS: usize = 80;
/// Characters of a key in a table.
const KEY_CHARS: usize = 40;

/// The row of a table.
pub(super) fn cells(letter: &LetterView) -> [String; 8] {
    [
        letter.id.to_string(),
        readable(letter.origin.as_deref()),
        readable(letter.reason.as_deref()),
        letter.attempts.map_or_else(none, |count| count.to_string()),
        time(letter.first_failed_ms),
        time(letter.dead_lettered_ms),
        cut(&readable_bytes(&letter.key), KEY_CHARS),
        cut(&readable(letter.error.as_deref()), ERROR_CHARS),
    ]
}

/// Writes everything, one field a line, and the backtrace at the end.
pub(super) fn write(letter: &LetterView, output: &mut Output) -> Result<(), output::Error> {
    let mut lines = vec![
        ("id", letter.id.to_string()),
        ("origin", readable(letter.origin.as_deref())),
        ("reason", readable(letter.reason.as_deref())),
        ("error", readable(letter.error.as_deref())),
        (
            "attempts",
            letter.attempts.map_or_else(none, |count| count.to_string()),
        ),
        ("first-failed", time(letter.first_failed_ms)),
        ("dead-lettered", time(letter.dead_lettered_ms)),
        ("pipeline", readable(letter.pipeline.as_deref())),
        ("plugin", readable(letter.plugin.as_deref())),
        ("plugin-digest", readable(letter.plugin_digest.as_deref())),
        ("trace-id", readable(letter.trace_id.as_deref())),
        ("replay", readable(letter.replay.as_deref())),
    ];
    if letter.redrive_count > 0 {
        lines.push(("redrive-count", letter.redrive_count.to_string()));
        lines.push(("redriven-from", readable(letter.redriven_from.as_deref())));
    }
    lines.push(("timestamp", format_time_ms(letter.timestamp_ms)));
    lines.push(("key", readable_bytes(&letter.key)));
    lines.push(("value", readable_bytes(&letter.value)));
    let own = letter.headers.iter();
    let own = own.filter(|(name, _)| !name.starts_with("millstream-"));
    for (name, value) in own {
        let name = readable(Some(name));
        lines.push(("header", format!("{name}={}", readable_bytes(value))));
    }
    output.fields(&lines)?;
    let Some(backtrace) = &letter.backtrace else {
        return Ok(());
    };
    output.line("\nbacktrace:")?;
    for line in backtrace.lines() {
        output.line(format_args!("  {}", readable(Some(line))))?;
    }
    Ok(())
}

/// Bytes as text that stays in its line and does nothing to the terminal.
pub(super) fn readable_bytes(bytes: &Bytes) -> String {
    let mut text = String::new();
    push_readable(bytes.as_deref(), &mut text);
    text
}

fn none() -> String {
    "-".to_owned()
}

/// Text that stays in its line and does nothing to the terminal.
pub(super) fn readable(text: Option<&str>) -> String {
    let Some(text) = text else {
        return none();
    };
    let mut readable = String::new();
    push_readable(Some(text.as_bytes()), &mut readable);
    readable
}

fn time(ms: Option<u64>) -> String {
    ms.map_or_else(none, format_time_ms)
}

/// The start of a text that is too long for a table.
fn cut(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HeadersBuf;
    use crate::model::RecordRef;
    use crate::queue::letter;

    #[test]
    fn a_letter_is_a_row_that_does_nothing_to_the_terminal() {
        let mut headers = HeadersBuf::new();
        for (name, value) in [
            (letter::ORIGIN, "topic:in/0/7"),
            (letter::PLUGIN, "flights@4f2a"),
            (letter::ERROR, "two\nlines\x1b[31m"),
        ] {
            headers.push(name, Some(value.as_bytes())).unwrap();
        }
        let record = RecordRef {
            offset: 3,
            timestamp_ms: 0,
            key: Some(b"\xff"),
            value: None,
            headers: headers.as_headers(),
        };
        let view = LetterView::of(3, &record);
        let expected = [
            "3",
            "topic:in/0/7",
            "-",
            "-",
            "-",
            "-",
            "base64:/w==",
            "two\\nlines\\u{1b}[31m",
        ];
        assert_eq!(cells(&view), expected);
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["plugin"], "flights");
        assert_eq!(json["plugin_digest"], "4f2a");
        assert_eq!(json["key"], serde_json::json!({ "base64": "/w==" }));
        assert_eq!(json["value"], serde_json::Value::Null);
        assert_eq!(
            json["headers"][0],
            serde_json::json!([letter::ORIGIN, "topic:in/0/7"])
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äöü…");
    }
}
