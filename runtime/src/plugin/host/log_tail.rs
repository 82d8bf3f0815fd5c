//! The last log lines of a pipeline's plugin, for whoever follows them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tracing::Level;

/// Lines that are kept.
const MAX_LINES: usize = 1_000;

/// Numbers the lines of all pipelines. They begin with the time at which the process does, in µs, so that lines of a
/// later process have greater ones, also where an earlier one was killed before its last lines were stored.
static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(now().as_micros() as u64));

/// A line that a plugin logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its number; later lines have greater ones.
    pub number: u64,
    /// When it was logged, in ms since the epoch.
    pub time_ms: u64,
    /// How serious it is.
    #[serde(with = "level_word")]
    pub level: Level,
    /// The partition of the task.
    pub partition: u32,
    /// The part of the plugin that speaks; empty if it does not say.
    pub context: String,
    /// What it says.
    pub message: String,
}

/// Takes each line that is logged, in order. It is called on the plugin's thread, and must not wait.
pub trait LineSink: Send + Sync + std::fmt::Debug {
    /// A line was logged.
    fn add(&self, line: &Arc<LogLine>);
}

/// The last lines.
#[derive(Debug)]
pub struct LogTail {
    kept: Mutex<Kept>,
    /// Changes with each line.
    added: watch::Sender<u64>,
    sink: Option<Arc<dyn LineSink>>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Arc<LogLine>>,
    forgotten: u64,
}

/// Lines of a [`LogTail`].
#[derive(Debug)]
pub struct TailLines {
    /// The lines, oldest first.
    pub lines: Vec<Arc<LogLine>>,
    /// The number of the last line before them all that the tail does not have any more; 0 if there is none.
    pub forgotten: u64,
}

impl Default for LogTail {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            added: watch::Sender::new(0),
            sink: None,
        }
    }
}

impl LogTail {
    /// A tail whose lines go to `sink` as well. Lines up to the number `forgotten` were logged before, and later ones get
    /// greater numbers.
    pub(super) fn with_sink(sink: Arc<dyn LineSink>, forgotten: u64) -> Self {
        NEXT.fetch_max(forgotten.saturating_add(1), Ordering::Relaxed);
        Self {
            kept: Mutex::new(Kept {
                lines: VecDeque::new(),
                forgotten,
            }),
            sink: Some(sink),
            ..Self::default()
        }
    }

    pub(super) fn add(&self, level: Level, partition: u32, context: &str, message: &str) {
        let time_ms = now().as_millis() as u64;
        let mut kept = self.kept.lock();
        if kept.lines.len() == MAX_LINES
            && let Some(oldest) = kept.lines.pop_front()
        {
            kept.forgotten = oldest.number;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let line = Arc::new(LogLine {
            number,
            time_ms,
            level,
            partition,
            context: context.to_owned(),
            message: message.to_owned(),
        });
        if let Some(sink) = &self.sink {
            sink.add(&line);
        }
        kept.lines.push_back(line);
        drop(kept);
        self.added.send_replace(number);
    }

    /// The lines after this one.
    pub fn after(&self, number: u64) -> TailLines {
        let kept = self.kept.lock();
        let later = kept.lines.iter().filter(|line| line.number > number);
        TailLines {
            lines: later.cloned().collect(),
            forgotten: kept.forgotten,
        }
    }

    /// Changes with each line that is added from now on, and ends with the tail.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.added.subscribe()
    }
}

fn now() -> std::time::Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// A level as `trace`, `debug`, `info`, `warn` or `error`.
mod level_word {
    use serde::{Deserialize as _, Deserializer, Serializer, de};
    use tracing::Level;

    pub(super) fn serialize<S: Serializer>(level: &Level, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&level.as_str().to_ascii_lowercase())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Level, D::Error> {
        let word = String::deserialize(from)?;
        word.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Numbers(Mutex<Vec<u64>>);

    impl LineSink for Numbers {
        fn add(&self, line: &Arc<LogLine>) {
            self.0.lock().push(line.number);
        }
    }

    #[test]
    fn the_last_lines_are_kept_in_order() {
        let tail = LogTail::default();
        for number in 0..MAX_LINES + 5 {
            tail.add(Level::INFO, 0, "", &number.to_string());
        }
        let TailLines { lines, forgotten } = tail.after(0);
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[0].message, "5");
        assert!(lines.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(0 < forgotten && forgotten < lines[0].number);
        let last = lines[MAX_LINES - 2].number;
        assert_eq!(tail.after(last).lines.len(), 1);
    }

    #[test]
    fn all_lines_go_to_the_sink_with_greater_numbers_than_before() {
        let sink = Arc::new(Numbers::default());
        let earlier = now().as_micros() as u64 + 1_000_000_000;
        let tail = LogTail::with_sink(Arc::clone(&sink) as Arc<dyn LineSink>, earlier);
        let mut news = tail.news();
        tail.add(Level::INFO, 0, "", "one");
        tail.add(Level::WARN, 1, "part", "two");
        assert!(news.has_changed().unwrap());
        assert_eq!(*news.borrow_and_update(), sink.0.lock()[1]);
        let lines = tail.after(earlier);
        assert_eq!(lines.forgotten, earlier);
        let numbers: Vec<_> = lines.lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, *sink.0.lock());
        assert!(earlier < numbers[0] && numbers[0] < numbers[1]);
    }
}
