//! Reads which records of a task are parked when it starts, without reading them all.
//!
//! Of a large group the first record is read, and the last one, which lead from group to group; how many there are
//! between them is stored (`counts.rs`). Where that is missing or was not kept up, and of small groups, they are counted.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::super::recent::Recent;
use super::{FIRST_RUN, Group, GroupId, MAX_GROUPS, Parked};
use crate::storage::schema::parked::{self, KEY_LEN_BYTES, ParkedRecord};
use crate::storage::schema::parked_group::{self, ParkedGroup};
use crate::storage::schema::{KeyKind, prefix_end};
use crate::storage::{Error, Scan, Step, Store};

/// A group that is being read.
struct Reading {
    id: GroupId,
    first: ParkedRecord,
    first_sequence: u64,
    /// What was read of it so far.
    counted: ParkedGroup,
    /// What is stored of it, until its last record is known.
    stored: Option<ParkedGroup>,
}

impl Parked {
    /// Reads which records of a task are parked. What a trial has held is due at once.
    pub(in crate::pipeline) fn open(
        store: Store,
        pipeline_id: u32,
        task: u32,
    ) -> Result<Self, Error> {
        let (opened, read_count) = Self::read(store, pipeline_id, task)?;
        let (records, groups) = (opened.len(), opened.group_count());
        tracing::debug!(
            pipeline_id,
            task,
            records,
            groups,
            read_count,
            "read which records are parked"
        );
        Ok(opened)
    }

    /// As [`open`](Self::open); and how many entries were read for it.
    pub(super) fn read(store: Store, pipeline_id: u32, task: u32) -> Result<(Self, u64), Error> {
        let mut opened = Self {
            store: store.clone(),
            pipeline_id,
            task,
            groups: HashMap::new(),
            due: BTreeSet::new(),
            leaving: HashMap::new(),
            count: 0,
            taken_at_ms: 0,
            max_groups: max_groups(),
            recent_bytes: 0,
            next_sequence: 0,
            inputs: BTreeSet::new(),
            holding_until_ms: None,
        };
        let stored = stored_groups(&store, pipeline_id, task)?;
        let mut read_count = stored.len() as u64;
        let mut reading: Option<Reading> = None;
        let (from, to) = task_range(pipeline_id, task);
        let range = (&from[..], Some(&to[..]));
        let first = Step::To(from.to_vec());
        store.walk(KeyKind::Parked, range, first, |key, value| {
            read_count += 1;
            let (_, _, id, sequence) = parked::parse_key(key).ok_or_else(parked::damaged)?;
            let record = parked::read(value)?;
            opened.inputs.insert(record.input);
            if let Some(of) = &mut reading
                && of.id == id
            {
                return Ok(of.read(pipeline_id, task, sequence, &record));
            }
            if let Some(of) = reading.take() {
                opened.take_in(of);
            }
            let of = reading.insert(Reading::begin(id, sequence, record, stored.get(&id)));
            Ok(match of.stored {
                Some(_) => Step::LastTo(parked::key(pipeline_id, task, id, u64::MAX).to_vec()),
                None => Step::Next,
            })
        })?;
        if let Some(of) = reading {
            opened.take_in(of);
        }
        Ok((opened, read_count))
    }

    fn take_in(&mut self, read: Reading) {
        let (id, first, of) = (read.id, &read.first, read.counted);
        let due_ms = match first.is_held() {
            true => 0,
            false => first.due_ms,
        };
        self.count += of.record_count;
        self.next_sequence = self.next_sequence.max(of.last_sequence.saturating_add(1));
        self.inputs
            .extend(of.inputs.numbers().into_iter().flatten());
        self.due.insert((due_ms, id));
        let group = Group {
            due_ms,
            has_faulted: first.has_faulted,
            first_sequence: read.first_sequence,
            last_sequence: of.last_sequence,
            stored: of,
            max_run: FIRST_RUN,
            recent: Recent::default(),
            has_all_recent: false,
        };
        self.groups.insert(id, group);
    }
}

impl Reading {
    fn begin(
        id: GroupId,
        sequence: u64,
        first: ParkedRecord,
        stored: Option<&ParkedGroup>,
    ) -> Self {
        let mut counted = ParkedGroup::default();
        counted.add(sequence, first.input, first.record.base_offset());
        // Inputs that are not told apart would have to be looked for.
        let stored = stored.filter(|stored| stored.inputs.numbers().is_some());
        Self {
            id,
            first,
            first_sequence: sequence,
            counted,
            stored: stored.copied(),
        }
    }

    /// Takes in another record of the group: its last one, if what is stored of it is not known to be true yet.
    fn read(&mut self, pipeline_id: u32, task: u32, sequence: u64, record: &ParkedRecord) -> Step {
        match self.stored.take() {
            Some(stored) if stored.last_sequence == sequence => {
                self.counted = stored;
                Step::Next
            }
            Some(_) if sequence > self.first_sequence => {
                // It was not kept up: back, to count them.
                Step::To(parked::key(pipeline_id, task, self.id, self.first_sequence + 1).into())
            }
            Some(_) => Step::Next,
            None => {
                let offset = record.record.base_offset();
                self.counted.add(sequence, record.input, offset);
                Step::Next
            }
        }
    }
}

/// What is stored of the large groups of a task.
fn stored_groups(
    store: &Store,
    pipeline_id: u32,
    task: u32,
) -> Result<HashMap<GroupId, ParkedGroup>, Error> {
    let mut stored = HashMap::new();
    let from = parked_group::task_prefix(pipeline_id, task);
    let to = prefix_end(&from);
    store.scan(KeyKind::ParkedGroup, &from, to.as_deref(), |key, value| {
        let (_, _, id) = parked_group::parse_key(key).ok_or_else(parked::damaged)?;
        let group = parked_group::parse_value(value).ok_or_else(parked::damaged)?;
        stored.insert(id, group);
        Ok(Scan::Continue)
    })?;
    Ok(stored)
}

/// The first key that a parked record of a task can have, and the last one.
pub(super) fn task_range(
    pipeline_id: u32,
    task: u32,
) -> ([u8; KEY_LEN_BYTES], [u8; KEY_LEN_BYTES]) {
    let from = parked::key(pipeline_id, task, 0, 0);
    (from, parked::key(pipeline_id, task, u64::MAX, u64::MAX))
}

/// Groups of a task from which on it takes no new records.
fn max_groups() -> usize {
    // Tests need not fill so much memory.
    fail::fail_point!("retry::max-groups", |groups| {
        let groups = groups.and_then(|groups| groups.parse().ok());
        groups.unwrap_or(MAX_GROUPS)
    });
    MAX_GROUPS
}
