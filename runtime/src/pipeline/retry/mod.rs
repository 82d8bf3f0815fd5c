//! What becomes of records that fail: tried again after a while, in the order that the pipeline asks
//! for, and given up on in the end.
//!
//! A record that is to be tried again is *parked* (`parked.rs`, `recent.rs`) by the checkpoint that goes past it.
//! One that is given up on is a dead letter (`dead_letter.rs`), in the same checkpoint, with what the
//! plugin saw (`recorder.rs`).

mod backoff;
mod dead_letter;
mod give_up_log;
mod parked;
mod recent;
mod recorder;
mod room;

pub(super) use backoff::backoff_ms;
pub(super) use dead_letter::{DeadLetters, Letter};
pub(super) use give_up_log::GiveUpLog;
pub(super) use parked::{Further, NoRoom, Parked, Waiting, parked_count};
pub(super) use recorder::{ChangedState, FailedCall, Recorder};
pub(super) use room::{ROOM_PAUSE, note_room};

use crate::manifest::RetryOrder;
use crate::model::{HeadersRef, key_hash};
use crate::plugin::{Columns, Failure, FailureKind, Fault, Output};
use crate::queue;

/// What must be tried in order: records with the same number wait behind each other.
pub(super) type GroupId = u64;

/// The group of all records of a task.
const WHOLE_TASK: GroupId = 0;

/// The group of a record of a batch.
pub(super) fn group_of(order: RetryOrder, batch: &Columns, index: usize) -> GroupId {
    group(order, batch.input(), batch.offset(index), batch.key(index))
}

/// The group of a message, which may say itself what it belongs to. Records of topics may not: what was a message once
/// keeps its headers.
pub(super) fn message_group(
    order: RetryOrder,
    input: u32,
    offset: u64,
    key: Option<&[u8]>,
    headers: HeadersRef<'_>,
) -> GroupId {
    let named = headers.iter().filter(|(name, _)| *name == queue::GROUP);
    let named = named.last().and_then(|(_, group)| group);
    group(order, input, offset, named.or(key))
}

/// The group of the record with this key at this offset of a task's input.
pub(super) fn group(order: RetryOrder, input: u32, offset: u64, key: Option<&[u8]>) -> GroupId {
    match (order, key) {
        (RetryOrder::Partition, _) => WHOLE_TASK,
        (RetryOrder::Key, Some(key)) => key_hash(key),
        // Nothing has to wait for it. An odd multiplier keeps the offsets of an input apart.
        (RetryOrder::Key, None) | (RetryOrder::None, _) => {
            (u64::from(input) << 56 ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        }
    }
}

/// The lane, of so many, that runs a group whose state it has.
pub(super) fn lane_of(group: GroupId, lane_count: u32) -> u32 {
    // The upper bits of the product depend on all of the group's.
    let mixed = group.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (mixed % u64::from(lane_count.max(1))) as u32
}

/// The group itself if it belongs to a lane, or another one that does and is always the same.
pub(super) fn group_at(group: GroupId, lane: u32, lane_count: u32) -> GroupId {
    let mut groups = (0..=u64::MAX).map(|step| group.wrapping_add(step));
    groups
        .find(|group| lane_of(*group, lane_count) == lane)
        .unwrap_or(group)
}

/// What stands for a timer where a record has its offset: it ascends with the due time, and tells timers
/// of one time apart.
pub(super) fn timer_offset(due_ms: u64, key: &[u8]) -> u64 {
    const TIME_BITS: u32 = 42;
    const KEY_BITS: u32 = 20;
    let of_key = key_hash(key) & ((1 << KEY_BITS) - 1);
    due_ms.min((1 << TIME_BITS) - 1) << KEY_BITS | of_key
}

/// Why a record has failed.
#[derive(Clone, Debug)]
pub(super) enum Cause {
    /// The plugin asks to have it again, after that many ms if it says so.
    Retry {
        delay_ms: Option<u32>,
        reason: String,
    },
    /// The plugin never wants to see it again.
    Reject { reason: String },
    /// The plugin faults on it.
    Fault(Fault),
    /// The pipeline was stopped before an output took what it led to. Only under at-most-once, where it does not come
    /// again.
    NotTaken { reason: String },
}

impl Cause {
    /// The word for no failure at all.
    pub(super) const SUCCESS: &'static str = "success";
    /// The word for a record that asked too often to be tried again.
    const MAX_ATTEMPTS: &'static str = "max-attempts";
    const REJECTED: &'static str = "rejected";
    const STOPPED: &'static str = "stopped";

    /// What a plugin says of a record.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        let reason = failure.reason.clone();
        match failure.kind {
            FailureKind::Retry { delay_ms } => Self::Retry { delay_ms, reason },
            FailureKind::Reject => Self::Reject { reason },
        }
    }

    /// Why the only record of a call failed; none if it did not.
    pub(super) fn of_single(result: &Result<Output, Fault>) -> Option<Self> {
        match result {
            Err(fault) => Some(Self::Fault(fault.clone())),
            Ok(output) => output.failed().first().map(Self::of_failure),
        }
    }

    /// Whether it is of the kind that a dead letter names with this word. What the plugin asks to be done
    /// with the record can differ: under at-most-once there is no other attempt.
    pub(super) fn is_of_kind(&self, word: &str) -> bool {
        match self {
            Self::Fault(fault) => fault.kind() == word,
            Self::Retry { .. } | Self::Reject { .. } => {
                [Self::MAX_ATTEMPTS, Self::REJECTED].contains(&word)
            }
            Self::NotTaken { .. } => word == Self::STOPPED,
        }
    }

    /// Whether it is what a dead letter says with this word and this sentence.
    pub(super) fn is_same(&self, word: &str, text: &str) -> bool {
        self.is_of_kind(word) && self.text() == text
    }

    /// A stable word for why a record became a dead letter.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Retry { .. } => Self::MAX_ATTEMPTS,
            Self::Reject { .. } => Self::REJECTED,
            Self::Fault(fault) => fault.kind(),
            Self::NotTaken { .. } => Self::STOPPED,
        }
    }

    /// One sentence for people.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Retry { reason, .. } | Self::Reject { reason } | Self::NotTaken { reason } => {
                reason.clone()
            }
            Self::Fault(fault) => fault.to_string(),
        }
    }

    pub(super) fn is_fault(&self) -> bool {
        matches!(self, Self::Fault(_))
    }
}
