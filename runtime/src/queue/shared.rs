//! A queue, as its users share it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::deduplication::Deduplication;
use super::index::{Hole, Index, Trim};
use super::ingest::Ingest;
use super::queues::Registry;
use super::reader::Reader;
use super::{Error, QueueConfig};
use crate::model::QueueName;
use crate::storage::{self, Commit, Partition, Store};

/// A queue of an open data directory. Clones share it.
#[derive(Clone)]
pub struct Queue {
    pub(super) store: Store,
    pub(super) state: Arc<State>,
    pub(super) registry: Weak<Registry>,
}

/// What there is of a queue in memory. It does not hold the store, so that a commit can hold it.
pub(super) struct State {
    pub(super) id: u32,
    pub(super) name: QueueName,
    pub(super) partition: Arc<Partition>,
    config: RwLock<Arc<QueueConfig>>,
    pub(super) index: Mutex<Index>,
    pub(super) ingest: Mutex<Ingest>,
    pub(super) reader: Mutex<Reader>,
    pub(super) deduplication: Mutex<Deduplication>,
    /// The offset that the next message gets after all that commits on their way append.
    announced_end: AtomicU64,
    /// Told when a message may have become ready other than by an append, or an id is decided on.
    pub(super) changed: Notify,
    /// Held by the commit that removes a prefix.
    trimming: Arc<tokio::sync::Mutex<()>>,
    /// Chunks below are not stored any more.
    first_chunk: AtomicU64,
    /// Bytes removed since space was last given back to the file system.
    pub(super) freed_bytes: AtomicU64,
    /// Where the first of them began and the last of them ended.
    pub(super) freed_range: Mutex<Option<Range<u64>>>,
}

/// The right to remove a prefix.
pub(super) type TrimGuard = tokio::sync::OwnedMutexGuard<()>;

impl Queue {
    pub(super) fn new(
        store: Store,
        registry: Weak<Registry>,
        name: QueueName,
        config: QueueConfig,
        partition: Arc<Partition>,
    ) -> Self {
        let state = State {
            id: partition.topic_id(),
            name,
            config: RwLock::new(Arc::new(config)),
            index: Mutex::new(Index::new(partition.start_offset())),
            ingest: Mutex::default(),
            reader: Mutex::default(),
            deduplication: Mutex::default(),
            announced_end: AtomicU64::new(partition.high_watermark()),
            changed: Notify::new(),
            trimming: Arc::default(),
            first_chunk: AtomicU64::new(0),
            freed_bytes: AtomicU64::new(0),
            freed_range: Mutex::default(),
            partition,
        };
        Self {
            store,
            state: Arc::new(state),
            registry,
        }
    }

    /// The id under which its data is stored; never given to another queue or topic.
    pub fn id(&self) -> u32 {
        self.state.id
    }

    /// Its name.
    pub fn name(&self) -> &QueueName {
        &self.state.name
    }

    /// Its settings.
    pub fn config(&self) -> Arc<QueueConfig> {
        Arc::clone(&self.state.config.read())
    }

    /// The partition in which its messages lie. Batches that are appended to it without
    /// [`super::MessageBatch`] are messages like any other, but the queue's delay, time to live, limit
    /// and deduplication do not apply to them.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.state.partition
    }

    pub(super) fn set_config(&self, config: QueueConfig) {
        *self.state.config.write() = Arc::new(config);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.store.clock().now_ms()
    }

    /// Adds to what is announced that a commit appends messages, unless it does not happen.
    pub(super) fn announce_in(&self, count: u64, commit: &mut Commit) {
        self.announce(count);
        self.withdraw_in(count, commit);
    }

    /// Announces messages.
    pub(super) fn announce(&self, count: u64) {
        self.state.announced_end.fetch_add(count, Ordering::AcqRel);
    }

    /// Takes back that messages are announced if a commit does not happen.
    pub(super) fn withdraw_in(&self, count: u64, commit: &mut Commit) {
        let state = Arc::clone(&self.state);
        commit.on_outcome(move |happened| {
            if !happened {
                state.announced_end.fetch_sub(count, Ordering::AcqRel);
            }
        });
    }

    /// The offset after all messages that are stored or on their way. A commit that happens does not change it, so
    /// nothing counts twice, or not at all, while it becomes visible.
    pub(super) fn announced_end(&self) -> u64 {
        let announced = self.state.announced_end.load(Ordering::Acquire);
        // Batches from elsewhere are not announced.
        announced.max(self.partition().high_watermark())
    }

    /// Writes a commit and waits for it.
    pub(super) async fn commit(&self, commit: Commit) -> Result<storage::Committed, Error> {
        Ok(self.store.commit(commit).await?)
    }

    /// The right to remove a prefix, if nobody has it.
    pub(super) fn try_trimming(&self) -> Option<TrimGuard> {
        Arc::clone(&self.state.trimming).try_lock_owned().ok()
    }

    /// The right to remove a prefix.
    pub(super) async fn trimming(&self) -> TrimGuard {
        Arc::clone(&self.state.trimming).lock_owned().await
    }

    /// Adds to a commit that a prefix is removed.
    pub(super) fn trim_in(&self, trim: Trim, guard: TrimGuard, commit: &mut Commit) {
        let state = Arc::clone(&self.state);
        let to_chunk = super::offset_set::place(trim.to).0;
        let from_chunk = state.first_chunk.load(Ordering::Relaxed);
        let start = state.partition.start_offset();
        commit.trim_partition(&state.partition, trim.to, trim.freed_bytes);
        commit.delete_queue_chunks(state.id, from_chunk, to_chunk);
        commit.on_outcome(move |happened| {
            if happened {
                state.index.lock().trimmed(trim);
                state.first_chunk.store(to_chunk, Ordering::Relaxed);
                state.note_freed(start..trim.to, trim.freed_bytes);
            }
            drop(guard);
        });
    }

    /// Adds to a commit that a hole is made. What is known of its messages stays: it says that nothing is missing.
    pub(super) fn hollow_in(&self, hole: Hole, guard: TrimGuard, commit: &mut Commit) {
        let state = Arc::clone(&self.state);
        let range = (hole.from, hole.to);
        commit.hollow_partition(&state.partition, range, hole.freed_bytes);
        commit.on_outcome(move |happened| {
            if happened {
                state.index.lock().hollowed(hole);
                state.note_freed(hole.from..hole.to, hole.freed_bytes);
            }
            drop(guard);
        });
    }
}

impl State {
    fn note_freed(&self, freed: Range<u64>, bytes: u64) {
        let mut range = self.freed_range.lock();
        *range = Some(match range.take() {
            Some(range) => range.start.min(freed.start)..range.end.max(freed.end),
            None => freed,
        });
        self.freed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("id", &self.state.id)
            .field("name", &self.state.name)
            .finish_non_exhaustive()
    }
}
