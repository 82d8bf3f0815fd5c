//! Durations, sizes and times on the command line, written as in a manifest: `7d`, `1GiB`.

use std::time::Duration;

pub(super) use crate::manifest::quantity::format_time_ms;
use crate::manifest::quantity::{
    DURATION_EXPECTED, SIZE_EXPECTED, format_duration, parse_duration, parse_size, parse_time_ms,
};

/// A bound that can be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound(pub(super) Option<u64>);

/// Reads a duration.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|reason| format!("expected {DURATION_EXPECTED}: {reason}"))
}

/// Reads a duration in ms: `7d`, `1h30m`.
pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    duration(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Reads a duration in ms that is not over when it begins.
pub(super) fn some_time_ms(text: &str) -> Result<u64, String> {
    match duration_ms(text)? {
        0 => Err("expected a duration above zero".to_owned()),
        ms => Ok(ms),
    }
}

/// Reads how long records are kept, in ms: a duration, `forever` or `-1`.
pub(super) fn retention(text: &str) -> Result<Bound, String> {
    match text {
        "forever" | "-1" => Ok(Bound(None)),
        _ => match duration_ms(text)? {
            0 => Err("expected at least 1ms, or `forever`".to_owned()),
            ms => Ok(Bound(Some(ms))),
        },
    }
}

/// Reads how many bytes are kept: a size, `unlimited` or `-1`.
pub(super) fn retention_bytes(text: &str) -> Result<Bound, String> {
    match text {
        "unlimited" | "-1" => Ok(Bound(None)),
        _ => size(text).map(|bytes| Bound(Some(bytes))),
    }
}

/// How many of something that is held in memory.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("expected a number from 1 to 1000000".to_owned()),
    }
}

/// A number from 0 to 1.
pub(super) fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 to 1, such as 0.5".to_owned()),
    }
}

/// Reads a size in bytes: `64MiB`, `1GB`, `1024`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|reason| format!("expected {SIZE_EXPECTED}: {reason}"))
}

/// Reads an RFC 3339 time, as ms since the epoch.
pub(super) fn time_ms(text: &str) -> Result<u64, String> {
    parse_time_ms(text).map_err(|reason| format!("expected a time with its offset: {reason}"))
}

/// Writes a duration of `ms`: `7d1h`.
pub(super) fn format_ms(ms: u64) -> String {
    format_duration(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration_ms("7d"), Ok(7 * 24 * 3_600_000));
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(some_time_ms("1ms"), Ok(1));
        for none in ["0s", "0ms", "999us"] {
            assert!(some_time_ms(none).is_err(), "{none}");
        }
        assert_eq!(retention("forever"), Ok(Bound(None)));
        assert_eq!(retention("-1"), Ok(Bound(None)));
        assert_eq!(retention("5ms"), Ok(Bound(Some(5))));
        for bad in [
            "",
            "7",
            "7 fortnights",
            "-7d",
            "0s",
            "18446744073709551615s1000ms",
        ] {
            assert!(retention(bad).unwrap_err().contains("expected"), "{bad}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert_eq!(format_ms(90_061_001), "1d1h1m1s1ms");
        assert_eq!(duration_ms("1d1h1m1s1ms"), Ok(90_061_001));
    }

    #[test]
    fn sizes() {
        assert_eq!(size("1024"), Ok(1024));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert!(
            size("64mib")
                .unwrap_err()
                .contains("did you mean \"64MiB\"?")
        );
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(retention_bytes("unlimited"), Ok(Bound(None)));
        for bad in ["", "MiB", "1.5MiB", "64 MiB", "64M", "-2"] {
            assert!(
                retention_bytes(bad).unwrap_err().contains("expected"),
                "{bad}"
            );
        }
        assert!(size("99999999999TiB").unwrap_err().contains("too large"));
    }

    #[test]
    fn times() {
        assert_eq!(time_ms("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(format_time_ms(1_357_016_400_000), "2013-01-01T05:00:00Z");
        assert_eq!(format_time_ms(u64::MAX), format!("{}ms", u64::MAX));
        assert!(time_ms("2013-01-01").unwrap_err().contains("expected"));
        assert!(
            time_ms("1969-01-01T00:00:00Z")
                .unwrap_err()
                .contains("1970")
        );
    }
}
