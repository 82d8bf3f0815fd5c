//! Tells of a task that takes no new records, so that what is parked stays within bounds.

use std::time::Duration;

use super::{NoRoom, Parked};
use crate::pipeline::runtime::PipelineRuntime;
use crate::pipeline::status::TaskStatus;

/// How long a task waits at most that takes no new records since the disk runs low, before it looks again.
pub(in crate::pipeline) const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// Finds out whether a task has room for new records, shows it, and logs when that changes.
pub(in crate::pipeline) fn note_room(
    pipeline: &PipelineRuntime,
    task: u32,
    status: &TaskStatus,
    parked: &Parked,
) -> Option<NoRoom> {
    let earlier = status.no_room();
    let no_room = parked.no_room_after(earlier);
    status.set_no_room(no_room);
    if earlier == no_room {
        return no_room;
    }
    let (name, keys, records) = (&pipeline.spec.name, parked.group_count(), parked.len());
    match no_room {
        Some(NoRoom::Groups) => {
            tracing::warn!(pipeline = %name, task, keys, records, "records of so many keys wait to be tried again that the task takes no new ones until some are done; look at why they fail");
        }
        Some(NoRoom::Disk) => {
            tracing::warn!(pipeline = %name, task, keys, records, "the disk runs low, and records wait to be tried again: the task takes no new ones until they are done or there is room; make room");
        }
        None => {
            tracing::info!(pipeline = %name, task, keys, records, "the task takes new records again");
        }
    }
    no_room
}
