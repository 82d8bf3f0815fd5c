//! Looks at parked records in the store, one after the other: none of it collects them.

use super::opening::task_range;
use super::{GroupId, Parked, Waiting};
use crate::storage::schema::KeyKind;
use crate::storage::schema::parked::{self, ParkedRecord};
use crate::storage::{Error, Scan, Step, Store};

/// Where a visit of parked records goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pipeline) enum Further {
    /// With the next record.
    Record,
    /// With the next group.
    Group,
    /// Nowhere.
    Nothing,
}

impl Parked {
    /// Visits the records that are parked, group by group, in the order of each.
    pub(in crate::pipeline) fn visit(
        &self,
        visit: impl FnMut(Waiting) -> Further,
    ) -> Result<(), Error> {
        visit_in(&self.store, self.pipeline_id, self.task, visit)
    }

    /// Whether the first record of any group of a task is meant.
    pub(in crate::pipeline) fn any_first(
        store: &Store,
        pipeline_id: u32,
        task: u32,
        is_meant: impl Fn(&ParkedRecord) -> bool,
    ) -> Result<bool, Error> {
        let mut is_any = false;
        visit_in(store, pipeline_id, task, |first| {
            is_any |= is_meant(&first.parked);
            match is_any {
                true => Further::Nothing,
                false => Further::Group,
            }
        })?;
        Ok(is_any)
    }

    /// The first record of a group that is meant, if any of them can have an offset from this one on.
    pub(in crate::pipeline) fn find(
        &self,
        group: GroupId,
        from_offset: u64,
        is_meant: impl Fn(&ParkedRecord) -> bool,
    ) -> Result<Option<Waiting>, Error> {
        let Some(of) = self.groups.get(&group) else {
            return Ok(None);
        };
        let mut found = None;
        if of.stored.highest_offset >= from_offset {
            self.scan_group(group, of.first_sequence, |sequence, parked| {
                if !is_meant(&parked) {
                    return Scan::Continue;
                }
                found = Some(Waiting {
                    group,
                    sequence,
                    parked,
                });
                Scan::Stop
            })?;
        }
        Ok(found)
    }

    /// Whether a record of an input is parked, by its number. Reads all records of the groups that may have one.
    pub(in crate::pipeline) fn has_record_of(&self, input: u32) -> Result<bool, Error> {
        for (group, of) in &self.groups {
            if of.stored.inputs.may_contain(input)
                && self
                    .find(*group, 0, |parked| parked.input == input)?
                    .is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The last place in a group that is free, and not `is_taken`, before another one; `None` if there is none.
    pub(in crate::pipeline) fn free_before(
        &self,
        group: GroupId,
        sequence: u64,
        is_taken: impl Fn(u64) -> bool,
    ) -> Result<Option<u64>, Error> {
        let Some(last) = sequence.checked_sub(1) else {
            return Ok(None);
        };
        let key = |sequence| parked::key(self.pipeline_id, self.task, group, sequence);
        let (from, to) = (key(0), key(sequence));
        let mut places = (0..=last).rev().filter(|place| !is_taken(*place));
        let mut place = places.next();
        let first = Step::LastTo(key(last).to_vec());
        let range = (&from[..], Some(&to[..]));
        self.store.walk(KeyKind::Parked, range, first, |key, _| {
            let (_, _, _, stored) = parked::parse_key(key).ok_or_else(parked::damaged)?;
            while place == Some(stored) {
                place = places.next();
            }
            Ok(match place.is_none_or(|place| place > stored) {
                true => Step::Stop,
                false => Step::Back,
            })
        })?;
        Ok(place)
    }

    /// Visits the stored records of a group from a place on, in their order.
    pub(super) fn scan_group(
        &self,
        group: GroupId,
        from_sequence: u64,
        mut visit: impl FnMut(u64, ParkedRecord) -> Scan,
    ) -> Result<(), Error> {
        let from = parked::key(self.pipeline_id, self.task, group, from_sequence);
        let to = parked::key(self.pipeline_id, self.task, group, u64::MAX);
        self.store
            .scan(KeyKind::Parked, &from, Some(&to), |key, value| {
                let (_, _, _, sequence) = parked::parse_key(key).ok_or_else(parked::damaged)?;
                Ok(visit(sequence, parked::read(value)?))
            })
    }
}

fn visit_in(
    store: &Store,
    pipeline_id: u32,
    task: u32,
    mut visit: impl FnMut(Waiting) -> Further,
) -> Result<(), Error> {
    let (from, to) = task_range(pipeline_id, task);
    let range = (&from[..], Some(&to[..]));
    let first = Step::To(from.to_vec());
    store.walk(KeyKind::Parked, range, first, |key, value| {
        let (_, _, group, sequence) = parked::parse_key(key).ok_or_else(parked::damaged)?;
        let parked = parked::read(value)?;
        let further = visit(Waiting {
            group,
            sequence,
            parked,
        });
        Ok(match (further, group.checked_add(1)) {
            (Further::Record, _) => Step::Next,
            (Further::Group, Some(next)) => {
                Step::To(parked::key(pipeline_id, task, next, 0).to_vec())
            }
            (Further::Group, None) | (Further::Nothing, _) => Step::Stop,
        })
    })
}
