//! Where an entry belongs, from its key.

use std::fmt::Write as _;

use super::catalog::Catalog;
use super::problem::Problem;
use crate::storage::schema::{
    batch, changelog, deduplication, group_gaps, group_offset, parked, parked_group,
    partition_head, pipeline, queue, queue_chunk, state, timer, topic,
};

/// Adds to a problem what a key says about its place.
pub(super) fn of_key(key: &[u8], catalog: &Catalog, problem: &mut Problem) {
    if !key.is_empty() {
        problem.key = Some(hexadecimal(key));
    }
    if let Some((id, index, offset)) = batch::parse(key) {
        of_partition(id, index, catalog, problem);
        problem.offset = Some(offset);
    } else if let Some((id, index)) = partition_head::parse_key(key) {
        of_partition(id, index, catalog, problem);
    } else if let Some((group, id, index)) = group_offset::parse_key(key) {
        problem.group = Some(group.to_owned());
        of_partition(id, index, catalog, problem);
    } else if let Some((group, id, index, _)) = group_gaps::parse_key(key) {
        problem.group = Some(group.to_owned());
        of_partition(id, index, catalog, problem);
    } else if let Some(id) = topic::parse_key(key).or_else(|| queue::parse_key(key)) {
        of_id(id, catalog, problem);
    } else if let Some((id, _, _)) = deduplication::parse_key(key) {
        of_id(id, catalog, problem);
    } else if let Some((id, chunk)) = queue_chunk::parse_key(key) {
        of_id(id, catalog, problem);
        problem.offset =
            Some(chunk.saturating_mul(crate::storage::schema::positions::CHUNK_MESSAGES));
    } else if let Some(name) = pipeline::parse_key(key) {
        problem.pipeline = Some(name.to_owned());
    } else if let Some((id, task)) = task_of(key) {
        problem.pipeline = Some(catalog.pipeline_name(id));
        problem.partition = Some(task);
    }
}

/// Pipeline id and task of a key that belongs to a task.
pub(super) fn task_of(key: &[u8]) -> Option<(u32, u32)> {
    let changelog = changelog::parse_key(key).map(|(id, task, _)| (id, task));
    let state = state::parse_key(key).map(|(id, task, _)| (id, task));
    let parked = parked::parse_key(key).map(|(id, task, ..)| (id, task));
    let group = parked_group::parse_key(key).map(|(id, task, _)| (id, task));
    let timer = timer::parse_key(key).map(|(id, task, ..)| (id, task));
    changelog.or(state).or(parked).or(group).or(timer)
}

/// Adds the partition with this id and index to a problem.
pub(super) fn of_partition(id: u32, index: u32, catalog: &Catalog, problem: &mut Problem) {
    of_id(id, catalog, problem);
    problem.partition = Some(index);
}

fn of_id(id: u32, catalog: &Catalog, problem: &mut Problem) {
    match catalog.queues.get(&id) {
        Some(queue) => problem.queue = Some(queue.name.to_string()),
        None => problem.topic = Some(catalog.topic_name(id)),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
