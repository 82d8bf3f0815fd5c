//! Settings of a data directory.

use std::str::FromStr;
use std::time::Duration;

use crate::clock::Clock;

/// When a commit counts as acknowledged.
///
/// Under all three, nothing acknowledged is lost when the process is killed. They differ in what a
/// power loss or a crash of the operating system can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged means on disk (fsync), shared by all commits that wait at the same time.
    #[default]
    Sync,
    /// Acknowledged means handed to the operating system; synced at least this often.
    Interval(Duration),
    /// Acknowledged means handed to the operating system, which writes it when it likes.
    Os,
}

impl FromStr for Durability {
    type Err = String;

    /// `sync`, `os`, or `interval(MS)` such as `interval(100)`.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}` is no durability; expected `sync`, `os` or `interval(MS)`, such as `interval(100)`"
            )
        };
        match text {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            _ => {
                let ms = text
                    .strip_prefix("interval(")
                    .and_then(|rest| rest.strip_suffix(')'))
                    .map(|ms| ms.trim_end_matches("ms"))
                    .and_then(|ms| ms.parse::<u64>().ok())
                    .filter(|ms| (1..=60_000).contains(ms))
                    .ok_or_else(expected)?;
                Ok(Self::Interval(Duration::from_millis(ms)))
            }
        }
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sync => f.write_str("sync"),
            Self::Interval(every) => write!(f, "interval({})", every.as_millis()),
            Self::Os => f.write_str("os"),
        }
    }
}

/// How a data directory is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// When a commit counts as acknowledged.
    pub durability: Durability,
    /// The source of time.
    pub clock: Clock,
    /// Bytes of the newest batches, of all partitions together, that are kept in memory for readers
    /// at the end of a partition.
    pub tail_bytes: usize,
    /// Bytes of RocksDB's block cache.
    pub block_cache_bytes: usize,
    /// Bytes of one memtable; several exist at a time.
    pub memtable_bytes: usize,
    /// Whether RocksDB counts the bytes that it writes (for [`super::Store::write_statistics`]).
    pub statistics: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            clock: Clock::system(),
            tail_bytes: 32 << 20,
            block_cache_bytes: 32 << 20,
            memtable_bytes: 32 << 20,
            statistics: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_reads_what_it_prints() {
        for durability in [
            Durability::Sync,
            Durability::Os,
            Durability::Interval(Duration::from_millis(250)),
        ] {
            assert_eq!(durability.to_string().parse(), Ok(durability));
        }
        for bad in [
            "",
            "fsync",
            "interval",
            "interval(0)",
            "interval(x)",
            "interval(999999)",
        ] {
            assert!(
                bad.parse::<Durability>().unwrap_err().contains("expected"),
                "{bad}"
            );
        }
    }
}
