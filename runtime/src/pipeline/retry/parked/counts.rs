//! How many records of each group are parked, as stored beside them.
//!
//! The commits of a task that runs several instances are put together at the same time, and a group can be in two of
//! them: a lane has failed a record, and the task parks others behind it. So a commit that is put together notes only how
//! it changes its groups. What they are then is known when it is handed to the store, in the order in which the store
//! takes them: whatever a crash leaves out, what is stored counts what is there.

use super::{Group, Parked};
use crate::storage::schema::parked_group::{self, MIN_RECORDS, ParkedGroup};
use crate::storage::schema::{KeyKind, parked, prefix_end};
use crate::storage::{Commit, Error, Step, Store};

/// How many records of a pipeline are parked, whether or not it runs. It is for people: of a large group what is stored of
/// it counts.
pub(in crate::pipeline) fn parked_count(store: &Store, pipeline_id: u32) -> Result<u64, Error> {
    let from = parked::pipeline_prefix(pipeline_id);
    let to = prefix_end(&from);
    let (mut count, mut of) = (0, None);
    let range = (&from[..], to.as_deref());
    let first = Step::To(from.to_vec());
    store.walk(KeyKind::Parked, range, first, |key, _| {
        let (_, task, group, _) = parked::parse_key(key).ok_or_else(parked::damaged)?;
        let is_first = of.replace((task, group)) != Some((task, group));
        let stored = match is_first {
            true => store.get(
                KeyKind::ParkedGroup,
                &parked_group::key(pipeline_id, task, group),
            )?,
            false => None,
        };
        let Some(stored) = stored else {
            count += 1;
            return Ok(Step::Next);
        };
        let stored = parked_group::parse_value(&stored).ok_or_else(parked::damaged)?;
        count += stored.record_count;
        let last = parked::key(pipeline_id, task, group, u64::MAX);
        Ok(Step::To(last.to_vec()))
    })?;
    Ok(count)
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
