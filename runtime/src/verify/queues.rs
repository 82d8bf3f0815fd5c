//! What is known of the messages of queues.

use super::Report;
use super::catalog::{Catalog, Owner, malformed_key};
use super::problem::{Problem, ProblemKind};
use super::walk::{self, Visit};
use crate::storage::ReadOnlyStore;
use crate::storage::schema::Family;
use crate::storage::schema::positions::CHUNK_MESSAGES;
use crate::storage::schema::queue_chunk::{self, Chunk};

/// Looks at all chunks.
pub(super) fn look_at(store: &ReadOnlyStore, catalog: &Catalog, report: &mut Report) {
    walk::family(store, Family::Queue, catalog, report, |visit, report| {
        if let Visit::Entry(key, value) = visit {
            report.counts.queue_chunks += 1;
            if let Err(problem) = chunk(key, value, catalog) {
                report.problems.add(problem.at(key, catalog));
            }
        }
    });
}

fn chunk(key: &[u8], value: &[u8], catalog: &Catalog) -> Result<(), Box<Problem>> {
    let (id, number) = queue_chunk::parse_key(key).ok_or_else(malformed_key)?;
    let chunk = queue_chunk::parse_value(value).ok_or_else(|| {
        let reason = "what is known of these 1,024 messages is malformed";
        Problem::new(ProblemKind::QueueChunk, reason)
    })?;
    if catalog.is_incomplete {
        return Ok(());
    }
    if catalog.owner(id) != Owner::Queue {
        let reason = "there is no queue of this id";
        return Err(Problem::new(ProblemKind::Orphan, reason));
    }
    let head = catalog.heads.get(&(id, 0)).copied().unwrap_or_default();
    let Some(last) = last_message(number, &chunk) else {
        return Ok(());
    };
    if last >= head.next_offset {
        let end = head.next_offset;
        let reason = format!("it tells of the message at offset {last}, the queue ends at {end}");
        return Err(Problem::new(ProblemKind::QueueChunk, reason));
    }
    Ok(())
}

/// The offset of the last message that a chunk tells of.
fn last_message(number: u64, chunk: &Chunk) -> Option<u64> {
    let acknowledged = chunk.acknowledged.iter().last();
    let delivered = chunk.delivered.iter().last();
    let exception = chunk.exceptions.keys().last();
    let last = acknowledged
        .max(delivered)
        .max(exception.map(|position| usize::from(*position)))?;
    Some(
        number
            .saturating_mul(CHUNK_MESSAGES)
            .saturating_add(last as u64),
    )
}
