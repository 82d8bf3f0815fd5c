//! How many records of each group are parked, as stored beside them.
//!
//! The commits of a task that runs several instances are put together at the same time, and a group can be in two of
//! them: a lane has failed a record, and the task parks others behind it. So a commit that is put together notes only how
//! it changes its groups. What they are then is known when it is handed to the store, in the order in which the store
//! takes them: whatever a crash leaves out, what is stored counts what is there.

use super::{Group, Parked};
use crate::storage::Commit;
use crate::storage::schema::parked_group::{MIN_RECORDS, ParkedGroup};

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
