//! Topics, queues, pipelines, partition heads, committed offsets and what was deployed: everything of the region
//! `meta`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::place;
use super::problem::{Problem, ProblemKind};
use super::walk::{self, Visit};
use super::{Counts, Report, deployed};
use crate::log::{Cleanup, StoredTopic};
use crate::model::PipelineName;
use crate::queue::StoredQueue;
use crate::storage::ReadOnlyStore;
use crate::storage::schema::partition_head::{self, PartitionHead};
use crate::storage::schema::{
    KeyKind, Region, deduplication, group_gaps, group_offset, pipeline, queue, topic,
};

/// What there is, for looking up what the rest belongs to.
#[derive(Default)]
pub(super) struct Catalog {
    pub(super) topics: BTreeMap<u32, StoredTopic>,
    pub(super) queues: BTreeMap<u32, StoredQueue>,
    pub(super) heads: BTreeMap<(u32, u32), PartitionHead>,
    /// Names by id.
    pipelines: BTreeMap<u32, String>,
    /// Set if the region could not be read as a whole: then nothing is said about what is missing.
    pub(super) is_incomplete: bool,
}

/// What counts here of a pipeline's entry.
#[derive(Deserialize)]
struct PipelineEntry {
    id: u32,
}

/// What a topic's or queue's id stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// There is such a topic, and whether the cleaner makes gaps in it.
    Topic { partitions: u32, is_compacted: bool },
    /// There is such a queue.
    Queue,
    /// It has been deleted.
    Deleted,
    /// There is, and was, no such thing.
    Nothing,
}

impl Catalog {
    pub(super) fn owner(&self, id: u32) -> Owner {
        match (self.topics.get(&id), self.queues.get(&id)) {
            (Some(topic), _) if topic.deleted => Owner::Deleted,
            (Some(topic), _) => Owner::Topic {
                partitions: topic.config.partitions,
                is_compacted: topic.config.cleanup == Cleanup::Compact,
            },
            (None, Some(queue)) if queue.deleted => Owner::Deleted,
            (None, Some(_)) => Owner::Queue,
            (None, None) => Owner::Nothing,
        }
    }

    /// Whether there is a partition of this id and index.
    pub(super) fn has_partition(&self, id: u32, index: u32) -> bool {
        match self.owner(id) {
            Owner::Topic { partitions, .. } => index < partitions,
            Owner::Queue => index == 0,
            Owner::Deleted | Owner::Nothing => false,
        }
    }

    pub(super) fn topic_name(&self, id: u32) -> String {
        match self.topics.get(&id) {
            Some(topic) => topic.name.to_string(),
            None => format!("with the id {id}"),
        }
    }

    pub(super) fn has_pipeline(&self, id: u32) -> bool {
        self.pipelines.contains_key(&id)
    }

    pub(super) fn pipeline_name(&self, id: u32) -> String {
        match self.pipelines.get(&id) {
            Some(name) => name.clone(),
            None => format!("with the id {id}"),
        }
    }
}

/// Reads the catalogue, and then looks at what refers to it.
pub(super) fn read(
    store: &ReadOnlyStore,
    components: Option<&Path>,
    report: &mut Report,
) -> Catalog {
    let mut catalog = Catalog::default();
    let nothing = Catalog::default();
    walk::region(store, Region::Meta, &nothing, report, |visit, report| {
        match visit {
            Visit::Entry(key, value) => {
                if let Err(problem) = catalog.take(key, value) {
                    // What refers to it would seem to belong nowhere.
                    catalog.is_incomplete = true;
                    report.problems.add(problem.at(key, &catalog));
                }
            }
            Visit::Gap => catalog.is_incomplete = true,
        };
    });
    catalog.count(&mut report.counts);
    // What cannot be read has been said: the second time it is only passed over.
    let mut referring = Report::default();
    walk::region(store, Region::Meta, &catalog, &mut referring, |visit, _| {
        let Visit::Entry(key, value) = visit else {
            return;
        };
        let counts = &mut report.counts;
        let looked_at = match key.first() {
            Some(kind) if deployed::is_about(*kind) => {
                deployed::look_at(key, value, components, counts)
            }
            _ => catalog.refers(key, value, counts),
        };
        if let Err(problem) = looked_at {
            report.problems.add(problem.at(key, &catalog));
        }
    });
    catalog
}

impl Problem {
    /// Adds the place of an entry.
    pub(super) fn at(mut self: Box<Self>, key: &[u8], catalog: &Catalog) -> Box<Self> {
        place::of_key(key, catalog, &mut self);
        self
    }
}

impl Catalog {
    /// Takes an entry in that others refer to.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Box<Problem>> {
        let malformed = |what: &str, reason: String| {
            Problem::new(
                ProblemKind::Entry,
                format!("the entry of a {what} is malformed: {reason}"),
            )
        };
        let kind = key.first().copied();
        if kind == Some(KeyKind::Topic as u8) {
            let id = topic::parse_key(key).ok_or_else(malformed_key)?;
            let stored = serde_json::from_slice(value)
                .map_err(|error| malformed("topic", error.to_string()))?;
            self.topics.insert(id, stored);
        } else if kind == Some(KeyKind::Queue as u8) {
            let id = queue::parse_key(key).ok_or_else(malformed_key)?;
            let stored = serde_json::from_slice(value)
                .map_err(|error| malformed("queue", error.to_string()))?;
            self.queues.insert(id, stored);
        } else if kind == Some(KeyKind::PartitionHead as u8) {
            let at = partition_head::parse_key(key).ok_or_else(malformed_key)?;
            let head = partition_head::parse_value(value).ok_or_else(|| {
                let reason = format!("a partition's head has {} bytes", value.len());
                Problem::new(ProblemKind::Head, reason)
            })?;
            if head.start_offset > head.next_offset {
                let (start, next) = (head.start_offset, head.next_offset);
                let reason = format!("the partition starts at {start}, after its end at {next}");
                return Err(Problem::new(ProblemKind::Head, reason));
            }
            self.heads.insert(at, head);
        } else if kind == Some(KeyKind::Pipeline as u8) {
            let name = pipeline::parse_key(key).ok_or_else(malformed_key)?;
            if let Err(error) = name.parse::<PipelineName>() {
                return Err(malformed("pipeline", error.to_string()));
            }
            let entry: PipelineEntry = serde_json::from_slice(value)
                .map_err(|error| malformed("pipeline", error.to_string()))?;
            if let Some(other) = self.pipelines.insert(entry.id, name.to_owned()) {
                let id = entry.id;
                let reason = format!("pipeline {other} has the id {id}, too");
                return Err(Problem::new(ProblemKind::Entry, reason));
            }
        }
        Ok(())
    }

    fn count(&self, counts: &mut Counts) {
        counts.topics = self.topics.values().filter(|topic| !topic.deleted).count() as u64;
        counts.queues = self.queues.values().filter(|queue| !queue.deleted).count() as u64;
        counts.pipelines = self.pipelines.len() as u64;
        counts.partitions = self.heads.len() as u64;
    }

    /// Looks at an entry that refers to others.
    fn refers(&self, key: &[u8], value: &[u8], counts: &mut Counts) -> Result<(), Box<Problem>> {
        let kind = key.first().copied();
        let is = |wanted: KeyKind| kind == Some(wanted as u8);
        if is(KeyKind::Topic) || is(KeyKind::Queue) || is(KeyKind::Pipeline) {
            return Ok(());
        }
        if is(KeyKind::PartitionHead) {
            let Some((id, index)) = partition_head::parse_key(key) else {
                return Ok(());
            };
            return self.belongs(id, index);
        }
        if is(KeyKind::GroupOffset) {
            counts.group_offsets += 1;
            let (_, id, index) = group_offset::parse_key(key).ok_or_else(malformed_key)?;
            let committed = group_offset::parse_value(value).ok_or_else(|| {
                let reason = format!("a committed offset has {} bytes", value.len());
                Problem::new(ProblemKind::GroupOffset, reason)
            })?;
            return self.within(id, index, committed.offset);
        }
        if is(KeyKind::GroupGaps) {
            let (_, id, index, _) = group_gaps::parse_key(key).ok_or_else(malformed_key)?;
            let ranges = group_gaps::parse_value(value).ok_or_else(|| {
                let reason = "the processed offsets beyond the committed one are malformed";
                Problem::new(ProblemKind::GroupOffset, reason)
            })?;
            let end = ranges.last().map_or(0, |range| range.end);
            return self.within(id, index, end);
        }
        if is(KeyKind::Deduplication) {
            counts.deduplication_entries += 1;
            let (id, _, _) = deduplication::parse_key(key).ok_or_else(malformed_key)?;
            if deduplication::parse_value(value).is_none() {
                let reason = "remembered deduplication ids are malformed";
                return Err(Problem::new(ProblemKind::QueueChunk, reason));
            }
            return self.belongs(id, 0);
        }
        Err(malformed_key())
    }

    /// That there is the partition that an entry is about.
    fn belongs(&self, id: u32, index: u32) -> Result<(), Box<Problem>> {
        if self.is_incomplete || self.has_partition(id, index) {
            return Ok(());
        }
        let reason = "there is no such topic or queue, or it has fewer partitions";
        Err(Problem::new(ProblemKind::Orphan, reason))
    }

    /// That a group has not come further than the partition.
    fn within(&self, id: u32, index: u32, offset: u64) -> Result<(), Box<Problem>> {
        // What a group had in a topic that was deleted may have stayed; nobody reads it.
        if self.is_incomplete || self.owner(id) == Owner::Deleted {
            return Ok(());
        }
        self.belongs(id, index)?;
        let head = self.heads.get(&(id, index)).copied().unwrap_or_default();
        if offset > head.next_offset {
            let end = head.next_offset;
            let reason =
                format!("the group has come to offset {offset}, the partition ends at {end}");
            let mut problem = Problem::new(ProblemKind::GroupOffset, reason);
            problem.offset = Some(offset);
            return Err(problem);
        }
        Ok(())
    }
}

pub(super) fn malformed_key() -> Box<Problem> {
    Problem::new(
        ProblemKind::Key,
        "the key is of no kind that this version knows, or malformed",
    )
}
