//! The live part of a partition: where it starts and ends, its tail, and who waits for its end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::schema::partition_head::PartitionHead;
use super::tail::Tail;
use crate::model::{RecordBatch, Target};

/// One partition of a topic, or the one of a queue. Only the commit thread changes it.
#[derive(Debug)]
pub struct Partition {
    /// Whose it is, for messages.
    target: Target,
    topic_id: u32,
    index: u32,
    start_offset: AtomicU64,
    high_watermark: AtomicU64,
    size_bytes: AtomicU64,
    cleaning: Mutex<CleanMark>,
    deleted: AtomicBool,
    tail: Mutex<Tail>,
    appended: Notify,
}

/// How far the cleaner has come in a partition of a compacted topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanMark {
    /// Offsets below hold the newest value of each key only.
    pub offset: u64,
    /// Bytes of the batches below `offset`.
    pub bytes: u64,
    /// When the first of the tombstones below `offset` may go, in ms since the epoch; 0 = none.
    pub tombstones_due_ms: u64,
}

impl CleanMark {
    fn of(head: &PartitionHead) -> Self {
        Self {
            offset: head.cleaned_offset,
            bytes: head.cleaned_bytes,
            tombstones_due_ms: head.tombstones_due_ms,
        }
    }

    /// A head with these fields set.
    fn to_head(self) -> PartitionHead {
        let mut head = PartitionHead::default();
        self.write_to(&mut head);
        head
    }

    pub(super) fn write_to(self, head: &mut PartitionHead) {
        head.cleaned_offset = self.offset;
        head.cleaned_bytes = self.bytes;
        head.tombstones_due_ms = self.tombstones_due_ms;
    }
}

impl Partition {
    pub(crate) fn new(target: Target, topic_id: u32, index: u32, head: PartitionHead) -> Self {
        Self {
            target,
            topic_id,
            index,
            start_offset: AtomicU64::new(head.start_offset),
            high_watermark: AtomicU64::new(head.next_offset),
            size_bytes: AtomicU64::new(head.size_bytes),
            cleaning: Mutex::new(CleanMark::of(&head)),
            deleted: AtomicBool::new(false),
            tail: Mutex::default(),
            appended: Notify::new(),
        }
    }

    /// The topic or queue whose partition it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The id of the partition's topic.
    pub fn topic_id(&self) -> u32 {
        self.topic_id
    }

    /// The partition's number in its topic.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The first offset that can still be read.
    pub fn start_offset(&self) -> u64 {
        self.start_offset.load(Ordering::Acquire)
    }

    /// The offset after the last committed record.
    pub fn high_watermark(&self) -> u64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// Offsets from one on that can still be read; what retention has removed does not count.
    pub fn count_from(&self, offset: u64) -> u64 {
        let from = offset.max(self.start_offset());
        self.high_watermark().saturating_sub(from)
    }

    /// Bytes of all stored batches.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Compacted topics: how far the cleaner has come.
    pub fn clean_mark(&self) -> CleanMark {
        *self.cleaning.lock()
    }

    /// Whether the topic has been deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Waits until the high watermark is beyond `offset`, or the topic is deleted.
    pub async fn wait_beyond(&self, offset: u64) {
        loop {
            let appended = self.appended.notified();
            tokio::pin!(appended);
            // Registered before the check: an append in between is not missed.
            appended.as_mut().enable();
            if self.high_watermark() > offset || self.is_deleted() {
                return;
            }
            appended.await;
        }
    }

    /// What is written beside the batches.
    pub(super) fn head(&self) -> PartitionHead {
        PartitionHead {
            start_offset: self.start_offset(),
            next_offset: self.high_watermark(),
            size_bytes: self.size_bytes(),
            ..self.clean_mark().to_head()
        }
    }

    /// Makes committed batches and a new head visible, and wakes who waits for them.
    pub(super) fn publish(&self, head: &PartitionHead, batches: impl Iterator<Item = RecordBatch>) {
        {
            let mut tail = self.tail.lock();
            for batch in batches {
                tail.push(batch);
            }
        }
        self.size_bytes.store(head.size_bytes, Ordering::Relaxed);
        *self.cleaning.lock() = CleanMark::of(head);
        self.start_offset
            .store(head.start_offset, Ordering::Release);
        let before = self.high_watermark.swap(head.next_offset, Ordering::AcqRel);
        if head.next_offset > before {
            self.appended.notify_waiters();
        }
    }

    pub(super) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.tail.lock().clear();
        self.appended.notify_waiters();
    }

    pub(super) fn evict_oldest_of_tail(&self) {
        self.tail.lock().evict_oldest();
    }

    /// Reads from the tail, see [`Tail::read`]. `false` if it does not reach back to `offset`.
    pub(super) fn read_tail(
        &self,
        offset: u64,
        end: u64,
        max_bytes: usize,
        into: &mut Vec<RecordBatch>,
    ) -> bool {
        self.tail.lock().read(offset, end, max_bytes, into)
    }
}
