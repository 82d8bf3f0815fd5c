//! A plugin's log lines, from the logging import, stdout and stderr, bounded in length and rate:
//! a plugin that logs every record, or panics on every one, must neither fill the disk nor slow the server
//! down.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tracing::Level;

use super::log_tail::{LineSink, LogTail};
use crate::model::PipelineName;
use crate::plugin::{
    line_rate::{LinePermit, LineRate},
    text::cut,
};

/// Longest line that is logged, in bytes.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Most lines that a plugin logs in a second; the same number may come in one burst.
const MAX_LINES_PER_SECOND: u32 = 1_000;
/// Lines of stderr that may come in one burst. A panic is two, and is in the report of its trap besides.
const STDERR_BURST: u32 = 20;
/// Lines of stderr a second, after that.
const STDERR_LINES_PER_SECOND: u32 = 10;
/// What is kept of stderr for the report of a trap, in bytes.
const STDERR_TAIL_BYTES: usize = 2 * 1024;

/// How much a plugin logs, and the last of it: one for all instances of a pipeline, since one that traps has many.
#[derive(Debug)]
pub struct LogLimit {
    tail: LogTail,
    lines: Mutex<LineRate>,
    /// Of lines that the server's own log does not show.
    kept: Mutex<LineRate>,
    stderr: Mutex<LineRate>,
}

impl Default for LogLimit {
    fn default() -> Self {
        let now = Instant::now();
        let rate = |burst, per_second| Mutex::new(LineRate::new(burst, per_second, now));
        Self {
            tail: LogTail::default(),
            lines: rate(MAX_LINES_PER_SECOND, MAX_LINES_PER_SECOND),
            kept: rate(MAX_LINES_PER_SECOND, MAX_LINES_PER_SECOND),
            stderr: rate(STDERR_BURST, STDERR_LINES_PER_SECOND),
        }
    }
}

impl LogLimit {
    /// As the default, for lines that go to `sink` as well: those of level info and above, whatever the server's own log
    /// shows. Earlier ones have numbers up to `forgotten`.
    pub fn with_sink(sink: Arc<dyn LineSink>, forgotten: u64) -> Self {
        Self {
            tail: LogTail::with_sink(sink, forgotten),
            ..Self::default()
        }
    }

    /// The last lines, of level info and above, whatever the server's own log shows.
    pub fn tail(&self) -> &LogTail {
        &self.tail
    }
}

/// Where one instance's log lines go.
pub(in crate::plugin) struct GuestLog {
    pipeline: PipelineName,
    partition: u32,
    is_muted: bool,
    is_stderr_muted: bool,
    limit: Arc<LogLimit>,
    stdout: LineBuffer,
    stderr: LineBuffer,
    /// The end of what was written to stderr in the current call: a panic's message, as a rule.
    stderr_tail: String,
}

/// The guest's standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::plugin) enum Stdio {
    /// Logged at level info.
    Stdout,
    /// Logged at level warn.
    Stderr,
}

impl GuestLog {
    pub(super) fn new(pipeline: PipelineName, partition: u32, limit: Arc<LogLimit>) -> Self {
        Self {
            pipeline,
            partition,
            is_muted: false,
            is_stderr_muted: false,
            limit,
            stdout: LineBuffer::default(),
            stderr: LineBuffer::default(),
            stderr_tail: String::new(),
        }
    }

    /// Drops everything from now on.
    pub(super) fn mute(&mut self) {
        self.is_muted = true;
    }

    /// Whether what the guest writes to stderr is dropped.
    pub(in crate::plugin) fn mute_stderr(&mut self, is_muted: bool) {
        self.is_stderr_muted = is_muted;
    }

    /// Starts a call.
    pub(super) fn start_call(&mut self) {
        self.stderr_tail.clear();
    }

    /// Logs one line. `context` names the part of the plugin that speaks.
    pub(super) fn line(&self, level: Level, context: &str, message: &str) {
        self.limited_line(&self.limit.lines, level, context, message);
    }

    fn limited_line(&self, rate: &Mutex<LineRate>, level: Level, context: &str, message: &str) {
        if self.is_muted {
            return;
        }
        let (context, message) = (cut_str(context, 256), cut_str(message, MAX_LINE_BYTES));
        // For whoever follows the plugin's log.
        let is_kept = level <= Level::INFO;
        if !is_enabled(level) {
            // It takes no room from the lines that are shown.
            let kept = &self.limit.kept;
            if is_kept && kept.lock().take(Instant::now()) != LinePermit::Denied {
                self.limit.tail.add(level, self.partition, context, message);
            }
            return;
        }
        let permit = rate.lock().take(Instant::now());
        match permit {
            LinePermit::Denied => return,
            LinePermit::Granted { dropped: 0 } => {}
            LinePermit::Granted { dropped } => tracing::warn!(
                target: "millstream::plugin",
                pipeline = %self.pipeline,
                partition = self.partition,
                "{dropped} log lines of the plugin were dropped: it may log {MAX_LINES_PER_SECOND} a second, and {STDERR_LINES_PER_SECOND} of them on stderr",
            ),
        }
        if is_kept {
            self.limit.tail.add(level, self.partition, context, message);
        }
        emit(level, &self.pipeline, self.partition, context, message);
    }

    /// Takes what the guest wrote to one of its standard streams.
    pub(in crate::plugin) fn write(&mut self, stream: Stdio, bytes: &[u8]) {
        if stream == Stdio::Stderr {
            let end = bytes.len().saturating_sub(STDERR_TAIL_BYTES);
            let end = bytes.get(end..).unwrap_or_default();
            self.stderr_tail.push_str(&String::from_utf8_lossy(end));
            let surplus = self.stderr_tail.len().saturating_sub(STDERR_TAIL_BYTES);
            let surplus = self.stderr_tail.ceil_char_boundary(surplus);
            self.stderr_tail.drain(..surplus);
        }
        let mut rest = bytes;
        while let Some(line) = self.buffer(stream).take_line(&mut rest) {
            self.stdio_line(stream, &line);
        }
    }

    /// Ends a call: logs lines that were not ended.
    pub(in crate::plugin) fn flush(&mut self) {
        for stream in [Stdio::Stdout, Stdio::Stderr] {
            if let Some(line) = self.buffer(stream).take_rest() {
                self.stdio_line(stream, &line);
            }
        }
    }

    /// What the guest wrote to stderr in the current call, on one line: the message of its panic
    /// if there is one. None if it wrote nothing.
    pub(in crate::plugin) fn last_words(&self) -> Option<String> {
        let tail = match self.stderr_tail.rfind("panicked at ") {
            Some(start) => self.stderr_tail.get(start..).unwrap_or_default(),
            None => &self.stderr_tail,
        };
        let lines: Vec<_> = tail
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with("note: run with `RUST_BACKTRACE"))
            .collect();
        let words = lines.join(" ");
        (!words.is_empty()).then(|| cut(words, 1024))
    }

    fn buffer(&mut self, stream: Stdio) -> &mut LineBuffer {
        match stream {
            Stdio::Stdout => &mut self.stdout,
            Stdio::Stderr => &mut self.stderr,
        }
    }

    fn stdio_line(&self, stream: Stdio, line: &str) {
        match stream {
            Stdio::Stdout => self.line(Level::INFO, "stdout", line),
            Stdio::Stderr if self.is_stderr_muted => {}
            Stdio::Stderr => self.limited_line(&self.limit.stderr, Level::WARN, "stderr", line),
        }
    }
}

/// The longest start of `text` that has at most `max_bytes`.
fn cut_str(text: &str, max_bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(max_bytes))
        .unwrap_or(text)
}

fn is_enabled(level: Level) -> bool {
    // `enabled!` wants a constant level.
    match level {
        Level::TRACE => tracing::enabled!(target: "millstream::plugin", Level::TRACE),
        Level::DEBUG => tracing::enabled!(target: "millstream::plugin", Level::DEBUG),
        Level::INFO => tracing::enabled!(target: "millstream::plugin", Level::INFO),
        Level::WARN => tracing::enabled!(target: "millstream::plugin", Level::WARN),
        Level::ERROR => tracing::enabled!(target: "millstream::plugin", Level::ERROR),
    }
}

fn emit(level: Level, pipeline: &PipelineName, partition: u32, context: &str, message: &str) {
    macro_rules! event {
        ($level:expr) => {
            tracing::event!(target: "millstream::plugin", $level, %pipeline, partition, context, "{message}")
        };
    }
    match level {
        Level::TRACE => event!(Level::TRACE),
        Level::DEBUG => event!(Level::DEBUG),
        Level::INFO => event!(Level::INFO),
        Level::WARN => event!(Level::WARN),
        Level::ERROR => event!(Level::ERROR),
    }
}

/// Bytes of a line that has not ended yet.
#[derive(Debug, Default)]
struct LineBuffer {
    bytes: Vec<u8>,
}

impl LineBuffer {
    /// Takes the next whole line off `rest`, or what makes one of the greatest length; otherwise
    /// keeps `rest` for later.
    fn take_line(&mut self, rest: &mut &[u8]) -> Option<String> {
        let room = MAX_LINE_BYTES.saturating_sub(self.bytes.len());
        let (line, after) = match rest.iter().take(room).position(|&byte| byte == b'\n') {
            Some(end) => (rest.get(..end)?, rest.get(end + 1..)?),
            None => rest
                .split_at_checked(room)
                .filter(|(_, after)| !after.is_empty())
                .or_else(|| {
                    self.bytes.extend_from_slice(rest);
                    None
                })?,
        };
        *rest = after;
        self.bytes.extend_from_slice(line);
        Some(self.take_text())
    }

    /// Takes a line that has not ended.
    fn take_rest(&mut self) -> Option<String> {
        (!self.bytes.is_empty()).then(|| self.take_text())
    }

    fn take_text(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.bytes)
            .trim_end_matches('\r')
            .to_owned();
        self.bytes.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> GuestLog {
        GuestLog::new("test".parse().unwrap(), 0, Arc::default())
    }

    fn lines(writes: &[&[u8]]) -> Vec<String> {
        let mut buffer = LineBuffer::default();
        let mut lines = Vec::new();
        for write in writes {
            let mut rest = *write;
            while let Some(line) = buffer.take_line(&mut rest) {
                lines.push(line);
            }
        }
        lines.extend(buffer.take_rest());
        lines
    }

    /// Without a subscriber no level is shown.
    #[test]
    fn lines_that_are_not_shown_take_no_room_from_those_that_are() {
        let log = log();
        for _ in 0..2 * MAX_LINES_PER_SECOND {
            log.line(Level::INFO, "", "kept");
        }
        assert!(!log.limit.tail.after(0).lines.is_empty());
        let permit = log.limit.lines.lock().take(Instant::now());
        assert_eq!(permit, LinePermit::Granted { dropped: 0 });
    }

    #[test]
    fn writes_are_split_into_lines() {
        assert_eq!(lines(&[b"a", b"b\nc\r\n", b"", b"d"]), ["ab", "c", "d"]);
        assert_eq!(lines(&[b"\n\n"]), ["", ""]);
        let long = vec![b'x'; MAX_LINE_BYTES + 10];
        let split = lines(&[&long]);
        assert_eq!(
            split.iter().map(String::len).collect::<Vec<_>>(),
            [MAX_LINE_BYTES, 10]
        );
    }

    #[test]
    fn last_words_are_the_panic() {
        let mut log = log();
        assert_eq!(log.last_words(), None);
        log.write(Stdio::Stderr, b"something before\n");
        assert_eq!(log.last_words().unwrap(), "something before");
        log.write(
            Stdio::Stderr,
            b"\nthread '<unnamed>' panicked at src/lib.rs:4:9:\nindex out of bounds\n\
              note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
        );
        assert_eq!(
            log.last_words().unwrap(),
            "panicked at src/lib.rs:4:9: index out of bounds"
        );
        // Cut before it is copied: the tail never holds more than twice its length.
        log.write(Stdio::Stderr, &[b'z'; 1_000_000]);
        assert_eq!(log.stderr_tail.len(), STDERR_TAIL_BYTES);
        assert!(log.stderr_tail.capacity() <= 8 * STDERR_TAIL_BYTES);
        // Bytes that are no UTF-8 are three each as text.
        log.write(Stdio::Stderr, &[0xff; 1_000_000]);
        assert!(log.stderr_tail.len() <= STDERR_TAIL_BYTES);
        assert!(log.stderr_tail.capacity() <= 8 * STDERR_TAIL_BYTES);
        log.start_call();
        assert_eq!(log.last_words(), None);
    }
}
