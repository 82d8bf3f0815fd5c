//! A replay as it is shown.

use std::path::Path;

use serde::Serialize;

use super::view::{readable, readable_bytes};
use crate::cli::output::{self, Output};
use crate::cli::quantity::format_time_ms;
use crate::pipeline::{RecordOutcome, Replay, Replayed};
use crate::plugin::{self, Columns, HeadersField, Recording};
use crate::queue::letter::DeadLetter;
use crate::server::json_record::Bytes;

/// Everything about a replay.
#[derive(Debug, Serialize)]
pub(super) struct ReplayView {
    id: u64,
    origin: Option<String>,
    pipeline: String,
    component: Component,
    /// Whether it is known what the plugin saw then.
    kept: bool,
    /// Why not.
    not_kept: Option<String>,
    saw: Saw,
    then: OutcomeView,
    /// What the record led to when it ran alone for this, right after it had failed, if that was something
    /// else.
    alone_then: Option<OutcomeView>,
    now: OutcomeView,
    /// Whether it fails now as it did then.
    same_kind: bool,
    /// Whether it does so with the same words, too.
    same: bool,
    outputs: Vec<OutputView>,
    state_changes: Vec<ChangeView>,
    /// Reads of the state that asked for what was not read then, and found nothing.
    unknown_state_reads: usize,
    backtrace: Option<String>,
}

/// The component that ran.
#[derive(Debug, Serialize)]
pub(super) struct Component {
    file: String,
    digest: String,
    /// The digest of the one that failed.
    then_digest: Option<String>,
    same: bool,
}

/// What the plugin saw.
#[derive(Debug, Serialize)]
struct Saw {
    time_ms: u64,
    config: Vec<(String, String)>,
    partition: u32,
    delivery_count: u32,
    state_keys: usize,
    state_values: usize,
    clock_readings: usize,
}

#[derive(Debug, Serialize)]
struct OutcomeView {
    outcome: String,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct OutputView {
    port: String,
    timestamp_ms: u64,
    key: Bytes,
    value: Bytes,
    headers: Vec<(String, Bytes)>,
}

#[derive(Debug, Serialize)]
struct ChangeView {
    key: Bytes,
    /// The new value; null: the key is removed.
    value: Bytes,
}

impl Component {
    /// The component that is in a file; `then` is the plugin that failed, `NAME@DIGEST`.
    pub(super) fn new(file: &Path, digest: &str, then: Option<&str>) -> Self {
        let then = then.and_then(|plugin| plugin.rsplit_once('@'));
        let then_digest = then.map(|(_, digest)| digest.to_owned());
        Self {
            file: file.display().to_string(),
            same: then_digest.as_deref() == Some(digest),
            digest: digest.to_owned(),
            then_digest,
        }
    }

    /// What to say if it is another one than that which failed.
    pub(super) fn warning(&self) -> Option<String> {
        let then = match &self.then_digest {
            _ if self.same => return None,
            Some(digest) => format!("that had the digest {digest}"),
            None => "the letter does not say which that was".to_owned(),
        };
        Some(format!(
            "warning: {} (digest {}) is not the component that failed: {then}",
            self.file, self.digest
        ))
    }
}

impl ReplayView {
    pub(super) fn new(
        id: u64,
        letter: &DeadLetter<'_>,
        component: Component,
        replay: &Replay,
        replayed: &Replayed,
    ) -> Self {
        let recording = replay.recording();
        let seen = recording.seen.as_ref();
        let alone_then = seen.ok().and_then(|seen| seen.other_outcome.as_ref());
        Self {
            id,
            origin: letter.origin.as_ref().map(ToString::to_string),
            pipeline: replay.pipeline().to_string(),
            component,
            kept: seen.is_ok(),
            not_kept: seen.err().map(ToString::to_string),
            saw: Saw::of(recording),
            then: OutcomeView::of(replay.then()),
            alone_then: alone_then.map(|(word, text)| OutcomeView::new(word, text)),
            now: OutcomeView::of(&replayed.outcome),
            same_kind: replayed.is_same_kind,
            same: replayed.is_same,
            outputs: outputs(
                replayed,
                replay,
                letter.dead_lettered_ms.unwrap_or_default(),
            ),
            state_changes: replayed
                .changes
                .iter()
                .map(|(key, value)| ChangeView {
                    key: Bytes::of(Some(key)),
                    value: Bytes::of(value.as_deref()),
                })
                .collect(),
            unknown_state_reads: replayed.unknown_read_count,
            backtrace: replayed.backtrace.clone(),
        }
    }

    /// Writes everything, one field a line, and the backtrace at the end.
    pub(super) fn write(&self, output: &mut Output) -> Result<(), output::Error> {
        let mut lines = vec![
            ("id", self.id.to_string()),
            ("origin", readable(self.origin.as_deref())),
            ("pipeline", self.pipeline.clone()),
            ("component", self.component.file.clone()),
            ("saw", self.saw_text()),
            ("then", self.then.text()),
        ];
        if let Some(alone) = &self.alone_then {
            lines.push(("then-alone", alone.text()));
        }
        lines.push(("now", self.now.text()));
        let same = match (self.same, self.same_kind) {
            (true, _) => "yes",
            (false, true) => "in other words",
            (false, false) => "no",
        };
        lines.push(("same-outcome", same.to_owned()));
        if self.unknown_state_reads > 0 {
            let text = format!(
                "{} reads of the state asked for what was not read then, and found nothing",
                self.unknown_state_reads
            );
            lines.push(("unknown", text));
        }
        for OutputView {
            port, key, value, ..
        } in &self.outputs
        {
            let text = format!("{port}: {}={}", readable_bytes(key), readable_bytes(value));
            lines.push(("output", text));
        }
        for ChangeView { key, value } in &self.state_changes {
            let text = match value.as_deref().is_none() {
                true => format!("{} removed", readable_bytes(key)),
                false => format!("{}={}", readable_bytes(key), readable_bytes(value)),
            };
            lines.push(("state-change", text));
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

    fn saw_text(&self) -> String {
        let Saw {
            state_keys,
            state_values,
            clock_readings,
            ..
        } = &self.saw;
        if let Some(reason) = &self.not_kept {
            return format!(
                "not kept: {reason}; it finds no state, and the clock starts at the time of the failure"
            );
        }
        format!(
            "{state_keys} keys of the state ({state_values} with a value), {clock_readings} clock readings, at {}",
            format_time_ms(self.saw.time_ms)
        )
    }
}

impl Saw {
    fn of(recording: &Recording) -> Self {
        let seen = recording.seen.as_ref().ok();
        let (state_keys, state_values) = seen.map_or((0, 0), |seen| seen.state.key_counts());
        Self {
            time_ms: recording.moment.wall_ns / 1_000_000,
            config: recording.config.clone(),
            partition: recording.partition,
            delivery_count: recording.place.delivery_count,
            state_keys,
            state_values,
            clock_readings: seen.map_or(0, |seen| seen.readings.len()),
        }
    }
}

impl OutcomeView {
    fn new(word: &str, text: &str) -> Self {
        Self {
            outcome: word.to_owned(),
            error: (!text.is_empty()).then(|| text.to_owned()),
        }
    }

    fn of(outcome: &RecordOutcome) -> Self {
        Self::new(&outcome.word, &outcome.text)
    }

    fn text(&self) -> String {
        let outcome = readable(Some(&self.outcome));
        match &self.error {
            Some(error) => format!("{outcome}: {}", readable(Some(error))),
            None => outcome,
        }
    }
}

/// The records that the plugin returned.
fn outputs(replayed: &Replayed, replay: &Replay, now_ms: u64) -> Vec<OutputView> {
    let Some(output) = &replayed.output else {
        return Vec::new();
    };
    let (batch, ports) = (replay.batch(), &replay.recording().ports);
    let view = |index| {
        let source = output.source(index);
        let port = output.port(index);
        OutputView {
            port: ports.get(port).cloned().unwrap_or_default(),
            timestamp_ms: output
                .timestamp_ms(index)
                .unwrap_or_else(|| source.map_or(now_ms, |source| batch.timestamp_ms(source))),
            key: field(
                output.key(index),
                source.and_then(|source| batch.key(source)),
            ),
            value: field(
                output.value(index),
                source.and_then(|source| batch.value(source)),
            ),
            headers: headers(output.headers(index), batch, source),
        }
    };
    (0..output.len()).map(view).collect()
}

fn field(field: plugin::Field<'_>, source: Option<&[u8]>) -> Bytes {
    Bytes::of(match field {
        plugin::Field::AsSource => source,
        plugin::Field::Null => None,
        plugin::Field::Bytes(bytes) => Some(bytes),
    })
}

fn headers(
    headers: HeadersField<'_>,
    batch: &Columns,
    source: Option<usize>,
) -> Vec<(String, Bytes)> {
    let encoded = match headers {
        HeadersField::AsSource => source.map(|source| batch.headers(source)),
        HeadersField::Encoded(encoded) => Some(encoded),
    };
    let headers = encoded.into_iter().flatten();
    headers
        .map(|(name, value)| (name.to_owned(), Bytes::of(value)))
        .collect()
}
