//! The parked records of a task: what is stored, and in memory who is due when.
//!
//! Memory holds one entry for each group, not for each record, so that a key which fails for hours
//! takes no more of it however many records queue up behind. The records themselves lie in the store; the
//! first ones of a group are kept in memory besides (`recent.rs`), since most are tried again soon.
//!
//! A task that starts reads the first record of each group, not all of them (`parked/opening.rs`). How many there are is
//! stored apart (`parked/counts.rs`), and shown: what is tried next, and whether a group has more, never depends on it.

mod counts;
mod lookup;
mod opening;

use std::collections::BTreeSet;

use hashbrown::HashMap;

pub(in crate::pipeline) use self::counts::parked_count;
pub(in crate::pipeline) use self::lookup::Further;
use super::GroupId;
use super::recent::{Head, Recent};
use crate::storage::schema::parked::ParkedRecord;
use crate::storage::schema::parked_group::{InputSet, ParkedGroup};
use crate::storage::{Commit, Error, Scan, Store};

/// Groups of a task from which on it takes no new records until some are done: what is in memory of them then takes
/// about 150 MB.
const MAX_GROUPS: usize = 900_000;
/// Records of a group that are tried in one call after the first failure of it.
const FIRST_RUN: u32 = 16;
/// Bytes of parked records that a task keeps in memory besides the store.
const MAX_RECENT_BYTES: usize = 8 << 20;

/// The parked records of a task.
pub(in crate::pipeline) struct Parked {
    store: Store,
    pipeline_id: u32,
    task: u32,
    groups: HashMap<GroupId, Group>,
    /// Groups by the time at which their first record is due.
    due: BTreeSet<(u64, GroupId)>,
    /// Groups of which nothing is parked any more, until the commits are on their way that say so.
    leaving: HashMap<GroupId, ParkedGroup>,
    count: u64,
    /// When records were taken last, in ms since the epoch.
    taken_at_ms: u64,
    max_groups: usize,
    /// Bytes of the records that are in memory.
    recent_bytes: usize,
    next_sequence: u64,
    /// The numbers of the inputs that records came from when this was opened.
    inputs: BTreeSet<u32>,
    /// Until when the trial that is under way holds records, in ms since the epoch. What another one has held is
    /// due.
    holding_until_ms: Option<u64>,
}

struct Group {
    /// When its first record is due, in ms since the epoch.
    due_ms: u64,
    /// Whether its first record has faulted, so that it is tried alone.
    has_faulted: bool,
    /// None of its records lies before this.
    first_sequence: u64,
    /// The place of its last record.
    last_sequence: u64,
    /// How much of it is parked, as of the commits that are on their way or stored.
    stored: ParkedGroup,
    /// How many of its records are tried in one call at most. Those behind one that fails again have run for
    /// nothing, so it halves with each failure, and grows by each record that goes through: otherwise a key of
    /// which every record fails once would cost a whole batch for each of them.
    max_run: u32,
    /// Its first records, if they are in memory.
    recent: Recent,
    /// Whether these are all.
    has_all_recent: bool,
}

/// Why a task takes no new records for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pipeline) enum NoRoom {
    /// Too many groups are parked.
    Groups,
    /// The disk runs low.
    Disk,
}

/// A parked record that is due, and where it lies.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct Waiting {
    pub(in crate::pipeline) group: GroupId,
    pub(in crate::pipeline) sequence: u64,
    pub(in crate::pipeline) parked: ParkedRecord,
}

impl Parked {
    pub(in crate::pipeline) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The numbers of the inputs that records came from, as of the start; and perhaps of some of which there is none
    /// any more.
    pub(in crate::pipeline) fn inputs(&self) -> &BTreeSet<u32> {
        &self.inputs
    }

    /// The inputs that the records of a group came from, as of the start; and perhaps some of which there is none any
    /// more.
    pub(in crate::pipeline) fn inputs_of(&self, group: GroupId) -> InputSet {
        let of = self.groups.get(&group);
        of.map(|of| of.stored.inputs).unwrap_or_default()
    }

    /// How many records are parked, as of the commits that are [complete](Self::complete).
    pub(in crate::pipeline) fn len(&self) -> u64 {
        self.count
    }

    /// How many groups they are of.
    pub(in crate::pipeline) fn group_count(&self) -> u64 {
        self.groups.len() as u64
    }

    /// Why the task must not take new records, so that what is parked stays within bounds: memory that of groups, the
    /// disk that of records.
    pub(in crate::pipeline) fn no_room(&self) -> Option<NoRoom> {
        self.no_room_after(None)
    }

    /// As [`no_room`](Self::no_room), after an earlier answer: there is room again once an eighth of the groups is done.
    pub(in crate::pipeline) fn no_room_after(&self, earlier: Option<NoRoom>) -> Option<NoRoom> {
        let max_groups = match earlier {
            Some(NoRoom::Groups) => self.max_groups - self.max_groups / 8,
            _ => self.max_groups,
        };
        if self.groups.len() >= max_groups {
            Some(NoRoom::Groups)
        } else if !self.is_empty() && self.store.is_disk_low() {
            Some(NoRoom::Disk)
        } else {
            None
        }
    }

    /// Whether a record of this group has to wait behind others.
    pub(in crate::pipeline) fn contains(&self, group: GroupId) -> bool {
        self.groups.contains_key(&group)
    }

    /// When the next record is due, in ms since the epoch.
    pub(in crate::pipeline) fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// As [`next_due_ms`](Self::next_due_ms), of the groups for which `counts`.
    pub(in crate::pipeline) fn next_due_ms_of(
        &self,
        counts: impl Fn(GroupId) -> bool,
    ) -> Option<u64> {
        let mut due = self.due.iter();
        due.find(|(_, group)| counts(*group))
            .map(|(due_ms, _)| *due_ms)
    }

    /// From now on a trial holds records until this time, in ms since the epoch: they are due then, and not before.
    pub(in crate::pipeline) fn hold(&mut self, until_ms: u64) {
        self.holding_until_ms = Some(until_ms);
    }

    /// Makes due what a trial has held, at once.
    pub(in crate::pipeline) fn release(&mut self) {
        self.holding_until_ms = None;
        // Those of which the first record is not held get their time back when it is read.
        let groups: Vec<_> = self.due.iter().map(|(_, group)| *group).collect();
        for group in groups {
            let has_faulted = self.groups.get(&group).is_some_and(|it| it.has_faulted);
            self.set_first(group, 0, has_faulted);
        }
    }

    /// Parks a record behind those of its group.
    pub(in crate::pipeline) fn park(
        &mut self,
        group: GroupId,
        record: &ParkedRecord,
        commit: &mut Commit,
    ) {
        let sequence = self.reserve(1);
        self.park_at(sequence, group, record, commit);
    }

    /// Reserves places for records that run now, in case that they have to be parked: before those that are
    /// parked from now on. Returns the first of them.
    pub(in crate::pipeline) fn reserve(&mut self, count: u64) -> u64 {
        let first = self.next_sequence;
        self.next_sequence += count;
        first
    }

    /// Parks a record in a place that was reserved.
    pub(in crate::pipeline) fn park_at(
        &mut self,
        sequence: u64,
        group: GroupId,
        record: &ParkedRecord,
        commit: &mut Commit,
    ) {
        commit.park_new(self.pipeline_id, self.task, group, sequence, record);
        self.insert(group, sequence, record);
        self.keep(group, sequence, record);
    }

    /// Keeps a record in memory that was parked now, if there is room.
    fn keep(&mut self, group: GroupId, sequence: u64, record: &ParkedRecord) {
        let Some(of) = self.groups.get_mut(&group) else {
            return;
        };
        let before = of.recent.len_bytes();
        of.has_all_recent = of.recent.keep(sequence, record, of.has_all_recent);
        self.recent_bytes = self.recent_bytes + of.recent.len_bytes() - before;
        if self.recent_bytes <= MAX_RECENT_BYTES {
            return;
        }
        // Those that are due last are needed last.
        for (_, group) in self.due.iter().rev() {
            if self.recent_bytes <= MAX_RECENT_BYTES / 2 {
                break;
            }
            if let Some(of) = self.groups.get_mut(group) {
                self.recent_bytes -= of.recent.len_bytes();
                of.recent = Recent::default();
                of.has_all_recent = false;
            }
        }
    }

    /// Whether one of the first groups that are due has its records in the store alone.
    pub(in crate::pipeline) fn is_due_in_store(&self, now_ms: u64, max_records: usize) -> bool {
        let due = self.due.iter().take(max_records);
        due.take_while(|(due_ms, _)| *due_ms <= now_ms)
            .any(|(_, group)| {
                let of = self.groups.get(group);
                of.is_none_or(|of| of.recent.is_empty())
            })
    }

    /// Parks a record of a group again in its place, after another failure.
    pub(in crate::pipeline) fn park_again(&mut self, again: &Waiting, commit: &mut Commit) {
        let Waiting {
            group,
            sequence,
            parked,
        } = again;
        commit.park(self.pipeline_id, self.task, *group, *sequence, parked);
        self.set_first(*group, parked.due_ms, parked.has_faulted);
        if let Some(of) = self.groups.get_mut(group) {
            of.max_run = (of.max_run / 2).max(1);
            let before = of.recent.len_bytes();
            of.recent.replace(*sequence, parked);
            self.recent_bytes = self.recent_bytes + of.recent.len_bytes() - before;
        }
    }

    /// Removes a record that has an outcome, the first one of its group; the next one is due at once, behind the groups
    /// that are due already: one of which much is parked leaves the others their turn.
    pub(in crate::pipeline) fn remove(&mut self, done: &Waiting, commit: &mut Commit) {
        commit.unpark(self.pipeline_id, self.task, done.group, done.sequence);
        let Some(group) = self.groups.get_mut(&done.group) else {
            return;
        };
        group.max_run = group.max_run.saturating_add(1);
        let before = group.recent.len_bytes();
        group.recent.remove(done.sequence);
        self.recent_bytes = self.recent_bytes + group.recent.len_bytes() - before;
        if done.sequence >= group.last_sequence {
            self.forget(done.group);
        } else {
            // What was removed need not be passed over again.
            group.first_sequence = done.sequence + 1;
            self.set_first(done.group, self.taken_at_ms, false);
        }
    }

    /// The records that are due, all of one input, in the order of their groups. After a record that
    /// has failed before comes none of its group, since it may fail again; one that has faulted comes
    /// alone. Groups for which `is_elsewhere` are left out. If one [is read from the
    /// store](Self::is_due_in_store) no checkpoint may be under way, so that all of it is there.
    pub(in crate::pipeline) fn take_due(
        &mut self,
        now_ms: u64,
        max_records: usize,
        max_bytes: usize,
        is_elsewhere: impl Fn(GroupId) -> bool,
    ) -> Result<Vec<Waiting>, Error> {
        self.taken_at_ms = now_ms;
        let mut taken: Vec<Waiting> = Vec::new();
        let mut bytes = 0;
        let due: Vec<GroupId> = self
            .due
            .iter()
            .take_while(|(due_ms, _)| *due_ms <= now_ms)
            .map(|(_, group)| *group)
            .filter(|group| !is_elsewhere(*group))
            .take(max_records)
            .collect();
        for group in due {
            let input = taken.first().map(|first| first.parked.input);
            let is_first = taken.is_empty();
            let has_faulted = self.groups.get(&group).is_some_and(|it| it.has_faulted);
            if has_faulted && !is_first {
                continue;
            }
            let found = self.head_of(group, max_records - taken.len(), max_bytes - bytes)?;
            let Some(head) = found.first() else {
                continue;
            };
            let is_released =
                head.parked.is_held() && self.holding_until_ms != Some(head.parked.due_ms);
            if head.parked.due_ms > now_ms && !is_released {
                let (due_ms, has_faulted) = (head.parked.due_ms, head.parked.has_faulted);
                self.set_first(group, due_ms, has_faulted);
                continue;
            }
            if head.parked.has_faulted {
                if is_first {
                    return Ok(found.into_iter().take(1).collect());
                }
                continue;
            }
            for waiting in found {
                if input.is_some_and(|input| input != waiting.parked.input) {
                    break;
                }
                bytes += waiting.parked.record.len_bytes();
                taken.push(waiting);
            }
            if taken.len() >= max_records || bytes >= max_bytes {
                break;
            }
        }
        Ok(taken)
    }

    /// The first record of a group, and, if that only waited behind others, those like it after it.
    fn head_of(
        &self,
        group: GroupId,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<Waiting>, Error> {
        let Some(of) = self.groups.get(&group) else {
            return Ok(Vec::new());
        };
        let max_records = max_records.min(of.max_run as usize);
        let mut head = Head::new(group, max_records, max_bytes);
        if !of.recent.is_empty() {
            of.recent.add_to(&mut head);
            return Ok(head.into_found());
        }
        self.scan_group(group, of.first_sequence, |sequence, parked| {
            match head.add(sequence, parked) {
                true => Scan::Continue,
                false => Scan::Stop,
            }
        })?;
        Ok(head.into_found())
    }

    fn insert(&mut self, id: GroupId, sequence: u64, record: &ParkedRecord) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.last_sequence = group.last_sequence.max(sequence);
            if sequence < group.first_sequence {
                group.first_sequence = sequence;
                self.set_first(id, record.due_ms, record.has_faulted);
            }
            return;
        }
        let group = Group {
            due_ms: record.due_ms,
            has_faulted: record.has_faulted,
            first_sequence: sequence,
            last_sequence: sequence,
            stored: self.leaving.remove(&id).unwrap_or_default(),
            max_run: FIRST_RUN,
            recent: Recent::default(),
            has_all_recent: true,
        };
        self.groups.insert(id, group);
        self.due.insert((record.due_ms, id));
    }

    /// Forgets a group of which nothing is parked any more.
    fn forget(&mut self, id: GroupId) {
        let Some(group) = self.groups.remove(&id) else {
            return;
        };
        self.due.remove(&(group.due_ms, id));
        self.recent_bytes -= group.recent.len_bytes();
        if group.stored.record_count > 0 {
            self.leaving.insert(id, group.stored);
        }
    }

    fn set_first(&mut self, id: GroupId, due_ms: u64, has_faulted: bool) {
        if let Some(group) = self.groups.get_mut(&id) {
            self.due.remove(&(group.due_ms, id));
            group.due_ms = due_ms;
            group.has_faulted = has_faulted;
            self.due.insert((due_ms, id));
        }
    }
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod tests;
