//! The one thread that changes the store.
//!
//! It takes what is waiting, assigns offsets, writes one RocksDB `WriteBatch`, syncs once if any
//! member asks for it, publishes high watermarks and tails, and answers. A failed write poisons the
//! store: later commits are refused, since what is in memory and what is on disk may differ.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use rocksdb::{WriteBatch, WriteOptions};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::commit::{HeadChange, Write};
use super::outcome::Outcome;
use super::schema::batch as batch_key;
use super::schema::partition_head::{self, PartitionHead};
use super::store::Database;
use super::{Commit, Committed, Durability, Error, Partition, WriteFailure};
use crate::clock::Stopwatch;
use crate::model::{RecordBatch, Target};

/// Bytes after which a group of coalesced commits is closed.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// How long the thread stays awake for the next request while they come one soon after the other: on many machines waking
/// it takes longer than a small commit.
const AWAKE_NS: u64 = 60_000;
/// Commits after which a group is closed.
const MAX_GROUP_COMMITS: usize = 4096;

fn max_group_commits() -> usize {
    // Tests know then which commits one write takes.
    fail::fail_point!("commit::one-by-one", |_| 1);
    MAX_GROUP_COMMITS
}

/// A commit in the queue. The permit bounds the bytes that wait.
pub(super) struct Request {
    pub(super) commit: Commit,
    pub(super) reply: oneshot::Sender<Result<Committed, Error>>,
    pub(super) submitted: Stopwatch,
    pub(super) _permit: OwnedSemaphorePermit,
}

pub(super) struct CommitThread {
    database: Arc<Database>,
    requests: mpsc::UnboundedReceiver<Request>,
    durability: Durability,
    tails: TailBudget,
    /// Partitions that were deleted since the store was opened, by topic id and index. Whoever held
    /// them when it was closed is gone.
    deleted: HashMap<(u32, u32), Target>,
    /// Whether the request before came soon after that before it.
    stays_awake: bool,
    /// What the batch of the next group is given room for: growing it would copy it again and again.
    batch_capacity_bytes: usize,
}

/// What one group changes of one partition.
struct Touched {
    partition: Arc<Partition>,
    head: PartitionHead,
    batches: Vec<RecordBatch>,
    deleted: bool,
}

/// Who waits for a commit, and what it gets if the write succeeds.
type Reply = (
    oneshot::Sender<Result<Committed, Error>>,
    Result<Committed, Error>,
);

/// A group of commits, being put together.
#[derive(Default)]
struct Group {
    batch: WriteBatch,
    touched: HashMap<(u32, u32), Touched>,
    replies: Vec<Reply>,
    outcomes: Vec<Outcome>,
    permits: Vec<OwnedSemaphorePermit>,
    /// Bytes of all commits, which bound the group.
    bytes: usize,
    /// When those were submitted that are written, and their bytes.
    submitted: Vec<Stopwatch>,
    written_bytes: usize,
    sync: bool,
}

impl CommitThread {
    pub(super) fn new(
        database: Arc<Database>,
        requests: mpsc::UnboundedReceiver<Request>,
        durability: Durability,
        tail_bytes: usize,
    ) -> Self {
        Self {
            database,
            requests,
            durability,
            tails: TailBudget::new(tail_bytes),
            deleted: HashMap::new(),
            stays_awake: false,
            batch_capacity_bytes: 0,
        }
    }

    /// Waits for a request; `None` if every sender is gone.
    fn next_request(&mut self) -> Option<Request> {
        let waiting = Stopwatch::start();
        while self.stays_awake && waiting.elapsed_ns() < AWAKE_NS {
            match self.requests.try_recv() {
                Ok(request) => return Some(request),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => std::thread::yield_now(),
            }
        }
        let request = self.requests.blocking_recv();
        // With what it takes to wake up.
        self.stays_awake = waiting.elapsed_ns() < 2 * AWAKE_NS;
        request
    }

    /// Runs until every sender is gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next_request() {
            let mut group = Group {
                batch: WriteBatch::with_capacity_bytes(self.batch_capacity_bytes),
                ..Group::default()
            };
            self.add(&mut group, first);
            while group.bytes < MAX_GROUP_BYTES && group.replies.len() < max_group_commits() {
                let Ok(next) = self.requests.try_recv() else {
                    break;
                };
                self.add(&mut group, next);
            }
            let used_bytes = group.batch.size_in_bytes();
            self.batch_capacity_bytes = used_bytes + used_bytes / 4;
            self.finish(group);
        }
        if let Err(error) = self.database.rocks.flush_wal(true) {
            tracing::error!(%error, "the last sync failed");
        }
    }

    fn add(&self, group: &mut Group, request: Request) {
        let Request {
            commit,
            reply,
            submitted,
            _permit,
        } = request;
        group.permits.push(_permit);
        let commit_bytes = commit.len_bytes();
        group.bytes += commit_bytes;
        if let Some(deleted) = self.find_deleted(group, &commit) {
            group.replies.push((reply, Err(deleted)));
            return;
        }
        group.submitted.push(submitted);
        group.written_bytes += commit_bytes;
        group.sync |= self.durability == Durability::Sync;
        let mut base_offsets = Vec::with_capacity(commit.appends.len());
        for append in commit.appends {
            let touched = group.touch(&append.partition);
            let base_offset = touched.head.next_offset;
            let stored = append.batch.assign(base_offset);
            touched.head.next_offset = stored.next_offset();
            touched.head.size_bytes += stored.len_bytes() as u64;
            let key = batch_key::key(
                append.partition.topic_id(),
                append.partition.index(),
                base_offset,
            );
            touched.batches.push(stored.clone());
            group.batch.put(key, stored.as_bytes());
            base_offsets.push(base_offset);
        }
        for write in commit.writes {
            add_write(&mut group.batch, &write);
        }
        for change in commit.heads {
            group.change_head(change);
        }
        group.outcomes.extend(commit.outcomes);
        group.replies.push((reply, Ok(Committed { base_offsets })));
    }

    /// The error about a partition of a commit that has been deleted.
    fn find_deleted(&self, group: &Group, commit: &Commit) -> Option<Error> {
        // Heads too: retention or the cleaner must not bring a deleted partition back.
        let appends = commit.appends.iter().map(|append| &append.partition);
        let heads = commit.heads.iter().map(HeadChange::partition);
        let mut partitions = appends.chain(heads);
        let deleted = partitions.find(|partition| group.is_deleted(partition));
        if let Some(partition) = deleted {
            return Some(Error::deleted(partition));
        }
        // And offsets, which nobody would remove any more.
        commit.offsets.iter().find_map(|at| {
            if let Some(target) = self.deleted.get(at) {
                return Some(Error::PartitionDeleted {
                    target: target.clone(),
                    partition: at.1,
                });
            }
            let touched = group.touched.get(at).filter(|touched| touched.deleted)?;
            Some(Error::deleted(&touched.partition))
        })
    }

    fn finish(&mut self, mut group: Group) {
        for ((topic_id, index), touched) in &group.touched {
            let key = partition_head::key(*topic_id, *index);
            if touched.deleted {
                group.batch.delete(key);
            } else {
                group.batch.put(key, partition_head::value(&touched.head));
            }
        }
        let started = Stopwatch::start();
        if let Err(failure) = self.write(group.batch, group.sync) {
            drop(group.outcomes);
            let error = Error::from(failure);
            for (reply, _) in group.replies {
                let _ = reply.send(Err(error.clone()));
            }
            return;
        }
        let written = Stopwatch::start();
        fail::fail_point!("commit::after-write");
        for touched in group.touched.into_values() {
            self.publish(touched);
        }
        for outcome in group.outcomes {
            outcome.happened();
        }
        self.database.commits.fetch_add(1, Ordering::Release);
        let write_ns = started.until_ns(&written);
        self.count(&group.submitted, group.written_bytes, write_ns);
        fail::fail_point!("commit::before-reply");
        for (reply, result) in group.replies {
            // The one who asked may have gone; the commit stands all the same.
            let _ = reply.send(result);
        }
    }

    /// Counts a write of several commits that has succeeded.
    fn count(&self, submitted: &[Stopwatch], bytes: usize, write_ns: u64) {
        // All of them were refused: there was no write.
        if submitted.is_empty() {
            return;
        }
        let counters = &self.database.counters;
        let now = Stopwatch::start();
        for commit in submitted {
            counters.commit_ns.note(commit.until_ns(&now));
        }
        counters.write_ns.note(write_ns);
        counters.write_commits.note(submitted.len() as u64);
        counters.write_bytes.note(bytes as u64);
    }

    /// Writes and syncs; on a failure remembers the reason for everyone who comes later.
    fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), WriteFailure> {
        if let Some(failure) = self.database.failure.get() {
            return Err(failure.clone());
        }
        if batch.is_empty() {
            return Ok(());
        }
        let write = || -> Result<(), String> {
            fail::fail_point!("commit::before-write", |reason| Err(
                reason.unwrap_or_else(|| "failpoint".to_owned())
            ));
            let mut options = WriteOptions::default();
            options.set_sync(sync);
            self.database
                .rocks
                .write_opt(batch, &options)
                .map_err(rocksdb::Error::into_string)
        };
        write().map_err(|reason| self.database.poison(&reason).clone())
    }

    fn publish(&mut self, touched: Touched) {
        let Touched {
            partition,
            head,
            batches,
            deleted,
        } = touched;
        if deleted {
            let at = (partition.topic_id(), partition.index());
            self.deleted.insert(at, partition.target().clone());
            partition.mark_deleted();
            return;
        }
        self.tails.admit(&partition, &batches);
        partition.publish(&head, batches.into_iter());
        self.tails.evict();
    }
}

fn add_write(batch: &mut WriteBatch, write: &Write) {
    match write {
        Write::Put { key, value } => batch.put(key, value),
        Write::Delete { key } => batch.delete(key),
        Write::DeleteRange { from, to } => batch.delete_range(from.as_ref(), to.as_ref()),
        Write::Merge { key, value } => batch.merge(key, value),
    }
}

impl Group {
    fn is_deleted(&self, partition: &Partition) -> bool {
        let key = (partition.topic_id(), partition.index());
        let touched = self.touched.get(&key);
        partition.is_deleted() || touched.is_some_and(|touched| touched.deleted)
    }

    fn touch(&mut self, partition: &Arc<Partition>) -> &mut Touched {
        self.touched
            .entry((partition.topic_id(), partition.index()))
            .or_insert_with(|| Touched {
                head: partition.head(),
                partition: Arc::clone(partition),
                batches: Vec::new(),
                deleted: false,
            })
    }

    fn change_head(&mut self, change: HeadChange) {
        match change {
            HeadChange::Trim {
                partition,
                start_offset,
                freed_bytes,
            } => {
                let head = &mut self.touch(&partition).head;
                head.start_offset = head.start_offset.max(start_offset);
                head.size_bytes = head.size_bytes.saturating_sub(freed_bytes);
                // What goes first is what was cleaned first.
                head.cleaned_bytes = head.cleaned_bytes.saturating_sub(freed_bytes);
            }
            HeadChange::Resize {
                partition,
                by_bytes,
            } => {
                let head = &mut self.touch(&partition).head;
                head.size_bytes = head.size_bytes.saturating_add_signed(by_bytes);
            }
            HeadChange::Clean { partition, mark } => {
                mark.write_to(&mut self.touch(&partition).head)
            }
            HeadChange::Delete { partition } => self.touch(&partition).deleted = true,
            HeadChange::Require { .. } => {}
        }
    }
}

/// Keeps the tails of all partitions together within a number of bytes: the oldest batch goes first.
struct TailBudget {
    limit_bytes: usize,
    held_bytes: usize,
    held: VecDeque<(Arc<Partition>, usize)>,
}

impl TailBudget {
    fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            held_bytes: 0,
            held: VecDeque::new(),
        }
    }

    fn admit(&mut self, partition: &Arc<Partition>, batches: &[RecordBatch]) {
        for batch in batches {
            self.held_bytes += batch.len_bytes();
            self.held
                .push_back((Arc::clone(partition), batch.len_bytes()));
        }
    }

    fn evict(&mut self) {
        while self.held_bytes > self.limit_bytes {
            let Some((partition, bytes)) = self.held.pop_front() else {
                return;
            };
            partition.evict_oldest_of_tail();
            self.held_bytes -= bytes;
        }
    }
}
