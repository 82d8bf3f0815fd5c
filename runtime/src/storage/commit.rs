//! What is handed to the commit thread, and what comes back.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use tokio::sync::oneshot;

use super::outcome::Outcome;
use super::schema::changelog::{self, Change};
use super::schema::group_gaps;
use super::schema::group_offset::{self, CommittedOffset};
use super::schema::parked::{self, ParkedRecord};
use super::schema::parked_group::{self, GroupChange, ParkedGroup};
use super::schema::{
    KeyKind, batch, is_of_kind, kind_prefix, pipeline_prefix, prefix_end, state, timer,
};
use super::{CleanMark, Error, Partition};
use crate::model::{EncodedBatch, RecordBatch};

/// A batch to append to a partition; its offsets are assigned by the commit thread.
#[derive(Debug)]
pub struct Append {
    /// Where it goes.
    pub partition: Arc<Partition>,
    /// The batch, in Kafka's v2 format.
    pub batch: EncodedBatch,
}

/// A change of one entry.
#[derive(Debug)]
pub(super) enum Write {
    Put {
        key: Bytes,
        value: Bytes,
    },
    Delete {
        key: Bytes,
    },
    DeleteRange {
        from: Bytes,
        to: Bytes,
    },
    /// A change that is merged with what is there.
    Merge {
        key: Bytes,
        value: Bytes,
    },
}

/// A change of a partition's head besides appends.
#[derive(Debug)]
pub(super) enum HeadChange {
    /// Retention: the partition now starts at `start_offset`, `freed_bytes` are gone.
    Trim {
        partition: Arc<Partition>,
        start_offset: u64,
        freed_bytes: u64,
    },
    /// The cleaner: rewritten batches are `by_bytes` larger, or smaller if it is negative.
    Resize {
        partition: Arc<Partition>,
        by_bytes: i64,
    },
    /// The cleaner has come this far.
    Clean {
        partition: Arc<Partition>,
        mark: CleanMark,
    },
    /// The topic is deleted.
    Delete { partition: Arc<Partition> },
    /// Nothing changes, but the commit is only valid while the partition exists.
    Require { partition: Arc<Partition> },
}

impl HeadChange {
    /// Whose head changes.
    pub(super) fn partition(&self) -> &Arc<Partition> {
        match self {
            Self::Trim { partition, .. }
            | Self::Resize { partition, .. }
            | Self::Clean { partition, .. }
            | Self::Delete { partition }
            | Self::Require { partition } => partition,
        }
    }
}

/// Changes that happen together or not at all.
#[derive(Debug, Default)]
pub struct Commit {
    pub(super) appends: Vec<Append>,
    pub(super) writes: Vec<Write>,
    pub(super) heads: Vec<HeadChange>,
    /// The partitions, by topic id and index, that group offsets are recorded for.
    pub(super) offsets: Vec<(u32, u32)>,
    pub(super) outcomes: Vec<Outcome>,
    /// How the groups of parked records change, of the one task whose records it parks and removes.
    parked_groups: HashMap<u64, GroupChange>,
    bytes: usize,
}

impl Commit {
    /// A commit that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the changes of another commit after its own, so that they happen together.
    pub fn extend(&mut self, other: Commit) {
        let Commit {
            appends,
            writes,
            heads,
            offsets,
            outcomes,
            parked_groups,
            bytes,
        } = other;
        self.appends.extend(appends);
        self.writes.extend(writes);
        self.heads.extend(heads);
        self.offsets.extend(offsets);
        self.outcomes.extend(outcomes);
        for (group, change) in parked_groups {
            self.parked_groups.entry(group).or_default().add(&change);
        }
        self.bytes += bytes;
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.writes.is_empty() && self.heads.is_empty()
    }

    /// Bytes of its keys, values and batches.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Records of its appends.
    pub fn record_count(&self) -> u64 {
        self.appends
            .iter()
            .map(|append| u64::from(append.batch.record_count()))
            .sum()
    }

    /// Appends a batch to a partition.
    pub fn append(&mut self, partition: Arc<Partition>, batch: EncodedBatch) {
        self.bytes += batch.len_bytes();
        self.appends.push(Append { partition, batch });
    }

    /// Which of the appends is the first to a partition; their number if there is none.
    pub(crate) fn first_append_to(&self, partition: &Arc<Partition>) -> usize {
        let mut appends = self.appends.iter();
        let first = appends.position(|append| Arc::ptr_eq(&append.partition, partition));
        first.unwrap_or(self.appends.len())
    }

    /// Records a group's offset: the next record that it reads. If the partition is deleted by then,
    /// the whole commit is refused.
    pub fn commit_offset(
        &mut self,
        group: &str,
        topic_id: u32,
        partition: u32,
        committed: CommittedOffset,
    ) {
        self.offsets.push((topic_id, partition));
        let value = Bytes::copy_from_slice(&group_offset::value(committed));
        self.put(
            KeyKind::GroupOffset,
            group_offset::key(group, topic_id, partition),
            value,
        );
    }

    /// Records which offsets of a partition a lane has processed beyond the group's committed offset.
    pub fn commit_gaps(
        &mut self,
        group: &str,
        topic_id: u32,
        partition: u32,
        lane: u32,
        done: impl Iterator<Item = Range<u64>>,
    ) {
        let key = group_gaps::key(group, topic_id, partition, lane);
        let mut done = done.peekable();
        match done.peek() {
            Some(_) => self.put(KeyKind::GroupGaps, key, group_gaps::value(done)),
            None => self.delete(KeyKind::GroupGaps, key),
        }
    }

    /// Forgets what was processed beyond a group's offset in a partition.
    pub fn forget_gaps(&mut self, group: &str, topic_id: u32, partition: u32) {
        let from = group_gaps::partition_prefix(group, topic_id, partition);
        if let Some(to) = prefix_end(&from) {
            self.delete_range(KeyKind::GroupGaps, from, to);
        }
    }

    /// Forgets a group's offset in a partition.
    pub fn delete_offset(&mut self, group: &str, topic_id: u32, partition: u32) {
        self.delete(
            KeyKind::GroupOffset,
            group_offset::key(group, topic_id, partition),
        );
        self.forget_gaps(group, topic_id, partition);
    }

    /// Adds the state changes of one checkpoint to a task's changelog.
    pub fn append_changelog(
        &mut self,
        pipeline_id: u32,
        partition: u32,
        sequence: u64,
        changes: &[Change],
    ) {
        let key = changelog::key(pipeline_id, partition, sequence);
        self.put(KeyKind::Changelog, key, changelog::value(changes).into());
    }

    /// Removes a task's changelog entries with `from <= sequence < to`.
    pub fn truncate_changelog(&mut self, pipeline_id: u32, partition: u32, from: u64, to: u64) {
        let from = changelog::key(pipeline_id, partition, from);
        let to = changelog::key(pipeline_id, partition, to);
        self.delete_range(KeyKind::Changelog, from, to);
    }

    /// Sets or removes a folded entry of a task's state.
    pub fn write_state(
        &mut self,
        pipeline_id: u32,
        partition: u32,
        key: &[u8],
        value: Option<&Bytes>,
    ) {
        let key = state::key(pipeline_id, partition, key);
        match value {
            Some(value) => self.put(KeyKind::State, key, value.clone()),
            None => self.delete(KeyKind::State, key),
        }
    }

    /// Parks a record of a task, or replaces what is parked there.
    pub fn park(
        &mut self,
        pipeline_id: u32,
        task: u32,
        group: u64,
        sequence: u64,
        parked: &ParkedRecord,
    ) {
        let key = parked::key(pipeline_id, task, group, sequence);
        self.put(KeyKind::Parked, key, parked::value(parked));
    }

    /// As [`park`](Self::park), of a record that is not parked there already: notes how its group changes.
    pub(crate) fn park_new(
        &mut self,
        pipeline_id: u32,
        task: u32,
        group: u64,
        sequence: u64,
        parked: &ParkedRecord,
    ) {
        self.park(pipeline_id, task, group, sequence, parked);
        let change = self.parked_groups.entry(group).or_default();
        let offset = parked.record.base_offset();
        change.added.add(sequence, parked.input, offset);
    }

    /// Takes out how the groups of parked records change.
    pub(crate) fn take_parked_groups(&mut self) -> HashMap<u64, GroupChange> {
        std::mem::take(&mut self.parked_groups)
    }

    /// Says how much of a group of a task is parked; `None` if so little that it is not kept.
    pub(crate) fn set_parked_group(
        &mut self,
        pipeline_id: u32,
        task: u32,
        group: u64,
        parked: Option<&ParkedGroup>,
    ) {
        let key = parked_group::key(pipeline_id, task, group);
        match parked {
            Some(parked) => {
                let value = Bytes::copy_from_slice(&parked_group::value(parked));
                self.put(KeyKind::ParkedGroup, key, value);
            }
            None => self.delete(KeyKind::ParkedGroup, key),
        }
    }

    /// Removes a parked record, and notes how its group changes.
    pub fn unpark(&mut self, pipeline_id: u32, task: u32, group: u64, sequence: u64) {
        let key = parked::key(pipeline_id, task, group, sequence);
        self.delete(KeyKind::Parked, key);
        self.parked_groups.entry(group).or_default().removed_count += 1;
    }

    /// Sets a timer of a task, or replaces its payload.
    pub fn set_timer(
        &mut self,
        pipeline_id: u32,
        task: u32,
        due_ms: u64,
        timer_key: &[u8],
        payload: &[u8],
    ) {
        let key = timer::key(pipeline_id, task, due_ms, timer_key);
        self.put(KeyKind::Timer, key, timer::value(payload));
    }

    /// Removes a timer of a task; a missing one is no error.
    pub fn remove_timer(&mut self, pipeline_id: u32, task: u32, due_ms: u64, timer_key: &[u8]) {
        let key = timer::key(pipeline_id, task, due_ms, timer_key);
        self.delete(KeyKind::Timer, key);
    }

    /// Deletes the keyed state, the timers and the parked records of all tasks of a pipeline.
    pub fn forget_pipeline(&mut self, pipeline_id: u32) {
        self.forget_kind(KeyKind::Parked, pipeline_id);
        self.forget_progress(pipeline_id);
    }

    /// Deletes the keyed state and the timers of all tasks of a pipeline, and how many records of which key are parked,
    /// but not these themselves.
    pub(crate) fn forget_progress(&mut self, pipeline_id: u32) {
        for kind in [
            KeyKind::State,
            KeyKind::Changelog,
            KeyKind::ParkedGroup,
            KeyKind::Timer,
        ] {
            self.forget_kind(kind, pipeline_id);
        }
    }

    fn forget_kind(&mut self, kind: KeyKind, pipeline_id: u32) {
        let from = pipeline_prefix(kind, pipeline_id);
        if let Some(to) = prefix_end(&from) {
            self.delete_range(kind, from, to);
        }
    }

    /// Forgets all positions of a group.
    pub fn forget_group(&mut self, group: &str) {
        let offsets = group_offset::group_prefix(group);
        let gaps = group_gaps::group_prefix(group);
        for (kind, from) in [(KeyKind::GroupOffset, offsets), (KeyKind::GroupGaps, gaps)] {
            if let Some(to) = prefix_end(&from) {
                self.delete_range(kind, from, to);
            }
        }
    }

    /// Deletes a partition: its batches and its head.
    pub(crate) fn delete_partition(&mut self, partition: &Arc<Partition>) {
        let (topic_id, index) = (partition.topic_id(), partition.index());
        let from = batch::key(topic_id, index, 0);
        self.delete_range(KeyKind::Batch, from, batch::key(topic_id, index, u64::MAX));
        self.heads.push(HeadChange::Delete {
            partition: Arc::clone(partition),
        });
    }

    /// Makes the commit valid only while a partition exists, which it does not change itself.
    pub(crate) fn require_partition(&mut self, partition: &Arc<Partition>) {
        self.heads.push(HeadChange::Require {
            partition: Arc::clone(partition),
        });
    }

    /// Calls `then` once it is known whether the commit happened: on the commit thread, after the
    /// change is visible and before the commit is acknowledged; or wherever the commit is dropped
    /// without having been written. It must be quick, and must not hold the store.
    pub(crate) fn on_outcome(&mut self, then: impl FnOnce(bool) + Send + 'static) {
        self.outcomes.push(Outcome::new(then));
    }

    /// Retention: deletes the batches below `start_offset`, which must be a batch's base offset or
    /// the high watermark, and `freed_bytes` the size of what lies below it.
    pub(crate) fn trim_partition(
        &mut self,
        partition: &Arc<Partition>,
        start_offset: u64,
        freed_bytes: u64,
    ) {
        let (topic_id, index) = (partition.topic_id(), partition.index());
        // Not from 0: below its start there is nothing, and ranges that all start at one place make
        // readers look at all of them.
        let from = batch::key(topic_id, index, partition.start_offset());
        self.delete_range(
            KeyKind::Batch,
            from,
            batch::key(topic_id, index, start_offset),
        );
        self.heads.push(HeadChange::Trim {
            partition: Arc::clone(partition),
            start_offset,
            freed_bytes,
        });
    }

    /// Removes the batches `from <= base offset < to`, between others, of which nothing is left; `freed_bytes` is their
    /// size.
    pub(crate) fn hollow_partition(
        &mut self,
        partition: &Arc<Partition>,
        (from, to): (u64, u64),
        freed_bytes: u64,
    ) {
        let key = |offset| batch::key(partition.topic_id(), partition.index(), offset);
        self.delete_range(KeyKind::Batch, key(from), key(to));
        self.resize_partition(partition, -i64::try_from(freed_bytes).unwrap_or(i64::MAX));
    }

    /// The cleaner: puts a compacted batch; what it replaces is removed before it in the same commit.
    pub(crate) fn replace_batch(&mut self, partition: &Partition, batch: &RecordBatch) {
        let key = batch::key(partition.topic_id(), partition.index(), batch.base_offset());
        self.put(KeyKind::Batch, key, batch.as_bytes().clone());
    }

    /// The cleaner: removes a batch of which nothing is left.
    pub(crate) fn remove_batch(&mut self, partition: &Partition, base_offset: u64) {
        self.delete(
            KeyKind::Batch,
            batch::key(partition.topic_id(), partition.index(), base_offset),
        );
    }

    /// The cleaner: notes by how much its rewriting has changed the size of the partition, usually
    /// a negative number. (Times to drop tombstones can make a batch a little larger.)
    pub(crate) fn resize_partition(&mut self, partition: &Arc<Partition>, by_bytes: i64) {
        self.heads.push(HeadChange::Resize {
            partition: Arc::clone(partition),
            by_bytes,
        });
    }

    /// The cleaner: notes how far it has come.
    pub(crate) fn mark_cleaned(&mut self, partition: &Arc<Partition>, mark: CleanMark) {
        self.heads.push(HeadChange::Clean {
            partition: Arc::clone(partition),
            mark,
        });
    }

    pub(crate) fn put(&mut self, kind: KeyKind, key: impl AsRef<[u8]>, value: Bytes) {
        debug_assert!(is_of_kind(kind, key.as_ref()), "{kind:?}");
        let key = Bytes::copy_from_slice(key.as_ref());
        self.bytes += key.len() + value.len();
        self.writes.push(Write::Put { key, value });
    }

    /// Puts an entry that no version writes.
    #[cfg(test)]
    pub(crate) fn put_of_no_kind(&mut self, key: impl AsRef<[u8]>, value: Bytes) {
        let key = Bytes::copy_from_slice(key.as_ref());
        self.writes.push(Write::Put { key, value });
    }

    pub(super) fn merge(&mut self, kind: KeyKind, key: impl AsRef<[u8]>, value: Bytes) {
        debug_assert!(is_of_kind(kind, key.as_ref()), "{kind:?}");
        let key = Bytes::copy_from_slice(key.as_ref());
        self.bytes += key.len() + value.len();
        self.writes.push(Write::Merge { key, value });
    }

    pub(crate) fn delete(&mut self, kind: KeyKind, key: impl AsRef<[u8]>) {
        debug_assert!(is_of_kind(kind, key.as_ref()), "{kind:?}");
        let key = Bytes::copy_from_slice(key.as_ref());
        self.bytes += key.len();
        self.writes.push(Write::Delete { key });
    }

    pub(super) fn delete_range(
        &mut self,
        kind: KeyKind,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
    ) {
        assert!(is_within_kind(kind, from.as_ref(), to.as_ref()), "{kind:?}");
        let (from, to) = (
            Bytes::copy_from_slice(from.as_ref()),
            Bytes::copy_from_slice(to.as_ref()),
        );
        self.bytes += from.len() + to.len();
        self.writes.push(Write::DeleteRange { from, to });
    }
}

/// Whether a range holds keys of a kind alone: the next kind begins where it ends.
fn is_within_kind(kind: KeyKind, from: &[u8], to: &[u8]) -> bool {
    let end = prefix_end(&kind_prefix(kind));
    is_of_kind(kind, from) && (is_of_kind(kind, to) || end.as_deref() == Some(to))
}

/// What a commit brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The base offset of each append, in the order of the commit.
    pub base_offsets: Vec<u64>,
}

/// A commit on its way; resolves once it is acknowledged under its durability.
#[derive(Debug)]
pub struct PendingCommit(pub(super) oneshot::Receiver<Result<Committed, Error>>);

impl PendingCommit {
    /// Waits for the acknowledgement.
    pub async fn wait(mut self) -> Result<Committed, Error> {
        self.acknowledged().await
    }

    /// As [`wait`](Self::wait), and can be waited for again if this future is dropped before it is done.
    pub async fn acknowledged(&mut self) -> Result<Committed, Error> {
        (&mut self.0).await.unwrap_or(Err(Error::Closed))
    }
}
