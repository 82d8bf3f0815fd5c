//! A dead letter as it is shown.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::cli::consume::push_readable;
use crate::cli::output::{self, Output};
use crate::cli::quantity::format_time_ms;
use crate::model::RecordRef;
use crate::plugin::Recording;
use crate::queue::letter::{self, DeadLetter};

/// Characters of an error in a table.
const ERROR_CHARS: usize = 80;
/// Characters of a key in a table.
const KEY_CHARS: usize = 40;

/// Everything about a dead letter.
#[derive(Debug, Serialize)]
pub(super) struct LetterView {
    id: u64,
    origin: Option<String>,
    reason: Option<String>,
    error: Option<String>,
    attempts: Option<u32>,
    first_failed_ms: Option<u64>,
    dead_lettered_ms: Option<u64>,
    pipeline: Option<String>,
    plugin: Option<String>,
    plugin_digest: Option<String>,
    trace_id: Option<String>,
    redrive_count: u32,
    redriven_from: Option<String>,
    timestamp_ms: u64,
    key: Field,
    value: Field,
    headers: Vec<(String, Field)>,
    /// What `replay` has to go by.
    replay: Option<String>,
    backtrace: Option<String>,
}

impl LetterView {
    /// What a message of a dead-letter queue says.
    pub(super) fn of(id: u64, record: &RecordRef<'_>) -> Self {
        let letter = DeadLetter::read(record.headers);
        let own = |text: Option<&str>| text.map(str::to_owned);
        let plugin = letter.plugin.map(|plugin| {
            let (name, digest) = plugin.rsplit_once('@').unwrap_or((plugin, ""));
            (name.to_owned(), digest.to_owned())
        });
        let headers = record.headers.iter();
        Self {
            id,
            origin: letter.origin.map(|origin| origin.to_string()),
            reason: own(letter.reason),
            error: own(letter.error),
            attempts: letter.attempts,
            first_failed_ms: letter.first_failed_ms,
            dead_lettered_ms: letter.dead_lettered_ms,
            pipeline: own(letter.pipeline),
            plugin_digest: plugin.as_ref().map(|(_, digest)| digest.clone()),
            plugin: plugin.map(|(name, _)| name),
            trace_id: own(letter.trace_id),
            redrive_count: letter.redrive_count,
            redriven_from: own(letter.redriven_from),
            timestamp_ms: record.timestamp_ms,
            key: Field::of(record.key),
            value: Field::of(record.value),
            replay: letter.replay.map(replay_of),
            headers: headers
                .filter(|(name, _)| *name != letter::REPLAY)
                .map(|(name, value)| (name.to_owned(), Field::of(value)))
                .collect(),
            backtrace: own(letter.backtrace),
        }
    }

    /// The row of a table.
    pub(super) fn cells(&self) -> [String; 8] {
        [
            self.id.to_string(),
            readable(self.origin.as_deref()),
            readable(self.reason.as_deref()),
            self.attempts.map_or_else(none, |count| count.to_string()),
            time(self.first_failed_ms),
            time(self.dead_lettered_ms),
            cut(&self.key.readable(), KEY_CHARS),
            cut(&readable(self.error.as_deref()), ERROR_CHARS),
        ]
    }

    /// Writes everything, one field a line, and the backtrace at the end.
    pub(super) fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        let mut lines = vec![
            ("id", self.id.to_string()),
            ("origin", readable(self.origin.as_deref())),
            ("reason", readable(self.reason.as_deref())),
            ("error", readable(self.error.as_deref())),
            (
                "attempts",
                self.attempts.map_or_else(none, |count| count.to_string()),
            ),
            ("first-failed", time(self.first_failed_ms)),
            ("dead-lettered", time(self.dead_lettered_ms)),
            ("pipeline", readable(self.pipeline.as_deref())),
            ("plugin", readable(self.plugin.as_deref())),
            ("plugin-digest", readable(self.plugin_digest.as_deref())),
            ("trace-id", readable(self.trace_id.as_deref())),
            ("replay", readable(self.replay.as_deref())),
        ];
        if self.redrive_count > 0 {
            lines.push(("redrive-count", self.redrive_count.to_string()));
            lines.push(("redriven-from", readable(self.redriven_from.as_deref())));
        }
        lines.push(("timestamp", format_time_ms(self.timestamp_ms)));
        lines.push(("key", self.key.readable()));
        lines.push(("value", self.value.readable()));
        let own = self.headers.iter();
        let own = own.filter(|(name, _)| !name.starts_with("millstream-"));
        for (name, value) in own {
            let name = readable(Some(name));
            lines.push(("header", format!("{name}={}", value.readable())));
        }
        output.fields(&lines)?;
        let Some(backtrace) = &self.backtrace else {
            return Ok(());
        };
        output.line("\nbacktrace:")?;
        for line in backtrace.lines() {
            output.line(format_args!("  {}", readable(Some(line))))?;
        }
        Ok(())
    }
}

/// A key or a value: null, text, or bytes, as `consume` writes them.
#[derive(Debug)]
pub(super) struct Field(Option<Vec<u8>>);

impl Field {
    pub(super) fn of(bytes: Option<&[u8]>) -> Self {
        Self(bytes.map(<[u8]>::to_vec))
    }

    pub(super) fn is_null(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn readable(&self) -> String {
        let mut text = String::new();
        push_readable(self.0.as_deref(), &mut text);
        text
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(bytes) = &self.0 else {
            return serializer.serialize_none();
        };
        if let Ok(text) = std::str::from_utf8(bytes) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &crate::server::json_record::base64(bytes))?;
        map.end()
    }
}

/// What is known of what the plugin saw, in a few words.
fn replay_of(encoded: &[u8]) -> String {
    let seen = match Recording::decode(encoded) {
        Ok(recording) => recording.seen,
        Err(error) => return format!("unreadable: {error}"),
    };
    match seen {
        Ok(seen) if seen.other_outcome.is_some() => "kept, but alone it ended otherwise",
        Ok(_) => "kept",
        Err(reason) => return format!("not kept: {reason}"),
    }
    .to_owned()
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
        assert_eq!(view.cells(), expected);
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
