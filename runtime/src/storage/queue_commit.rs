//! Changes of queues in a commit.

use super::Commit;
use super::schema::queue_chunk::Chunk;
use super::schema::{KeyKind, deduplication, queue, queue_chunk};

impl Commit {
    /// Sets a queue's entry.
    pub(crate) fn put_queue(&mut self, queue_id: u32, value: Vec<u8>) {
        self.put(KeyKind::Queue, queue::key(queue_id), value.into());
    }

    /// Merges a change into a chunk.
    pub(crate) fn merge_queue_chunk(&mut self, queue_id: u32, chunk: u64, change: &Chunk) {
        let value = queue_chunk::value(change);
        self.merge(
            KeyKind::QueueChunk,
            queue_chunk::key(queue_id, chunk),
            value.into(),
        );
    }

    /// Removes the chunks `from <= chunk < to`.
    pub(crate) fn delete_queue_chunks(&mut self, queue_id: u32, from: u64, to: u64) {
        self.delete_range(
            KeyKind::QueueChunk,
            queue_chunk::key(queue_id, from),
            queue_chunk::key(queue_id, to),
        );
    }

    /// Remembers deduplication ids that were enqueued together.
    pub(crate) fn put_deduplication(
        &mut self,
        queue_id: u32,
        enqueued_at_ms: u64,
        sequence: u64,
        hashes: &[u128],
    ) {
        self.put(
            KeyKind::Deduplication,
            deduplication::key(queue_id, enqueued_at_ms, sequence),
            deduplication::value(hashes).into(),
        );
    }

    /// Forgets the deduplication ids enqueued at `from_ms <= time < to_ms`.
    pub(crate) fn delete_deduplication(&mut self, queue_id: u32, from_ms: u64, to_ms: u64) {
        self.delete_range(
            KeyKind::Deduplication,
            deduplication::key(queue_id, from_ms, 0),
            deduplication::key(queue_id, to_ms, 0),
        );
    }
}
