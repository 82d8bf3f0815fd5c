//! Durations and sizes on the command line, written as in a manifest: `7d`, `1GiB`.

use std::time::Duration;

/// The most digits in a row of a duration. Longer numbers say nothing that a larger unit can't, and
/// make `humantime` 2.4 overflow.
const MAX_DURATION_DIGITS: usize = 10;
/// The longest duration text that is read.
const MAX_DURATION_CHARS: usize = 64;

/// Units of size.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A bound that can be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound(pub(super) Option<u64>);

/// Reads a duration in ms: `7d`, `1h30m`.
pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    duration(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Reads a duration.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a duration with its unit, such as `7d`, `1h30m` or `500ms`";
    let mut digit_runs = text.split(|c: char| !c.is_ascii_digit());
    if text.len() > MAX_DURATION_CHARS || digit_runs.any(|run| run.len() > MAX_DURATION_DIGITS) {
        return Err(format!(
            "{expected}; a number has at most {MAX_DURATION_DIGITS} digits"
        ));
    }
    humantime::parse_duration(text).map_err(|error| format!("{expected}: {error}"))
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

/// Reads a size in bytes: `64MiB`, `1GB`, `1024`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = || {
        let units: Vec<_> = SIZE_UNITS.iter().map(|(name, _)| *name).collect();
        format!(
            "expected a whole number of bytes or a size such as `64MiB`; the units are {}",
            units.join(", ")
        )
    };
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_bytes = match unit {
        "" => 1,
        _ => SIZE_UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|(_, bytes)| *bytes)
            .ok_or_else(expected)?,
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number
        .checked_mul(unit_bytes)
        .ok_or_else(|| "the number is too large".to_owned())
}

/// Writes a duration of `ms`: `7days 1h`, as `humantime` does.
pub(super) fn format_ms(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

/// Writes a time in ms since the epoch as RFC 3339 in UTC; one beyond its years in ms.
pub(super) fn format_time_ms(timestamp_ms: u64) -> String {
    i64::try_from(timestamp_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{timestamp_ms}ms"), |time| time.to_string())
}

/// Reads an RFC 3339 time, as ms since the epoch.
pub(super) fn time_ms(text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| {
        "expected a time with its offset, such as `2013-01-01T00:00:00Z`".to_owned()
    })?;
    u64::try_from(time.as_millisecond())
        .map_err(|_| "times before 1970-01-01T00:00:00Z are not supported".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration_ms("7d"), Ok(7 * 24 * 3_600_000));
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
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
    fn sizes() {
        assert_eq!(size("1024"), Ok(1024));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("64mib"), Ok(64 << 20));
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
