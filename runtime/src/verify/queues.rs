//! What is known of the messages of queues.

use std::ops::Range;

use super::Report;
use super::catalog::{Catalog, Owner, malformed_key};
use super::place;
use super::problem::{Problem, ProblemKind};
use super::walk::{self, Visit};
use crate::storage::ReadOnlyStore;
use crate::storage::schema::positions::CHUNK_MESSAGES;
use crate::storage::schema::queue_chunk::{self, Chunk};
use crate::storage::schema::{KeyKind, Region};

/// Looks at all chunks.
pub(super) fn look_at(store: &ReadOnlyStore, catalog: &Catalog, report: &mut Report) {
    walk::region(store, Region::Queues, catalog, report, |visit, report| {
        if let Visit::Entry(key, value) = visit {
            report.counts.queue_chunks += 1;
            if let Err(problem) = chunk(key, value, catalog) {
                report.problems.add(problem.at(key, catalog));
            }
        }
    });
}

/// Looks at what lies between two batches: only messages that are done with may be missing.
pub(super) fn look_at_hole(
    store: &ReadOnlyStore,
    id: u32,
    hole: &Range<u64>,
    catalog: &Catalog,
    report: &mut Report,
) {
    let numbers = hole.start / CHUNK_MESSAGES..=hole.end.saturating_sub(1) / CHUNK_MESSAGES;
    for number in numbers {
        let key = queue_chunk::key(id, number);
        // That it is malformed, or cannot be read, is said of the chunk itself.
        let chunk = match store.get(KeyKind::QueueChunk, &key) {
            Ok(Some(value)) => queue_chunk::parse_value(&value),
            Ok(None) => Some(Chunk::default()),
            Err(_) => None,
        };
        let Some(chunk) = chunk else { continue };
        let first = number * CHUNK_MESSAGES;
        let from = hole.start.max(first);
        let to = hole.end.min(first + CHUNK_MESSAGES);
        // Below 1,024.
        let missing = (from..to).find(|at| !chunk.acknowledged.contains((at - first) as usize));
        if let Some(offset) = missing {
            let reason = format!(
                "there are no batches from offset {} up to {}, and the message at {offset} is not done with",
                hole.start, hole.end
            );
            let mut problem = Problem::new(ProblemKind::Offsets, reason);
            place::of_partition(id, 0, catalog, &mut problem);
            problem.offset = Some(hole.start);
            report.problems.add(problem);
            return;
        }
    }
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
    let given_back = chunk.given_back.keys().last();
    let last = acknowledged.max(delivered).max(
        exception
            .max(given_back)
            .map(|position| usize::from(*position)),
    )?;
    Some(
        number
            .saturating_mul(CHUNK_MESSAGES)
            .saturating_add(last as u64),
    )
}
