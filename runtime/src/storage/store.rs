//! The open data directory: reads, and the door to the commit thread.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Options, ReadOptions};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::commit_thread::{CommitThread, Request};
use super::directory::Directory;
use super::entries::{self, Rocks};
use super::health::FreeDisk;
use super::schema::{
    KeyKind, batch as batch_key, kind_prefix, partition_head, queue, queue_chunk, topic,
};
use super::statistics::CommitCounters;
use super::{
    Commit, Durability, Error, Partition, PendingCommit, StoreOptions, WriteFailure, open_files,
};
use crate::clock::{Clock, Stopwatch};
use crate::model::RecordBatch;

/// Bytes of commits that may wait for the commit thread; whoever comes later waits.
const MAX_QUEUED_BYTES: usize = MAX_COMMIT_BYTES;
/// Bytes of one commit: the largest output that a manifest can allow (64 MiB), the most state that one
/// batch can write (`plugin::Limits`), and the fold of earlier state changes, with room to spare.
const MAX_COMMIT_BYTES: usize = 128 << 20;
/// The unit in which queued bytes are counted.
const PERMIT_BYTES: usize = 1 << 10;
/// Memtables: one that is written to, the others on their way to the disk. More of them bridge longer
/// pauses of the disk.
pub(super) const MEMTABLES: i32 = 10;
/// Threads for flushes and compactions; RocksDB gives a quarter of them to flushes. With two one builds its file while
/// the other waits for the disk.
pub(super) const BACKGROUND_THREADS: i32 = 8;
/// What RocksDB's C interface has as text alone. Its writers are slowed down to 16 MiB/s otherwise, once all memtables but
/// one are full, which is far slower than a disk. And a write-ahead log knows how the one before it ended: nothing is
/// replayed behind a log that a power loss has shortened.
pub(super) const TEXT_OPTIONS: &str = "delayed_write_rate=1073741824;track_and_verify_wals=true";
/// What is compacted again and again is not compressed, what has settled is.
const COMPRESSION: [DBCompressionType; 7] = [
    DBCompressionType::None,
    DBCompressionType::None,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
];
/// Values below this many bytes lie inline in the LSM tree, larger ones in blob files.
const MIN_BLOB_BYTES: u64 = 4 << 10;

/// What readers and the commit thread share.
pub(super) struct Database {
    pub(super) rocks: Rocks,
    pub(super) failure: OnceLock<WriteFailure>,
    /// Whether a write has failed, for those who wait for it.
    has_failed: watch::Sender<bool>,
    pub(super) free_disk: FreeDisk,
    /// Groups committed since the store was opened.
    pub(super) commits: AtomicU64,
    pub(super) counters: CommitCounters,
    /// Bytes of garbage in blob files that the last [`Store::reclaim_blobs`] could not free.
    garbage_left: AtomicU64,
    options: Options,
    directory: Directory,
}

impl Database {
    /// Remembers a failed write, unless one has failed before; returns the first one.
    pub(super) fn poison(&self, reason: &str) -> &WriteFailure {
        let failure = self.failure.get_or_init(|| {
            let failure = WriteFailure::new(reason, self.directory.path());
            let (reason, advice) = (&failure.reason, &failure.advice);
            tracing::error!(
                reason,
                advice,
                "a write failed; the store accepts no more writes"
            );
            failure
        });
        self.has_failed.send_replace(true);
        failure
    }
}

/// An open data directory. Clones share it; it is closed with the last of them.
#[derive(Clone)]
pub struct Store {
    database: Arc<Database>,
    requests: Arc<Requests>,
    next_id: Arc<AtomicU32>,
    clock: Clock,
    durability: Durability,
}

/// The queue of the commit thread. Dropping it ends the thread, after what is queued is written.
struct Requests {
    sender: Option<mpsc::UnboundedSender<Request>>,
    queued_bytes: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stop_sync: Option<std::sync::mpsc::Sender<()>>,
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.sender = None;
        self.stop_sync = None;
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

/// Bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Sorted tables.
    pub table_bytes: u64,
    /// Blob files.
    pub blob_bytes: u64,
}

/// What RocksDB has written since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteStatistics {
    /// Bytes written to the write-ahead log.
    pub wal_bytes: u64,
    /// Bytes written by flushes, blob files included.
    pub flush_bytes: u64,
    /// Bytes written by compactions, blob files included.
    pub compaction_bytes: u64,
}

impl WriteStatistics {
    /// All bytes written.
    pub fn total_bytes(&self) -> u64 {
        self.wal_bytes + self.flush_bytes + self.compaction_bytes
    }
}

/// Where a walk over entries goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// To the next entry.
    Next,
    /// To the first entry from this key on.
    To(Vec<u8>),
    /// To the last entry up to this key, itself included.
    LastTo(Vec<u8>),
    /// To the entry before.
    Back,
    /// No further.
    Stop,
}

/// What a scan does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Go on with the next entry.
    Continue,
    /// Stop here.
    Stop,
}

impl Store {
    /// Opens a data directory, creating it if it is missing, and locks it to this process.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, Error> {
        let directory = Directory::open(path)?;
        let db_options = rocks_options(&options)?;
        remove_if_never_written(&directory.store_path())?;
        let rocks = Rocks::open(&db_options, directory.store_path())
            .map_err(Error::engine("open its files"))?;
        let database = Arc::new(Database {
            rocks,
            failure: OnceLock::new(),
            has_failed: watch::Sender::new(false),
            free_disk: FreeDisk::default(),
            commits: AtomicU64::new(0),
            counters: CommitCounters::new(),
            garbage_left: AtomicU64::new(0),
            options: db_options,
            directory,
        });
        let requests = Arc::new(Requests::start(&database, &options)?);
        let store = Self {
            database,
            requests,
            next_id: Arc::default(),
            clock: options.clock,
            durability: options.durability,
        };
        store.find_next_id()?;
        Ok(store)
    }

    /// Ids are never given twice: entries of what is deleted stay as marks.
    fn find_next_id(&self) -> Result<(), Error> {
        for (kind, parse) in [
            (KeyKind::Topic, topic::parse_key as fn(&[u8]) -> Option<u32>),
            (KeyKind::Queue, queue::parse_key),
        ] {
            self.scan_kind(kind, |key, _| {
                let next = parse(key).map_or(0, |id| id.saturating_add(1));
                self.next_id.fetch_max(next, Ordering::Relaxed);
                Ok(Scan::Continue)
            })?;
        }
        Ok(())
    }

    /// An id for a new topic or queue, which no other has or had.
    pub(crate) fn allocate_id(&self) -> u32 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The source of time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// When a commit counts as acknowledged, unless it says otherwise.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The data directory.
    pub fn path(&self) -> &Path {
        self.database.directory.path()
    }

    /// Groups of commits written since the store was opened; grows with every change.
    pub fn commit_count(&self) -> u64 {
        self.database.commits.load(Ordering::Acquire)
    }

    /// Hands a commit to the commit thread; waits only while too many bytes are queued.
    ///
    /// # Errors
    /// [`Error::CommitTooLarge`], [`Error::Poisoned`], [`Error::Closed`]; what goes wrong later is
    /// the pending commit's.
    pub async fn submit(&self, commit: Commit) -> Result<PendingCommit, Error> {
        if commit.len_bytes() > MAX_COMMIT_BYTES {
            return Err(Error::CommitTooLarge {
                bytes: commit.len_bytes(),
                limit: MAX_COMMIT_BYTES,
            });
        }
        self.check_poisoned()?;
        let submitted = Stopwatch::start();
        let units = commit.len_bytes().min(MAX_COMMIT_BYTES - 1) / PERMIT_BYTES + 1;
        let permits = u32::try_from(units).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.requests.queued_bytes)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| Error::Closed)?;
        let (reply, pending) = oneshot::channel();
        let sender = self.requests.sender.as_ref().ok_or(Error::Closed)?;
        sender
            .send(Request {
                commit,
                reply,
                submitted,
                _permit: permit,
            })
            .map_err(|_| Error::Closed)?;
        Ok(PendingCommit(pending))
    }

    /// Whether a write has failed, after which there are no others.
    pub(super) fn check_poisoned(&self) -> Result<(), Error> {
        match self.write_failure() {
            None => Ok(()),
            Some(failure) => Err(failure.clone().into()),
        }
    }

    /// Returns once a write has failed, after which there are no others: never, if all is well.
    pub async fn failed(&self) -> WriteFailure {
        let mut has_failed = self.database.has_failed.subscribe();
        // The sender is in `self`.
        let _ = has_failed.wait_for(|failed| *failed).await;
        match self.write_failure() {
            Some(failure) => failure.clone(),
            None => std::future::pending().await,
        }
    }

    /// The failed write after which there are no others.
    pub(super) fn write_failure(&self) -> Option<&WriteFailure> {
        self.database.failure.get()
    }

    /// RocksDB's options, which hold its statistics.
    pub(super) fn options(&self) -> &Options {
        &self.database.options
    }

    /// How much of the disk is kept free.
    pub(super) fn free_disk(&self) -> &FreeDisk {
        &self.database.free_disk
    }

    /// What the commit thread counts.
    pub(super) fn commit_counters(&self) -> &CommitCounters {
        &self.database.counters
    }

    /// RocksDB itself.
    pub(super) fn rocks(&self) -> &Rocks {
        &self.database.rocks
    }

    /// Bytes of garbage in blob files that the last [`Store::reclaim_blobs`] could not free.
    pub(super) fn garbage_left(&self) -> &AtomicU64 {
        &self.database.garbage_left
    }

    /// Commits and waits for the acknowledgement.
    pub async fn commit(&self, commit: Commit) -> Result<super::Committed, Error> {
        self.submit(commit).await?.wait().await
    }

    /// The value of a key.
    pub(crate) fn get(&self, kind: KeyKind, key: &[u8]) -> Result<Option<Bytes>, Error> {
        entries::get(&self.database.rocks, kind, key)
    }

    /// Visits the entries of a kind with `from <= key`, and `key < to` if given, in order.
    pub(crate) fn scan(
        &self,
        kind: KeyKind,
        from: &[u8],
        to: Option<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
    ) -> Result<(), Error> {
        let options = ReadOptions::default();
        entries::scan(&self.database.rocks, kind, from, to, options, visit)
    }

    /// Visits entries of a kind with `from <= key`, and `key < to` if given: those to which `visit` goes. It begins
    /// with `first`, and ends where there is none.
    pub(crate) fn walk(
        &self,
        kind: KeyKind,
        (from, to): (&[u8], Option<&[u8]>),
        first: Step,
        visit: impl FnMut(&[u8], &[u8]) -> Result<Step, Error>,
    ) -> Result<(), Error> {
        entries::walk(&self.database.rocks, kind, (from, to), first, visit)
    }

    /// Visits all entries of a kind, in order.
    pub(crate) fn scan_kind(
        &self,
        kind: KeyKind,
        visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
    ) -> Result<(), Error> {
        self.scan(kind, &kind_prefix(kind), None, visit)
    }

    /// The batches of a partition from the one that holds `offset` on: up to `max_bytes`, but at
    /// least one if there is any. Empty at the high watermark.
    ///
    /// The first batch may start before `offset`. Batches of the tail are shared, not copied.
    ///
    /// # Errors
    /// [`Error::OffsetOutOfRange`] before the start or beyond the high watermark;
    /// [`Error::PartitionDeleted`].
    pub fn read(
        &self,
        partition: &Partition,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<RecordBatch>, Error> {
        let end = partition.high_watermark();
        let start = partition.start_offset();
        if partition.is_deleted() {
            return Err(Error::deleted(partition));
        }
        if offset < start || offset > end {
            return Err(Error::OffsetOutOfRange { offset, start, end });
        }
        let mut batches = Vec::new();
        if offset == end || partition.read_tail(offset, end, max_bytes, &mut batches) {
            return Ok(batches);
        }
        let mut bytes = 0;
        self.scan_batches(partition, offset, end, |batch| {
            if bytes > 0 && bytes + batch.len_bytes() > max_bytes {
                return Ok(Scan::Stop);
            }
            bytes += batch.len_bytes();
            batches.push(batch);
            Ok(if bytes >= max_bytes {
                Scan::Stop
            } else {
                Scan::Continue
            })
        })?;
        if batches
            .first()
            .is_none_or(|first| first.base_offset() > offset)
        {
            self.check_gap(partition, offset, end)?;
        }
        Ok(batches)
    }

    /// Tells the gaps that the cleaner leaves from batches that were deleted while they were being
    /// read: stored with its batches, the partition's head knows before the partition in memory.
    fn check_gap(&self, partition: &Partition, offset: u64, end: u64) -> Result<(), Error> {
        let key = partition_head::key(partition.topic_id(), partition.index());
        let Some(value) = self.get(KeyKind::PartitionHead, &key)? else {
            return Err(Error::deleted(partition));
        };
        match partition_head::parse_value(&value) {
            Some(head) if head.start_offset > offset => Err(Error::OffsetOutOfRange {
                offset,
                start: head.start_offset,
                end,
            }),
            _ => Ok(()),
        }
    }

    /// Visits the stored batches of a partition from the one that holds `offset` on, up to `end`.
    pub(crate) fn scan_batches(
        &self,
        partition: &Partition,
        offset: u64,
        end: u64,
        mut visit: impl FnMut(RecordBatch) -> Result<Scan, Error>,
    ) -> Result<(), Error> {
        let (topic_id, index) = (partition.topic_id(), partition.index());
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(batch_key::key(topic_id, index, 0));
        options.set_iterate_upper_bound(batch_key::key(topic_id, index, end));
        let mut iterator = self.database.rocks.raw_iterator_opt(options);
        iterator.seek_for_prev(batch_key::key(topic_id, index, offset));
        if !iterator.valid() {
            iterator.status().map_err(Error::engine("seek"))?;
            iterator.seek(batch_key::key(topic_id, index, offset));
        }
        while let Some(value) = iterator.value() {
            let batch = stored_batch(partition, Bytes::copy_from_slice(value))?;
            if batch.next_offset() > offset && visit(batch)? == Scan::Stop {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(Error::engine("read batches"))
    }

    /// The first batch of a partition that ends after `offset`; `None` at the end.
    pub(crate) fn batch_at(
        &self,
        partition: &Partition,
        offset: u64,
    ) -> Result<Option<RecordBatch>, Error> {
        let mut found = None;
        self.scan_batches(partition, offset, partition.high_watermark(), |batch| {
            found = Some(batch);
            Ok(Scan::Stop)
        })?;
        Ok(found)
    }

    /// Gives the space of deleted batches of a topic back to the file system.
    pub(crate) fn compact_topic(&self, topic_id: u32) {
        let from = batch_key::key(topic_id, 0, 0);
        let to = batch_key::key(topic_id, u32::MAX, u64::MAX);
        self.database.rocks.compact_range(Some(from), Some(to));
    }

    /// Gives the space of deleted batches of a partition back to the file system.
    pub(crate) fn compact_partition(&self, partition: &Partition, offsets: Range<u64>) {
        let from = batch_key::key(partition.topic_id(), partition.index(), offsets.start);
        let to = batch_key::key(partition.topic_id(), partition.index(), offsets.end);
        self.database.rocks.compact_range(Some(from), Some(to));
    }

    pub(super) fn property(&self, name: &str) -> Result<u64, Error> {
        let value = self.database.rocks.property_int_value(name);
        Ok(value
            .map_err(Error::engine("read a property"))?
            .unwrap_or(0))
    }

    /// Writes the memtables to files; for measuring.
    pub fn flush(&self) -> Result<(), Error> {
        self.database.rocks.flush().map_err(Error::engine("flush"))
    }

    /// Bytes on disk.
    pub fn disk_usage(&self) -> Result<DiskUsage, Error> {
        Ok(DiskUsage {
            table_bytes: self.property("rocksdb.total-sst-files-size")?,
            blob_bytes: self.property("rocksdb.total-blob-file-size")?,
        })
    }
}

/// Removes the files of a store that was never written to. A process that is killed while it makes them may leave no
/// write-ahead log, without which RocksDB takes a store for a damaged one.
fn remove_if_never_written(path: &Path) -> Result<(), Error> {
    let files = match std::fs::read_dir(path) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    for file in files {
        let name = file.map_err(Error::io("read", path))?.file_name();
        let extension = Path::new(&name).extension().unwrap_or_default();
        if ["log", "sst", "blob"].iter().any(|it| extension == *it) {
            return Ok(());
        }
    }
    std::fs::remove_dir_all(path).map_err(Error::io("remove", path))
}

fn stored_batch(partition: &Partition, bytes: Bytes) -> Result<RecordBatch, Error> {
    RecordBatch::from_stored(bytes).map_err(|error| Error::Damaged {
        what: format!(
            "a batch of topic id {}, partition {}",
            partition.topic_id(),
            partition.index()
        ),
        reason: error.to_string(),
    })
}

impl Requests {
    fn start(database: &Arc<Database>, options: &StoreOptions) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let thread = CommitThread::new(
            Arc::clone(database),
            receiver,
            options.durability,
            options.tail_bytes,
        );
        let mut threads = vec![spawn("millstream-commit", move || thread.run(), database)?];
        let mut stop_sync = None;
        if let Durability::Interval(every) = options.durability {
            let (stop, stopped) = std::sync::mpsc::channel();
            let shared = Arc::clone(database);
            threads.push(spawn(
                "millstream-sync",
                move || sync_every(&shared, every, &stopped),
                database,
            )?);
            stop_sync = Some(stop);
        }
        Ok(Self {
            sender: Some(sender),
            queued_bytes: Arc::new(Semaphore::new(MAX_QUEUED_BYTES / PERMIT_BYTES)),
            threads: Mutex::new(threads),
            stop_sync,
        })
    }
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
    database: &Database,
) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(Error::io("start a thread for", database.directory.path()))
}

/// Syncs the write-ahead log in the given rhythm, when something was written.
fn sync_every(database: &Database, every: Duration, stopped: &std::sync::mpsc::Receiver<()>) {
    let mut synced = 0;
    while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
        let commits = database.commits.load(Ordering::Acquire);
        if commits == synced {
            continue;
        }
        if let Err(error) = database.rocks.flush_wal(true) {
            database.poison(&error.into_string());
            return;
        }
        synced = commits;
    }
}

fn memtable_bytes(options: &StoreOptions) -> usize {
    fail::fail_point!("store::memtable-bytes", |bytes| {
        bytes
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(options.memtable_bytes)
    });
    options.memtable_bytes
}

pub(super) fn rocks_options(options: &StoreOptions) -> Result<Options, Error> {
    let mut rocks = Options::default();
    rocks.create_if_missing(true);
    rocks.set_max_background_jobs(BACKGROUND_THREADS);
    rocks.set_max_open_files(open_files::max_store_files());
    rocks.set_keep_log_file_num(4);
    rocks.set_bytes_per_sync(8 << 20);
    rocks.set_stats_dump_period_sec(0);
    rocks.set_write_buffer_size(memtable_bytes(options));
    rocks.set_max_write_buffer_number(MEMTABLES);
    rocks.set_enable_blob_files(true);
    rocks.set_min_blob_size(MIN_BLOB_BYTES);
    rocks.set_blob_file_size(256 << 20);
    rocks.set_blob_compression_type(DBCompressionType::None);
    // Garbage collection as a part of every compaction would rewrite the oldest blobs again and
    // again, whether they are garbage or not: `reclaim_blobs` does it when it frees space.
    rocks.set_enable_blob_gc(false);
    rocks.set_compression_per_level(&COMPRESSION);
    rocks.set_merge_operator_associative("millstream-queue-chunk", |_, existing, changes| {
        queue_chunk::merge_values(existing, changes.iter())
    });
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(options.block_cache_bytes));
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    rocks.set_block_based_table_factory(&table);
    if options.statistics {
        rocks.enable_statistics();
    }
    let complete = rocks.get_options_from_string(TEXT_OPTIONS);
    complete.map_err(Error::engine("set options"))
}
