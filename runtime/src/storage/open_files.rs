//! How many files the process may have open, and how many of them the store takes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// With fewer than these, tables are opened and closed all the time.
const FEW_FILES: u64 = 1024;
/// The fewest that RocksDB works with.
const MIN_STORE_FILES: u64 = 20;

/// The limit of open files as it is now; `None` = no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the limit of open files as far as the process may, and logs what it is then. Call it before
/// a store is opened, which takes half of the limit for its tables and blob files.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    let (limit, store) = (limit_text(), max_store_files());
    if self::limit().is_some_and(|limit| limit < FEW_FILES) {
        tracing::warn!(
            limit,
            max_store_files = store,
            "few files may be open; raise the limit (`ulimit -Hn`, `LimitNOFILE=` of a systemd unit)"
        );
    } else {
        tracing::info!(limit, max_store_files = store, "limit of open files");
    }
}

/// The limit for people.
pub(super) fn limit_text() -> String {
    limit().map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

/// Files that RocksDB may keep open, -1 = all: half of what the process may have, since connections,
/// the write-ahead log and the files of plugins need some, too.
pub(super) fn max_store_files() -> i32 {
    limit().map_or(-1, |limit| {
        i32::try_from((limit / 2).max(MIN_STORE_FILES)).unwrap_or(i32::MAX)
    })
}

/// Connections that a server may have at a time, besides as many as a quarter of them that wait: with the store's files and
/// what everything else needs they are no more than the limit.
pub fn max_connections() -> usize {
    limit().map_or(usize::MAX, |limit| {
        usize::try_from(limit / 4).unwrap_or(usize::MAX).max(1)
    })
}
