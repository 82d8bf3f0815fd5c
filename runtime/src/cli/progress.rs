//! Progress on standard error: a bar on a terminal, a line now and then in a pipe.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, WeakProgressBar};
use parking_lot::Mutex;

use super::GlobalArgs;
use super::telemetry::{self, Level};

/// How often a bar is drawn at most, per second.
const DRAWS_PER_SECOND: u8 = 10;

/// The bar on the terminal now, so that other output can move it out of the way.
static ACTIVE: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// Runs `write`, which writes to standard error, with the bar out of the way.
pub(super) fn suspended<R>(write: impl FnOnce() -> R) -> R {
    let active = ACTIVE.lock().as_ref().and_then(WeakProgressBar::upgrade);
    match active {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Writes a line to standard error.
pub(super) fn note(text: &str) {
    let json = telemetry::json_line(Level::Info, text);
    let text = json.as_deref().unwrap_or(text);
    // Nothing can be done about a standard error that is closed.
    let _ = suspended(|| writeln!(std::io::stderr(), "{text}"));
}

/// What the length of a bar counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Bytes of a file.
    Bytes,
    /// Records.
    Records,
}

/// The progress of a command.
pub(super) struct Progress {
    bar: ProgressBar,
    /// How often a line is written; `None` with a bar, or when nothing is to be shown.
    line_interval: Option<Duration>,
    next_line: Instant,
    next_draw: Instant,
}

impl Progress {
    /// Starts showing progress. `length`, if it is known, is in `unit`; `line_interval` is how often
    /// a line is written where no bar can be drawn, `None` for never.
    pub(super) fn start(
        global: &GlobalArgs,
        unit: Unit,
        length: Option<u64>,
        line_interval: Option<Duration>,
    ) -> Self {
        let has_bar = std::io::stderr().is_terminal() && !global.quiet;
        let target = match has_bar {
            true => ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(length, target).with_style(style(unit, length));
        if has_bar {
            *ACTIVE.lock() = Some(bar.downgrade());
        }
        let now = Instant::now();
        let line_interval = line_interval.filter(|_| !has_bar && !global.quiet);
        Self {
            bar,
            line_interval,
            next_line: now + line_interval.unwrap_or_default(),
            next_draw: now,
        }
    }

    /// Whether there is a bar, for people only.
    pub(super) fn is_drawn(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Whether it is time to [`show`](Self::show) something; cheap enough for every batch.
    pub(super) fn is_due(&self) -> bool {
        self.next().is_some_and(|next| Instant::now() >= next)
    }

    /// Returns when it is time to show something; never, if nothing is to be shown.
    pub(super) async fn due(&self) {
        match self.next() {
            Some(next) => tokio::time::sleep_until(next.into()).await,
            None => std::future::pending().await,
        }
    }

    fn next(&self) -> Option<Instant> {
        match self.line_interval {
            Some(_) => Some(self.next_line),
            None => self.is_drawn().then_some(self.next_draw),
        }
    }

    /// Shows how far it is: on the bar, or as a line of `text`.
    pub(super) fn show(&mut self, position: u64, length: Option<u64>, text: String) {
        let now = Instant::now();
        if let Some(interval) = self.line_interval {
            note(&text);
            self.next_line = now + interval;
            return;
        }
        if let Some(length) = length {
            self.bar.set_length(length);
        }
        self.bar.set_message(text);
        self.bar.set_position(position);
        self.next_draw = now + Duration::from_secs(1) / u32::from(DRAWS_PER_SECOND);
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        *ACTIVE.lock() = None;
        self.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style(unit: Unit, length: Option<u64>) -> ProgressStyle {
    let template = match (unit, length) {
        (Unit::Bytes, Some(_)) => "{bar:30} {percent:>3} %  {msg}  {eta} left",
        (Unit::Records, Some(_)) => "{bar:30} {percent:>3} %  {msg}",
        (_, None) => "{spinner} {elapsed}  {msg}",
    };
    // The templates are ours; should one be wrong, the default style does as well.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A rate for people: `272,915 records/s`.
pub(super) fn rate(records: u64, elapsed: Duration) -> String {
    format!(
        "{} records/s",
        indicatif::HumanCount(per_second(records, elapsed))
    )
}

/// Records a second, rounded down; 0 for no time at all.
pub(super) fn per_second(records: u64, elapsed: Duration) -> u64 {
    let rate = records as f64 / elapsed.as_secs_f64();
    if rate.is_finite() { rate as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid() {
        for template in [
            "{bar:30} {percent:>3} %  {msg}  {eta} left",
            "{bar:30} {percent:>3} %  {msg}",
            "{spinner} {elapsed}  {msg}",
        ] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate(1_000_000, Duration::from_secs(2)), "500,000 records/s");
        assert_eq!(per_second(7, Duration::ZERO), 0);
    }
}
