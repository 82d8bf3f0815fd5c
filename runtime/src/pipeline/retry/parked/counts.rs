//! How many records of each group are parked, as stored beside them.
//!
//! The commits of a task that runs several instances are put together at the same time, and a group can be in two of
//! them: a lane has failed a record, and the task parks others behind it. So a commit that is put together notes only how
//! it changes its groups. What they are then is known when it is handed to the store, in the order in which the store
//! takes them: whatever a crash leaves out, what is stored counts what is there.

use super::{Group, GroupId, Parked};
use crate::storage::schema::parked_group::{self, MIN_RECORDS, ParkedGroup};
use crate::storage::schema::{KeyKind, parked, prefix_end};
use crate::storage::{Commit, Error, Step, Store};

/// A group that is being counted.
struct Counting {
    task: u32,
    id: GroupId,
    first_sequence: u64,
    /// What is stored of it, until its last record is known.
    stored: Option<ParkedGroup>,
}

/// How many records of a pipeline are parked, whether or not it runs. It is for people: of a large group what is stored of
/// it counts, if it was kept up.
pub(in crate::pipeline) fn parked_count(store: &Store, pipeline_id: u32) -> Result<u64, Error> {
    let from = parked::pipeline_prefix(pipeline_id);
    let to = prefix_end(&from);
    let mut count = 0;
    let mut counting: Option<Counting> = None;
    let range = (&from[..], to.as_deref());
    let first = Step::To(from.to_vec());
    store.walk(KeyKind::Parked, range, first, |key, _| {
        let (_, task, id, sequence) = parked::parse_key(key).ok_or_else(parked::damaged)?;
        if let Some(of) = &mut counting
            && (of.task, of.id) == (task, id)
        {
            let (added, step) = of.count(pipeline_id, sequence);
            count += added;
            return Ok(step);
        }
        count += 1;
        let stored = stored_group(store, pipeline_id, task, id)?;
        let step = match stored {
            Some(_) => Step::LastTo(parked::key(pipeline_id, task, id, u64::MAX).to_vec()),
            None => Step::Next,
        };
        counting = Some(Counting {
            task,
            id,
            first_sequence: sequence,
            stored,
        });
        Ok(step)
    })?;
    Ok(count)
}

impl Counting {
    /// Counts another record of the group, which is its last one if what is stored of it is not known to be true yet; and
    /// all of it that lies before that, if it is true.
    fn count(&mut self, pipeline_id: u32, sequence: u64) -> (u64, Step) {
        match self.stored.take() {
            // The first one has been counted.
            Some(stored) if stored.last_sequence == sequence => {
                (stored.record_count.saturating_sub(1), Step::Next)
            }
            Some(_) if sequence > self.first_sequence => {
                // It was not kept up: back, to count them.
                let next = self.first_sequence + 1;
                let next = parked::key(pipeline_id, self.task, self.id, next);
                (0, Step::To(next.to_vec()))
            }
            Some(_) => (0, Step::Next),
            None => (1, Step::Next),
        }
    }
}

fn stored_group(
    store: &Store,
    pipeline_id: u32,
    task: u32,
    id: GroupId,
) -> Result<Option<ParkedGroup>, Error> {
    let key = parked_group::key(pipeline_id, task, id);
    let Some(stored) = store.get(KeyKind::ParkedGroup, &key)? else {
        return Ok(None);
    };
    let stored = parked_group::parse_value(&stored).ok_or_else(parked::damaged)?;
    Ok(Some(stored))
}

impl Parked {
    /// Adds to a commit how many records of the groups that it changes are parked then. To be called right before the
    /// commit is handed to the store, before any later one is.
    pub(in crate::pipeline) fn complete(&mut self, commit: &mut Commit) {
        for (id, change) in commit.take_parked_groups() {
            let group = self.groups.get_mut(&id);
            let stored = group.map(|of: &mut Group| &mut of.stored);
            let has_any = stored.is_some();
            let mut gone = match has_any {
                true => ParkedGroup::default(),
                false => self.leaving.remove(&id).unwrap_or_default(),
            };
            let stored = stored.unwrap_or(&mut gone);
            let before = stored.record_count;
            stored.apply(&change);
            if !has_any {
                // Should the count ever have been wrong, it is not any more.
                stored.record_count = 0;
            }
            let (is_kept, was_kept) = (stored.record_count >= MIN_RECORDS, before >= MIN_RECORDS);
            let kept = is_kept.then_some(&*stored);
            if is_kept || was_kept {
                commit.set_parked_group(self.pipeline_id, self.task, id, kept);
            }
            self.count = (self.count + stored.record_count).saturating_sub(before);
        }
    }
}
