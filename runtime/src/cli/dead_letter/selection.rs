//! Which dead letters a command is about.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli::quantity;
use crate::queue::letter::{DigestStart, Term};
use crate::server::{self, Source};

/// Dead letters of a queue, all of them or some.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Selection {
    /// The dead letters, as queue:NAME or the name of the pipeline that has given up on them
    source: Source,

    /// Only those of which this is so (may be repeated); FIELD is `reason`, `origin-topic`,
    /// `origin-queue`, `pipeline` or `plugin`
    ///
    /// Several conditions on one field are alternatives: `--filter reason=trap --filter
    /// reason=deadline`. A plugin is given as NAME, NAME@DIGEST or with the start of its digest.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = term)]
    filter: Vec<String>,

    /// Only those that this component has failed on: its SHA-256, or the start of it
    ///
    /// That holds besides what `--filter` says. If the start is that of several components, that is an error.
    #[arg(long, value_name = "DIGEST")]
    plugin: Option<DigestStart>,

    /// Only those given up on since: how long ago (`2h`), or a time such as 2013-01-01T00:00:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
}

/// Checks a condition.
fn term(text: &str) -> Result<String, String> {
    text.parse::<Term>().map(|_| text.to_owned())
}

impl Selection {
    /// As the API takes it.
    pub(super) fn request(&self) -> server::Selection {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = since.map_or(0, |since| since.as_millis() as u64);
        server::Selection {
            source: self.source.to_string(),
            filter: (!self.filter.is_empty()).then(|| self.filter.join(",")),
            plugin_digest: self.plugin.as_ref().map(ToString::to_string),
            since_ms: self.since.map(|since| since.time_ms(now_ms)),
        }
    }
}

/// A point in time: how long ago, or when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    AgoMs(u64),
    TimeMs(u64),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ms) = quantity::duration_ms(text) {
            return Ok(Self::AgoMs(ms));
        }
        quantity::time_ms(text)
            .map(Self::TimeMs)
            .map_err(|reason| format!("expected how long ago, such as `2h`, or a time: {reason}"))
    }
}

impl Since {
    fn time_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::AgoMs(ms) => now_ms.saturating_sub(ms),
            Self::TimeMs(ms) => ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_how_long_ago_or_a_time() {
        let time_ms = |text: &str| text.parse::<Since>().map(|since| since.time_ms(10_000));
        assert_eq!(time_ms("3s"), Ok(7_000));
        assert_eq!(time_ms("1h"), Ok(0));
        assert_eq!(time_ms("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(time_ms("yesterday").unwrap_err().contains("how long ago"));
    }
}
