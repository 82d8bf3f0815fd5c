//! Durations, sizes and points in time as a manifest writes them: `"1h30m"`, `"64MiB"`,
//! `"2013-01-01T00:00:00Z"`. The command line reads and writes them with the same functions.
//!
//! Writing is exact: what [`format_duration`] and [`format_size`] write is read as the same value.

use std::time::Duration;

/// The longest duration text that is read. Longer ones say nothing that a shorter one can't.
const MAX_DURATION_CHARS: usize = 64;
/// The most digits in a row. Ten keep every sum of [`MAX_DURATION_CHARS`] far from the end of `u64`,
/// where `humantime` 2.4 panics for some inputs instead of returning an error.
const MAX_DURATION_DIGITS: usize = 10;

/// Units of size, largest first within each system.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// What is expected of a duration, for messages.
pub(crate) const DURATION_EXPECTED: &str = "a duration such as \"7d\", \"1h30m\" or \"5ms\"";
/// What is expected of a size, for messages.
pub(crate) const SIZE_EXPECTED: &str =
    "a size such as \"64MiB\", \"1MB\" or a whole number of bytes";

/// Why a text is not a quantity: a sentence for the help line.
pub(crate) type Reason = String;

/// Reads a duration: numbers with units (`ns us ms s m h d w`, and their longer names), largest
/// first by custom, for example `"1h 30m"`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, Reason> {
    let too_many_digits = text
        .split(|c: char| !c.is_ascii_digit())
        .any(|digits| digits.len() > MAX_DURATION_DIGITS);
    if text.len() > MAX_DURATION_CHARS || too_many_digits {
        return Err(format!(
            "write a number of at most {MAX_DURATION_DIGITS} digits with a larger unit"
        ));
    }
    humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::Empty => "write a number and a unit".to_owned(),
        humantime::DurationError::UnknownUnit { unit, value, .. } if unit.is_empty() => {
            format!("add the unit, for example \"{value}s\" or \"{value}ms\"")
        }
        humantime::DurationError::UnknownUnit { .. } => {
            "the units are ns, us, ms, s, m, h, d and w".to_owned()
        }
        humantime::DurationError::NumberOverflow => "the number is too large".to_owned(),
        humantime::DurationError::InvalidCharacter(_)
        | humantime::DurationError::NumberExpected(_) => {
            "write numbers and units only: the units are ns, us, ms, s, m, h, d and w".to_owned()
        }
    })
}

/// Writes a duration, largest unit first and without spaces: `"7d"`, `"1h30m"`.
pub(crate) fn format_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit) in UNITS {
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    text
}

/// Reads a size: a whole number directly followed by its unit, or a number of bytes alone.
pub(crate) fn parse_size(text: &str) -> Result<u64, Reason> {
    let digits_len = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_len);
    if digits.is_empty() {
        return Err("write a whole number and its unit".to_owned());
    }
    let unit_bytes = if unit.is_empty() {
        Some(1)
    } else {
        SIZE_UNITS
            .iter()
            // "kB" is what the SI says, "KB" what most people write.
            .find(|(name, _)| unit == *name || (unit == "kB" && *name == "KB"))
            .map(|(_, bytes)| *bytes)
    };
    let Some(unit_bytes) = unit_bytes else {
        return Err(size_unit_help(digits, unit));
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit_bytes))
        .ok_or_else(|| "the number is too large".to_owned())
}

/// What the author of an unknown unit may have meant.
fn size_unit_help(digits: &str, unit: &str) -> Reason {
    let wanted = unit.trim();
    if let Some((name, _)) = SIZE_UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
    {
        return format!("did you mean \"{digits}{name}\"?");
    }
    if wanted.starts_with(['.', ',']) {
        return "write a whole number with a smaller unit".to_owned();
    }
    let mut chars = wanted.chars();
    match (chars.next().map(|c| c.to_ascii_uppercase()), chars.next()) {
        (Some(letter @ ('K' | 'M' | 'G' | 'T')), None) => {
            format!("did you mean \"{digits}{letter}iB\"?")
        }
        _ => "the units are B, KiB, MiB, GiB, TiB (powers of 1024) and KB, MB, GB, TB (of 1000)"
            .to_owned(),
    }
}

/// Writes a size with the largest binary unit that needs no fraction.
pub(crate) fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    SIZE_UNITS
        .iter()
        .filter(|(name, unit)| name.ends_with("iB") || *unit == 1)
        .find(|(_, unit)| bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(name, unit)| format!("{}{name}", bytes / unit),
        )
}

/// Reads an RFC 3339 time with its offset, as ms since the Unix epoch.
pub(crate) fn parse_time_ms(text: &str) -> Result<u64, Reason> {
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| {
        "write date, time and offset, for example \"2013-01-01T00:00:00Z\"".to_owned()
    })?;
    u64::try_from(timestamp.as_millisecond())
        .map_err(|_| "times before 1970-01-01T00:00:00Z are not supported".to_owned())
}

/// Writes a time in ms since the Unix epoch as RFC 3339 in UTC.
pub(crate) fn format_time_ms(timestamp_ms: u64) -> String {
    i64::try_from(timestamp_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{timestamp_ms}ms"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let read = |text| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("7d"), Ok(604_800_000));
        assert_eq!(read("5ms"), Ok(5));
        assert_eq!(read("1h30m"), Ok(5_400_000));
        assert_eq!(read("1h 30m"), Ok(5_400_000));
        assert_eq!(read("1.5s"), Ok(1_500));
        assert!(read("5").unwrap_err().contains("\"5s\""));
        assert!(read("5 fortnights").unwrap_err().contains("units are"));
        assert!(read("-5s").is_err());
        assert!(read("").is_err());
        // humantime 2.4 itself panics on these.
        assert!(read("18446744073709551615s1000ms").is_err());
        assert!(read("584542046090y19759615s1000ms").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1MB"), Ok(1_000_000));
        assert_eq!(parse_size("1kB"), Ok(1_000));
        assert_eq!(parse_size("512"), Ok(512));
        assert_eq!(parse_size("0B"), Ok(0));
        for (text, help) in [
            ("64mib", "\"64MiB\""),
            ("64 MiB", "\"64MiB\""),
            ("64M", "\"64MiB\""),
            ("1.5MiB", "smaller unit"),
            ("64Mb", "\"64MB\""),
            ("64 apples", "units are"),
            ("", "whole number"),
            ("-1", "whole number"),
            ("MiB", "whole number"),
            ("99999999999TiB", "too large"),
        ] {
            let reason = parse_size(text).unwrap_err();
            assert!(reason.contains(help), "{text}: {reason}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(parse_time_ms("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(
            parse_time_ms("2013-01-01T00:00:00-05:00"),
            Ok(1_357_016_400_000)
        );
        assert!(parse_time_ms("1969-12-31T23:59:59Z").is_err());
        assert!(parse_time_ms("2013-01-01").is_err());
        assert!(parse_time_ms("2013-01-01T00:00:00").is_err());
        assert_eq!(format_time_ms(1_357_016_400_000), "2013-01-01T05:00:00Z");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text), parse_time_ms(&text));
        }

        #[test]
        fn number_like_text_never_panics(text in "([0-9]{1,20}\\.?[0-9]{0,5}(ns|us|ms|s|m|h|d|w|M|y|KiB|TB| ){1,2}){0,6}") {
            let _ = (parse_duration(&text), parse_size(&text));
        }

        #[test]
        fn written_quantities_read_as_the_same(
            nanos in 0u64..9_999_999_999,
            millis in 0u64..10_000_000_000_000,
            bytes: u64,
            timestamp_ms in 0u64..200_000_000_000_000,
        ) {
            for duration in [Duration::from_nanos(nanos), Duration::from_millis(millis)] {
                prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            }
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
            prop_assert_eq!(parse_time_ms(&format_time_ms(timestamp_ms)), Ok(timestamp_ms));
        }
    }
}
