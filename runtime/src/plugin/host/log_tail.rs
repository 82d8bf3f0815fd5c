//! The last log lines of a pipeline's plugin, for whoever follows them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::Level;

/// Lines that are kept.
const MAX_LINES: usize = 1_000;

/// Numbers the lines of all pipelines, so that those of two versions of a plugin can be put in order.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A line that a plugin logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its number; later lines have greater ones.
    pub number: u64,
    /// When it was logged, in ms since the epoch.
    pub time_ms: u64,
    /// How serious it is.
    pub level: Level,
    /// The partition of the task.
    pub partition: u32,
    /// The part of the plugin that speaks; empty if it does not say.
    pub context: String,
    /// What it says.
    pub message: String,
}

/// The last lines.
#[derive(Debug, Default)]
pub struct LogTail {
    lines: Mutex<VecDeque<LogLine>>,
    added: Notify,
}

impl LogTail {
    pub(super) fn add(&self, level: Level, partition: u32, context: &str, message: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut lines = self.lines.lock();
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        lines.push_back(LogLine {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            time_ms: since.map_or(0, |since| since.as_millis() as u64),
            level,
            partition,
            context: context.to_owned(),
            message: message.to_owned(),
        });
        drop(lines);
        self.added.notify_waiters();
    }

    /// The lines after this one, oldest first.
    pub fn after(&self, number: u64) -> Vec<LogLine> {
        let lines = self.lines.lock();
        let later = lines.iter().filter(|line| line.number > number);
        later.cloned().collect()
    }

    /// Returns when a line is added after this is first polled.
    pub async fn added(&self) {
        self.added.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_in_order() {
        let tail = LogTail::default();
        for number in 0..MAX_LINES + 5 {
            tail.add(Level::INFO, 0, "", &number.to_string());
        }
        let lines = tail.after(0);
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[0].message, "5");
        assert!(lines.windows(2).all(|pair| pair[0].number < pair[1].number));
        let last = lines[MAX_LINES - 2].number;
        assert_eq!(tail.after(last).len(), 1);
    }
}
