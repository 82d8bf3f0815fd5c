//! How many log lines there may be.

use std::time::{Duration, Instant};

/// A token bucket for log lines: a burst of them, and so many a second after that.
#[derive(Debug)]
pub struct LineRate {
    burst: u32,
    per_second: u32,
    tokens: u32,
    /// When the last tokens were earned.
    earned_at: Instant,
    dropped: u64,
}

/// Whether a line may be written.
#[derive(Debug, PartialEq, Eq)]
pub enum LinePermit {
    /// It may.
    Granted {
        /// Lines that were denied since the last one that was granted, or since they were asked for.
        dropped: u64,
    },
    /// It may not, and is counted.
    Denied,
}

impl LineRate {
    /// A full bucket: `burst` lines at once, and then `per_second`, which is at least one.
    pub fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self {
            burst,
            per_second: per_second.max(1),
            tokens: burst,
            earned_at: now,
            dropped: 0,
        }
    }

    /// Asks for a line.
    pub fn take(&mut self, now: Instant) -> LinePermit {
        let interval = Duration::from_secs(1) / self.per_second;
        let since = now.saturating_duration_since(self.earned_at);
        let earned = since.as_nanos() / interval.as_nanos().max(1);
        if earned >= u128::from(self.burst - self.tokens) {
            self.tokens = self.burst;
            self.earned_at = now;
        } else if let Ok(earned) = u32::try_from(earned) {
            self.tokens += earned;
            self.earned_at += interval * earned;
        }
        match self.tokens.checked_sub(1) {
            Some(tokens) => {
                self.tokens = tokens;
                LinePermit::Granted {
                    dropped: self.take_dropped(),
                }
            }
            None => {
                self.dropped += 1;
                LinePermit::Denied
            }
        }
    }

    /// How many lines were denied since somebody was told last.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_and_counted() {
        let start = Instant::now();
        let mut rate = LineRate::new(1000, 1000, start);
        for _ in 0..1000 {
            assert_eq!(rate.take(start), LinePermit::Granted { dropped: 0 });
        }
        assert_eq!(rate.take(start), LinePermit::Denied);
        assert_eq!(rate.take(start), LinePermit::Denied);
        let later = start + Duration::from_secs(1);
        assert_eq!(rate.take(later), LinePermit::Granted { dropped: 2 });
        assert_eq!(rate.take(later), LinePermit::Granted { dropped: 0 });
    }

    /// However many lines are asked for, in the long run there are as many as a second has.
    #[test]
    fn a_flood_gets_its_rate() {
        let start = Instant::now();
        let mut rate = LineRate::new(20, 10, start);
        let granted = (0..60_000u64).filter(|ms| {
            let now = start + Duration::from_millis(*ms);
            rate.take(now) != LinePermit::Denied
        });
        assert_eq!(granted.count(), 20 + 600 - 1);
        let much_later = start + Duration::from_secs(100_000);
        let granted = (0..100).filter(|_| rate.take(much_later) != LinePermit::Denied);
        assert_eq!(granted.count(), 20);
    }
}
