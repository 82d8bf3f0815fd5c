//! The records that a task has read and not handed to a lane yet, and which lane is at which group. Messages among them
//! stay leased for as long as they wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::{HashMap, HashSet};

use crate::manifest::RetryOrder;
use crate::pipeline::batch_run::{Batch, Leased, Origin};
use crate::pipeline::retry::{GroupId, Parked, group_of, lane_of};
use crate::pipeline::runtime::PipelineRuntime;
use crate::plugin::Columns;
use crate::queue::{self, Queue, Receipt};

/// Records that wait at most.
const MAX_WAITING: usize = 4096;
/// Reads of `batch.max-bytes` that are held at most.
const MAX_HELD_READS: usize = 8;

/// What one read has brought.
pub(super) struct Fetched {
    /// The number of the input.
    pub(super) turn: usize,
    pub(super) columns: Columns,
    pub(super) origin: Origin,
}

/// A read of which some records still wait.
pub(super) struct Held {
    pub(super) turn: usize,
    pub(super) columns: Columns,
    leased: Option<Leased>,
    bytes: usize,
    held_bytes: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A record that waits for a lane.
pub(super) struct Waiting {
    pub(super) fetched: Arc<Held>,
    pub(super) index: usize,
    pub(super) group: GroupId,
}

impl Waiting {
    pub(super) fn offset(&self) -> u64 {
        self.fetched.columns.offset(self.index)
    }

    /// The queue and the receipt, if it is a message.
    pub(super) fn message(&self) -> Option<(&Queue, Receipt)> {
        let leased = self.fetched.leased.as_ref()?;
        Some((&leased.queue, *leased.receipts.get(self.index)?))
    }
}

/// The messages among records that wait, by queue.
pub(super) fn messages<'a>(
    waiting: impl IntoIterator<Item = &'a Waiting>,
) -> Vec<(Queue, Vec<Receipt>)> {
    let mut messages: Vec<(Queue, Vec<Receipt>)> = Vec::new();
    for (queue, receipt) in waiting.into_iter().filter_map(Waiting::message) {
        match messages.iter_mut().find(|(of, _)| of.id() == queue.id()) {
            Some((_, receipts)) => receipts.push(receipt),
            None => messages.push((queue.clone(), vec![receipt])),
        }
    }
    messages
}

/// The records that wait, in the order in which they were read.
pub(super) struct Backlog {
    order: RetryOrder,
    lane_count: u32,
    /// Whether the records of a group always go to the same lane, which keeps their state.
    is_sticky: bool,
    waiting: VecDeque<Waiting>,
    /// Which lane is at which group.
    occupied: HashMap<GroupId, u32>,
    held_bytes: Arc<AtomicUsize>,
    max_held_bytes: usize,
    /// When the leases of messages that wait are extended, in ms since the epoch; `None` if none waits.
    extend_at_ms: Option<u64>,
}

impl Backlog {
    pub(super) fn new(pipeline: &PipelineRuntime) -> Self {
        Self {
            order: pipeline.spec.retry.order,
            lane_count: pipeline.spec.concurrency,
            is_sticky: pipeline.plugin.keeps_state(),
            waiting: VecDeque::new(),
            occupied: HashMap::new(),
            held_bytes: Arc::default(),
            max_held_bytes: pipeline.spec.batch.max_bytes.saturating_mul(MAX_HELD_READS),
            extend_at_ms: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
            && self.held_bytes.load(Ordering::Relaxed) < self.max_held_bytes
    }

    /// Adds what was read, without what is done already.
    pub(super) fn add(&mut self, fetched: Fetched, is_done: impl Fn(u64) -> bool) {
        let Fetched {
            turn,
            columns,
            origin,
        } = fetched;
        let leased = match origin {
            Origin::Queue(leased) => Some(leased),
            Origin::Input { .. } | Origin::Offsets { .. } | Origin::Parked(_) | Origin::Timers => {
                None
            }
        };
        if let Some(leased) = &leased
            && !leased.receipts.is_empty()
        {
            self.extend_at(leased.until_ms.saturating_sub(half_lease_ms(&leased.queue)));
        }
        let bytes = columns.size_bytes();
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        let held = Arc::new(Held {
            turn,
            columns,
            leased,
            bytes,
            held_bytes: Arc::clone(&self.held_bytes),
        });
        for index in 0..held.columns.len() {
            let group = match &held.leased {
                Some(leased) => leased.groups.get(index).copied().unwrap_or_default(),
                None if is_done(held.columns.offset(index)) => continue,
                None => group_of(self.order, &held.columns, index),
            };
            self.waiting.push_back(Waiting {
                fetched: Arc::clone(&held),
                index,
                group,
            });
        }
    }

    /// The lowest offset of each group among the records of each input.
    pub(super) fn lowest_offsets(&self) -> HashMap<(usize, GroupId), u64> {
        let mut lowest = HashMap::new();
        for waiting in &self.waiting {
            let (of, offset) = ((waiting.fetched.turn, waiting.group), waiting.offset());
            let known = lowest.entry(of).or_insert(offset);
            *known = offset.min(*known);
        }
        lowest
    }

    /// Whether no lane is at a group.
    fn is_free(&self, group: GroupId) -> bool {
        !self.occupied.contains_key(&group)
    }

    /// Whether a lane may run records of a group now.
    pub(super) fn may_run(&self, group: GroupId, lane: u32) -> bool {
        self.is_free(group) && (!self.is_sticky || lane_of(group, self.lane_count) == lane)
    }

    /// Notes that a lane is at a group.
    pub(super) fn occupy(&mut self, group: GroupId, lane: u32) {
        self.occupied.insert(group, lane);
    }

    /// Notes that a lane is done with what it had.
    pub(super) fn release(&mut self, lane: u32) {
        self.occupied.retain(|_, at| *at != lane);
    }

    /// The first records that a lane may run, at most `len`, all of one input.
    pub(super) fn next_batch(
        &mut self,
        lane: u32,
        len: usize,
        parked: &mut Parked,
    ) -> Option<Batch> {
        let mut taken: Vec<Waiting> = Vec::new();
        // Those behind one that waits for another lane have to wait, too.
        let mut passed: HashSet<GroupId> = HashSet::new();
        let mut at = 0;
        while at < self.waiting.len() && taken.len() < len {
            let waiting = &self.waiting[at];
            let is_own = taken.iter().any(|own| own.group == waiting.group);
            let fits = taken.first().is_none_or(|first| {
                first.fetched.turn == waiting.fetched.turn
                    && (first.fetched.leased.is_none()
                        || Arc::ptr_eq(&first.fetched, &waiting.fetched))
            });
            let is_next = !parked.contains(waiting.group) && self.may_run(waiting.group, lane);
            let may_run = is_own || is_next;
            if fits && may_run && !passed.contains(&waiting.group) {
                taken.extend(self.waiting.remove(at));
            } else {
                passed.insert(waiting.group);
                at += 1;
            }
        }
        for waiting in &taken {
            self.occupied.insert(waiting.group, lane);
        }
        let reserved = parked.reserve(taken.len() as u64);
        batch_of(&taken, reserved)
    }

    /// Takes out the records that wait for others of their group: at a lane, or parked.
    pub(super) fn take_blocked(&mut self, parked: &Parked) -> Vec<Waiting> {
        let occupied = std::mem::take(&mut self.occupied);
        let blocked = self.take_where(|waiting| {
            occupied.contains_key(&waiting.group) || parked.contains(waiting.group)
        });
        self.occupied = occupied;
        blocked
    }

    /// Takes out the records that wait for a lane which has their state: none of these, which are free, is it.
    pub(super) fn take_bound(&mut self, free_lanes: &[u32]) -> Vec<Waiting> {
        let (is_sticky, lane_count) = (self.is_sticky, self.lane_count);
        self.take_where(|waiting| {
            is_sticky && !free_lanes.contains(&lane_of(waiting.group, lane_count))
        })
    }

    /// Takes out the records that are meant.
    pub(super) fn take_where(&mut self, is_meant: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (meant, others): (Vec<_>, Vec<_>) = all.partition(is_meant);
        self.waiting = others.into();
        meant
    }

    /// Takes out all messages, by queue.
    pub(super) fn take_messages(&mut self) -> Vec<(Queue, Vec<Receipt>)> {
        messages(&std::mem::take(&mut self.waiting))
    }

    /// When [`keep_leases`](Self::keep_leases) is to be called, in ms since the epoch.
    pub(super) fn extend_at_ms(&self) -> Option<u64> {
        self.extend_at_ms
    }

    fn extend_at(&mut self, at_ms: u64) {
        self.extend_at_ms = Some(self.extend_at_ms.map_or(at_ms, |first| first.min(at_ms)));
    }

    /// Extends the leases of the messages that wait, if it is time: a message waits here for as long as one of its key
    /// takes, and that it was delivered so often says nothing about it. Those that somebody else has taken meanwhile
    /// are left to them.
    pub(super) fn keep_leases(&mut self, now_ms: u64) -> Result<(), queue::Error> {
        if self.extend_at_ms.is_none_or(|at_ms| at_ms > now_ms) {
            return Ok(());
        }
        self.extend_at_ms = None;
        for (queue, receipts) in messages(&self.waiting) {
            let settled = queue.extend(&receipts, queue.config().visibility_timeout_ms)?;
            self.extend_at(now_ms.saturating_add(half_lease_ms(&queue)));
            if settled.stale.is_empty() {
                continue;
            }
            let (name, lost) = (queue.name(), settled.stale.len());
            tracing::warn!(queue = %name, lost, "messages were purged or leased by another before they were processed");
            let stale: HashSet<Receipt> = settled.stale.into_iter().collect();
            self.waiting.retain(|waiting| {
                let message = waiting.message();
                !message
                    .is_some_and(|(of, receipt)| of.id() == queue.id() && stale.contains(&receipt))
            });
        }
        Ok(())
    }
}

/// How long before its end a lease is extended, in ms.
fn half_lease_ms(queue: &Queue) -> u64 {
    (queue.config().visibility_timeout_ms / 2).max(1)
}

/// The records as a batch; `None` if there are none.
fn batch_of(taken: &[Waiting], reserved: u64) -> Option<Batch> {
    let first = taken.first()?;
    let mut columns = Columns::new();
    let source = &first.fetched.columns;
    columns.start(source.input(), source.partition());
    for waiting in taken {
        columns.push_from(&waiting.fetched.columns, waiting.index);
    }
    let origin = match &first.fetched.leased {
        None => Origin::Offsets {
            turn: first.fetched.turn,
        },
        Some(leased) => {
            let indexes = || taken.iter().map(|waiting| waiting.index);
            Origin::Queue(Leased {
                queue: leased.queue.clone(),
                receipts: indexes()
                    .filter_map(|index| leased.receipts.get(index).copied())
                    .collect(),
                groups: taken.iter().map(|waiting| waiting.group).collect(),
                until_ms: leased.until_ms,
            })
        }
    };
    Some(Batch {
        columns,
        origin,
        reserved: Some(reserved),
    })
}
