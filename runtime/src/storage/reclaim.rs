//! Gives the space of deleted batches, and of other large values, back to the file system: blob files of which half is
//! garbage are rewritten.

use std::sync::atomic::Ordering;

use rocksdb::{BottommostLevelCompaction, CompactOptions};

use super::schema::{Region, prefix_end};
use super::{Error, Store};

/// Bytes of garbage in blob files from which on it is collected, if it is half of them at least.
const MIN_RECLAIMED_BYTES: u64 = 4 << 20;

impl Store {
    /// Rewrites the blob files if at least half of their bytes belong to what was deleted, so that
    /// no more than one byte is written for each that is freed. Returns the bytes freed.
    ///
    /// Files of which nothing is left go without it: batches that retention deletes were written together.
    pub(crate) fn reclaim_blobs(&self) -> Result<u64, Error> {
        let before = self.blobs()?;
        let left_bytes = self.garbage_left().load(Ordering::Relaxed);
        if !before.are_half_garbage(left_bytes) {
            return Ok(0);
        }
        self.collect_garbage(true)?;
        let rewritten = self.rewrite_blobs(left_bytes);
        self.collect_garbage(false)?;
        rewritten?;
        let after = self.blobs()?;
        self.garbage_left()
            .store(after.garbage_bytes, Ordering::Relaxed);
        Ok(before.live_bytes.saturating_sub(after.live_bytes))
    }

    /// Whether what is compacted leaves the blob files in which it lies.
    fn collect_garbage(&self, enabled: bool) -> Result<(), Error> {
        let enabled = if enabled { "true" } else { "false" };
        let options = [
            ("enable_blob_garbage_collection", enabled),
            ("blob_garbage_collection_age_cutoff", "1.0"),
        ];
        let set = self.rocks().set_options(&options);
        set.map_err(Error::engine("set options"))
    }

    fn rewrite_blobs(&self, left_bytes: u64) -> Result<(), Error> {
        // Most blobs are batches, and their keys are few.
        let codes = Region::Log.codes();
        self.rewrite(&[*codes.start()], prefix_end(&[*codes.end()]).as_deref());
        let left = self.blobs()?;
        // Large values of tasks hold on to the rest. They lie among small ones, which are rewritten with them.
        if left.are_half_garbage(left_bytes) && left.garbage_bytes >= self.disk_usage()?.table_bytes
        {
            self.rewrite(&[], None);
        }
        Ok(())
    }

    /// Compacts all keys from `from` on, and before `to` if given, also those that are where they belong.
    fn rewrite(&self, from: &[u8], to: Option<&[u8]>) {
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.rocks().compact_range_opt(Some(from), to, &options);
    }

    fn blobs(&self) -> Result<Blobs, Error> {
        Ok(Blobs {
            live_bytes: self.property("rocksdb.live-blob-file-size")?,
            garbage_bytes: self.property("rocksdb.live-blob-file-garbage-size")?,
        })
    }
}

/// What lies in blob files.
struct Blobs {
    live_bytes: u64,
    garbage_bytes: u64,
}

impl Blobs {
    /// Whether at least half is garbage that has come since so much was left.
    fn are_half_garbage(&self, left_bytes: u64) -> bool {
        let new_bytes = self.garbage_bytes.saturating_sub(left_bytes);
        new_bytes >= MIN_RECLAIMED_BYTES && new_bytes >= self.live_bytes / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when garbage that could not be collected makes each pass rewrite everything again.
    #[test]
    fn garbage_that_was_left_is_not_collected_again_until_as_much_has_come() {
        let blobs = |garbage_bytes| Blobs {
            live_bytes: 100 << 20,
            garbage_bytes,
        };
        assert!(!blobs(49 << 20).are_half_garbage(0));
        assert!(blobs(50 << 20).are_half_garbage(0));
        assert!(!blobs(50 << 20).are_half_garbage(50 << 20));
        assert!(!blobs(99 << 20).are_half_garbage(50 << 20));
        assert!(blobs(100 << 20).are_half_garbage(50 << 20));
    }
}
