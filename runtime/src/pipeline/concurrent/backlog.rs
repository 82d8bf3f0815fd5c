//! The records that a task has read and not handed to a lane yet, and which lane is at which group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::{HashMap, HashSet};

use crate::manifest::RetryOrder;
use crate::pipeline::batch_run::{Batch, Leased, Origin};
use crate::pipeline::retry::{GroupId, Parked, group_of, lane_of};
use crate::pipeline::runtime::PipelineRuntime;
use crate::plugin::Columns;
use crate::queue::{Queue, Receipt};

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

    /// Takes out the records of topics that wait for others of their group: at a lane, or parked.
    pub(super) fn take_blocked(&mut self, parked: &Parked) -> Vec<Waiting> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (blocked, others): (Vec<_>, Vec<_>) = all.partition(|waiting| {
            let waits = !self.is_free(waiting.group) || parked.contains(waiting.group);
            waiting.fetched.leased.is_none() && waits
        });
        self.waiting = others.into();
        blocked
    }

    /// The messages that wait, by queue.
    pub(super) fn leased(&mut self) -> Vec<(Queue, Vec<Receipt>)> {
        let mut leased: Vec<(Queue, Vec<Receipt>)> = Vec::new();
        for Waiting { fetched, index, .. } in self.waiting.drain(..) {
            let Some(of) = &fetched.leased else { continue };
            let Some(receipt) = of.receipts.get(index) else {
                continue;
            };
            match leased
                .iter_mut()
                .find(|(queue, _)| queue.id() == of.queue.id())
            {
                Some((_, receipts)) => receipts.push(*receipt),
                None => leased.push((of.queue.clone(), vec![*receipt])),
            }
        }
        leased
    }
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
