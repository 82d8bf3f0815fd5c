//! Places in a partition as users write them: `earliest`, `latest`, an offset, a time.

use crate::log::OffsetSpec;
use crate::manifest::quantity::{format_time_ms, parse_time_ms};

/// Reads a place.
pub(crate) fn parse(text: &str) -> Result<OffsetSpec, String> {
    const EXPECTED: &str = "expected `earliest`, `latest`, an offset such as `42`, or a time such as `2013-01-01T00:00:00Z`";
    match text {
        "earliest" => return Ok(OffsetSpec::Earliest),
        "latest" => return Ok(OffsetSpec::Latest),
        _ => {}
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let offset = text
            .parse()
            .map_err(|_| format!("{EXPECTED}; the number is too large"))?;
        return Ok(OffsetSpec::Offset(offset));
    }
    let similar = ["earliest", "latest"]
        .into_iter()
        .find(|word| strsim::damerau_levenshtein(word, &text.to_ascii_lowercase()) <= 2);
    if let Some(word) = similar {
        return Err(format!("{EXPECTED}; did you mean `{word}`?"));
    }
    let time_ms =
        parse_time_ms(text).map_err(|reason| format!("expected a time with its offset: {reason}"));
    time_ms.map(OffsetSpec::TimeMs).map_err(|reason| {
        // What starts like a date is meant as a time; the reason says what it lacks.
        match text.starts_with(|c: char| c.is_ascii_digit()) {
            true => reason,
            false => EXPECTED.to_owned(),
        }
    })
}

/// Writes a place.
pub(crate) fn describe(spec: OffsetSpec) -> String {
    match spec {
        OffsetSpec::Earliest => "earliest".to_owned(),
        OffsetSpec::Latest => "latest".to_owned(),
        OffsetSpec::Offset(offset) => offset.to_string(),
        OffsetSpec::TimeMs(ms) => format_time_ms(ms),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_four_kinds() {
        assert_eq!(parse("earliest"), Ok(OffsetSpec::Earliest));
        assert_eq!(parse("latest"), Ok(OffsetSpec::Latest));
        assert_eq!(parse("0"), Ok(OffsetSpec::Offset(0)));
        assert_eq!(parse("336776"), Ok(OffsetSpec::Offset(336_776)));
        assert_eq!(
            parse("2013-01-01T05:00:00Z"),
            Ok(OffsetSpec::TimeMs(1_357_016_400_000))
        );
        assert_eq!(
            parse("2013-01-01T00:00:00-05:00"),
            Ok(OffsetSpec::TimeMs(1_357_016_400_000))
        );
    }

    #[test]
    fn mistakes_say_what_is_expected() {
        for (text, hint) in [
            ("", "expected `earliest`"),
            ("-1", "expected `earliest`"),
            ("beginning", "expected `earliest`"),
            ("Earliest", "did you mean `earliest`?"),
            ("lastest", "did you mean `latest`?"),
            ("2013-01-01", "expected a time with its offset"),
            ("99999999999999999999999", "too large"),
            ("1969-12-31T00:00:00Z", "before 1970"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_reads_as_the_same(number: u64, ms in 0u64..200_000_000_000_000) {
            for spec in [OffsetSpec::Offset(number), OffsetSpec::TimeMs(ms), OffsetSpec::Latest] {
                prop_assert_eq!(parse(&describe(spec)), Ok(spec));
            }
        }
    }
}
