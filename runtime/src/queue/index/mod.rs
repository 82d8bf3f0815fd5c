//! Who is next: the messages of a queue by what they wait for, in memory.
//!
//! A message without attributes that was never delivered is a bit in a set. Any other (delivered
//! before, leased, delayed, of a group, with a time to live) has an entry in `messages`, of about
//! 100 to 150 bytes with all that refers to it. Both are bounded by the queue's length.
//!
//! Nothing here is written anywhere: what a lease or an acknowledgement changes in the store is part
//! of a commit, and the index is told how that went (`finish`, `put_back`, `undo`).

mod given_back;
mod groups;
mod keyed;
mod leases;
mod progress;

use self::given_back::GivenBackByOffset;
use self::groups::Groups;
use self::keyed::{Messages, Times};
use self::leases::{LeaseId, Leases};
use self::progress::Progress;
pub(super) use self::progress::{Hole, Trim};
use super::Receipt;
use super::attributes::{MAX_PRIORITY, Placement};
use super::offset_set::OffsetSet;
use crate::storage::schema::queue_chunk::Deliveries;

const PRIORITIES: usize = MAX_PRIORITY as usize + 1;

/// A message that is more than a bit.
#[derive(Clone, Copy, Debug)]
struct Message {
    delivery_count: u32,
    priority: u8,
    /// 0 = none.
    group: u64,
    /// `u64::MAX` = never.
    expires_at_ms: u64,
    state: State,
}

// There may be millions.
const _: () = assert!(size_of::<Message>() <= 40);

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be leased.
    Ready,
    /// For others of its group.
    Behind,
    /// For its time.
    Delayed { until_ms: u64 },
    /// For whoever holds it.
    Leased { lease: LeaseId },
    /// For the commit that acknowledges, releases, moves or drops it.
    Settling { before: Before },
}

/// What a message was before somebody began to settle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Leased.
    Leased { lease: LeaseId },
    /// Waiting, perhaps for a time.
    Waiting { until_ms: u64 },
    /// As `Waiting`, and the queue gives up on it: a commit that takes it out is on its way.
    Leaving { until_ms: u64 },
}

impl State {
    fn is_held(self) -> bool {
        matches!(self, Self::Leased { .. } | Self::Settling { .. })
    }
}

/// What a lease gets.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Leased now, in the order of delivery; with the delivery that this is.
    pub(super) leased: Vec<Receipt>,
    /// Messages that were delivered as often as they may be; to be finished or undone.
    pub(super) exhausted: Vec<u64>,
}

/// How many messages are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) live: u64,
    pub(super) held: u64,
    pub(super) delayed: u64,
    /// Of those that are held, those that the queue gives up on.
    pub(super) leaving: u64,
}

/// The messages of a queue from its start up to a batch.
#[derive(Debug)]
pub(super) struct Index {
    progress: Progress,
    ready: [OffsetSet; PRIORITIES],
    messages: Messages,
    given_back: GivenBackByOffset,
    groups: Groups,
    /// Until when messages are delayed.
    delayed: Times,
    /// When all expire that wait, and some that are held.
    expiring: Times,
    leases: Leases,
    held: u64,
    leaving: u64,
}

impl Index {
    /// An index of nothing, from the queue's start on.
    pub(super) fn new(start: u64) -> Self {
        Self {
            progress: Progress::new(start),
            ready: Default::default(),
            messages: Messages::default(),
            given_back: GivenBackByOffset::default(),
            groups: Groups::default(),
            delayed: Times::default(),
            expiring: Times::default(),
            leases: Leases::default(),
            held: 0,
            leaving: 0,
        }
    }

    /// The offset of the next message to take in.
    pub(super) fn indexed_to(&self) -> u64 {
        self.progress.end()
    }

    /// The first message that is not done with, from `offset` on.
    pub(super) fn next_live(&self, offset: u64) -> Option<u64> {
        self.progress.next_live(offset)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            live: self.progress.live(),
            held: self.held,
            delayed: self.delayed.len() as u64,
            leaving: self.leaving,
        }
    }

    /// Takes in a batch; its messages follow with `insert`, `insert_plain` or `finish`.
    pub(super) fn append(&mut self, base_offset: u64, next_offset: u64, bytes: u64) {
        self.progress.append(base_offset, next_offset, bytes);
    }

    /// Takes in messages `from <= offset < to` without attributes that were never delivered.
    pub(super) fn insert_plain(&mut self, from: u64, to: u64, priority: u8) {
        if let Some(ready) = self.ready.get_mut(usize::from(priority)) {
            ready.insert_range(from, to);
        }
    }

    /// Takes in a message, as it was delivered so far.
    pub(super) fn insert(
        &mut self,
        offset: u64,
        placement: &Placement,
        deliveries: Deliveries,
        now_ms: u64,
    ) {
        let until_ms = placement.not_before_ms.max(deliveries.not_before_ms);
        let is_plain = placement.group == 0
            && placement.expires_at_ms == u64::MAX
            && deliveries.delivery_count == 0;
        if is_plain && until_ms <= now_ms {
            return self.insert_plain(offset, offset + 1, placement.priority);
        }
        let message = Message {
            delivery_count: deliveries.delivery_count,
            priority: placement.priority,
            group: placement.group,
            expires_at_ms: placement.expires_at_ms,
            state: State::Behind,
        };
        self.messages.insert(offset, message);
        self.given_back.set(offset, deliveries.given_back);
        self.wait(offset, until_ms, now_ms);
    }

    /// Lets a message that nobody holds wait for what it has to.
    fn wait(&mut self, offset: u64, until_ms: u64, now_ms: u64) {
        let Some(message) = self.messages.get_mut(offset) else {
            return;
        };
        if message.expires_at_ms != u64::MAX {
            self.expiring.insert(message.expires_at_ms, offset);
        }
        let (group, priority) = (message.group, message.priority);
        if until_ms > now_ms {
            message.state = State::Delayed { until_ms };
            self.delayed.insert(until_ms, offset);
        } else if group == 0 {
            message.state = State::Ready;
            self.insert_plain(offset, offset + 1, priority);
        } else {
            message.state = State::Behind;
        }
        if group != 0 {
            self.groups.add(group, offset);
            self.offer(group);
        }
    }

    /// Makes the first message of a group ready, if nobody holds one and it is not delayed.
    fn offer(&mut self, group: u64) -> bool {
        group != 0 && !self.groups.is_held(group) && self.offer_first(group)
    }

    fn offer_first(&mut self, group: u64) -> bool {
        let Some(first) = self.groups.first(group) else {
            return false;
        };
        if let Some(message) = self.messages.get_mut(first)
            && message.state == State::Behind
        {
            message.state = State::Ready;
            let priority = message.priority;
            self.insert_plain(first, first + 1, priority);
            return true;
        }
        false
    }

    /// Ends leases and delays whose time has come.
    pub(super) fn advance(&mut self, now_ms: u64) {
        while let Some((lease, offsets)) = self.leases.end_first(now_ms) {
            for offset in offsets {
                let message = self.messages.get(offset);
                if message.is_some_and(|message| message.state == State::Leased { lease }) {
                    self.put_back(offset, 0, now_ms);
                }
            }
        }
        while let Some((until_ms, offset)) = self.delayed.first() {
            if until_ms > now_ms {
                break;
            }
            self.delayed.pop_first();
            let Some(message) = self.messages.get_mut(offset) else {
                continue;
            };
            message.state = State::Behind;
            let (group, priority) = (message.group, message.priority);
            if group == 0 {
                message.state = State::Ready;
                self.insert_plain(offset, offset + 1, priority);
            }
            self.offer(group);
        }
        self.forget_held_expired(now_ms);
    }

    /// Forgets when messages have expired that somebody holds: time does not take them until they are put back, and
    /// until then they would wake whoever waits for the next event, again and again.
    fn forget_held_expired(&mut self, now_ms: u64) {
        while let Some((expires_at_ms, offset)) = self.expiring.first() {
            let message = self.messages.get(offset);
            let waits = message.is_some_and(|message| !message.state.is_held());
            if waits || expires_at_ms > now_ms {
                return;
            }
            self.expiring.pop_first();
        }
    }

    /// Whether a message has expired that nobody holds; right after [`advance`](Self::advance).
    pub(super) fn has_expired(&self, now_ms: u64) -> bool {
        let first = self.expiring.first();
        first.is_some_and(|(expires_at_ms, _)| expires_at_ms <= now_ms)
    }

    /// Whether a message can be leased.
    pub(super) fn has_ready(&self) -> bool {
        self.ready.iter().any(|ready| ready.first().is_some())
    }

    /// The oldest message that can be leased.
    pub(super) fn first_ready(&self) -> Option<u64> {
        self.ready.iter().filter_map(OffsetSet::first).min()
    }

    /// When the next lease, delay or life ends, in ms since the epoch.
    pub(super) fn next_event_ms(&self) -> Option<u64> {
        let delayed = self.delayed.first().map(|(until_ms, _)| until_ms);
        let expiring = self.expiring.first();
        let expiring = expiring.map(|(expires_at_ms, _)| expires_at_ms);
        let lease = self.leases.first_deadline_ms();
        [delayed, expiring, lease].into_iter().flatten().min()
    }

    /// Takes messages that have expired, at most `max`, for the queue to give up on; to be finished or undone.
    pub(super) fn take_expired(&mut self, max: u64, now_ms: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        while (taken.len() as u64) < max {
            let first = self.expiring.first();
            let Some((_, offset)) = first.filter(|(at_ms, _)| *at_ms <= now_ms) else {
                break;
            };
            self.expiring.pop_first();
            // One that is held expires when it is put back.
            if self.take(offset) {
                taken.push(offset);
            }
        }
        taken
    }

    /// Takes the oldest messages that nobody holds, to be finished or undone.
    pub(super) fn take_oldest(&mut self, count: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        let mut next = self.progress.next_live(0);
        while let Some(offset) = next.filter(|_| (taken.len() as u64) < count) {
            if self.take(offset) {
                taken.push(offset);
            }
            next = self.progress.next_live(offset + 1);
        }
        taken
    }

    /// Takes a message that nobody holds, to be finished or undone; `false` if there is no such message.
    pub(super) fn take_one(&mut self, offset: u64) -> bool {
        self.progress.next_live(offset) == Some(offset) && self.take(offset)
    }

    /// Messages that were taken leave the queue, unless that is undone.
    pub(super) fn leave(&mut self, offsets: &[u64]) {
        for offset in offsets {
            if let Some(message) = self.messages.get_mut(*offset)
                && let State::Settling {
                    before: Before::Waiting { until_ms },
                } = message.state
            {
                message.state = State::Settling {
                    before: Before::Leaving { until_ms },
                };
                self.leaving += 1;
            }
        }
    }

    /// Takes a message that waits out of where it waits; `false` if it does not.
    fn take(&mut self, offset: u64) -> bool {
        let Some(message) = self.messages.get_mut(offset) else {
            let mut ready = (0..).zip(&self.ready);
            let Some((priority, _)) = ready.find(|(_, ready)| ready.contains(offset)) else {
                return false;
            };
            self.messages.insert(offset, Message::plain(priority));
            return self.take(offset);
        };
        let mut until_ms = 0;
        match message.state {
            State::Leased { .. } | State::Settling { .. } => return false,
            State::Behind => {}
            State::Delayed { until_ms: until } => {
                until_ms = until;
                self.delayed.remove(until_ms, offset);
            }
            State::Ready => {
                if let Some(ready) = self.ready.get_mut(usize::from(message.priority)) {
                    ready.remove(offset);
                }
            }
        }
        message.state = State::Settling {
            before: Before::Waiting { until_ms },
        };
        self.held += 1;
        let group = message.group;
        if group != 0 {
            self.groups.hold(group, offset);
            // Another may have been its first, and must wait now.
            self.withdraw(group);
        }
        true
    }

    /// Leases the next messages, at most `max_messages`, until `deadline_ms`.
    pub(super) fn lease(
        &mut self,
        max_messages: usize,
        max_deliveries: Option<u32>,
        deadline_ms: u64,
    ) -> Selection {
        let mut selection = Selection::default();
        let mut groups = Vec::new();
        let lease = self.leases.next_id();
        let limit = max_deliveries.unwrap_or(u32::MAX);
        let mut priority = PRIORITIES;
        while selection.leased.len() + selection.exhausted.len() < max_messages {
            let Some(offset) = self
                .ready
                .get(priority.wrapping_sub(1))
                .map(OffsetSet::first)
            else {
                break;
            };
            let Some(offset) = offset else {
                priority -= 1;
                continue;
            };
            let Some(ready) = self.ready.get_mut(priority - 1) else {
                break;
            };
            ready.remove(offset);
            self.held += 1;
            // One of ten priorities.
            let plain = (priority - 1) as u8;
            let message = self.messages.get_or_insert_plain(offset, plain);
            let delivery_count = message.delivery_count;
            if delivery_count >= limit
                && delivery_count.saturating_sub(self.given_back.get(offset).count) >= limit
            {
                message.state = State::Settling {
                    before: Before::Waiting { until_ms: 0 },
                };
                selection.exhausted.push(offset);
            } else {
                message.delivery_count += 1;
                message.state = State::Leased { lease };
                selection.leased.push(Receipt {
                    offset,
                    delivery_count: message.delivery_count,
                });
            }
            let group = message.group;
            if group != 0 {
                self.groups.hold(group, offset);
                groups.push(group);
                // The next of the group may be leased with it, in order. It may have a higher priority.
                self.offer_first(group);
                priority = PRIORITIES;
            }
        }
        for group in groups {
            self.withdraw(group);
        }
        let offsets = selection.leased.iter().map(|receipt| receipt.offset);
        self.leases.add(deadline_ms, offsets.collect());
        selection
    }

    /// Lets the first message of a group wait for those that are held.
    fn withdraw(&mut self, group: u64) {
        let Some(first) = self.groups.first(group) else {
            return;
        };
        if let Some(message) = self.messages.get_mut(first)
            && message.state == State::Ready
        {
            message.state = State::Behind;
            if let Some(ready) = self.ready.get_mut(usize::from(message.priority)) {
                ready.remove(first);
            }
        }
    }

    /// Takes back a delivery that did not happen.
    pub(super) fn undo_lease(&mut self, receipt: Receipt, now_ms: u64) {
        if let Some(message) = self.messages.get_mut(receipt.offset)
            && message.delivery_count == receipt.delivery_count
            && message.state.is_held()
        {
            message.delivery_count -= 1;
            self.put_back(receipt.offset, 0, now_ms);
        }
    }

    /// Begins to settle a message: nobody else gets it until it is known how that went. `false` if the
    /// receipt is stale: the message is done with, was delivered again or is being settled.
    ///
    /// A lease that has ended is no obstacle as long as the message was not delivered again.
    pub(super) fn settle(&mut self, receipt: Receipt) -> bool {
        let Some(message) = self.messages.get_mut(receipt.offset) else {
            return false;
        };
        if message.delivery_count != receipt.delivery_count || receipt.delivery_count == 0 {
            return false;
        }
        match message.state {
            State::Settling { .. } => false,
            State::Leased { lease } => {
                message.state = State::Settling {
                    before: Before::Leased { lease },
                };
                true
            }
            State::Ready | State::Behind | State::Delayed { .. } => self.take(receipt.offset),
        }
    }

    /// What was begun with `settle` or `take` did not happen: the message is what it was before.
    pub(super) fn undo_settle(&mut self, offset: u64, now_ms: u64) {
        let Some(message) = self.messages.get_mut(offset) else {
            return;
        };
        let State::Settling { before } = message.state else {
            return;
        };
        match before {
            Before::Leased { lease } if self.leases.contains(lease) => {
                message.state = State::Leased { lease };
            }
            Before::Leased { .. } => self.put_back(offset, 0, now_ms),
            Before::Waiting { until_ms } | Before::Leaving { until_ms } => {
                self.put_back(offset, until_ms, now_ms);
            }
        }
    }

    /// As [`settle`](Self::settle), but a message that was released with a delay stays released until
    /// that is over: then nothing can make it wait for less than what is stored.
    pub(super) fn settle_held(&mut self, receipt: Receipt) -> bool {
        let message = self.messages.get(receipt.offset);
        let is_delayed =
            message.is_some_and(|message| matches!(message.state, State::Delayed { .. }));
        !is_delayed && self.settle(receipt)
    }

    /// Gives messages a lease until another time; returns those whose receipt is stale.
    pub(super) fn extend(&mut self, receipts: &[Receipt], deadline_ms: u64) -> Vec<Receipt> {
        let lease = self.leases.next_id();
        let (mut offsets, mut stale) = (Vec::new(), Vec::new());
        for receipt in receipts {
            if !self.settle_held(*receipt) {
                stale.push(*receipt);
                continue;
            }
            if let Some(message) = self.messages.get_mut(receipt.offset) {
                if let State::Settling {
                    before: Before::Leased { lease: old },
                } = message.state
                {
                    self.leases.leave(old);
                }
                message.state = State::Leased { lease };
                offsets.push(receipt.offset);
            }
        }
        self.leases.add(deadline_ms, offsets);
        stale
    }

    /// Lets a message that is held wait again, until `until_ms` if that is later than now.
    pub(super) fn put_back(&mut self, offset: u64, until_ms: u64, now_ms: u64) {
        let Some(group) = self.let_go(offset) else {
            return;
        };
        self.wait(offset, until_ms, now_ms);
        if group != 0 {
            self.groups.let_go(group);
            self.offer(group);
        }
    }

    /// A held message leaves its lease; its group, or `None` if it is not held. The group still
    /// counts it.
    fn let_go(&mut self, offset: u64) -> Option<u64> {
        let message = self.messages.get_mut(offset)?;
        match message.state {
            State::Leased { lease }
            | State::Settling {
                before: Before::Leased { lease },
            } => self.leases.leave(lease),
            State::Settling {
                before: Before::Leaving { .. },
            } => self.leaving -= 1,
            State::Settling { .. } => {}
            _ => return None,
        }
        self.held -= 1;
        message.state = State::Behind;
        Some(message.group)
    }

    /// A message is done with: it was held, or it is being taken in and known to be. `true` if another
    /// of its group has become ready.
    pub(super) fn finish(&mut self, offset: u64) -> bool {
        let mut has_ready = false;
        if let Some(group) = self.let_go(offset)
            && let Some(message) = self.messages.remove(offset)
        {
            self.given_back.forget(offset);
            if message.expires_at_ms != u64::MAX {
                self.expiring.remove(message.expires_at_ms, offset);
            }
            if group != 0 {
                self.groups.let_go(group);
                has_ready = self.offer(group);
            }
        }
        self.progress.finish(offset);
        has_ready
    }

    /// The deliveries of a message so far, and what it waits for.
    pub(super) fn state(&self, offset: u64) -> (u32, State) {
        match self.messages.get(offset) {
            Some(message) => (message.delivery_count, message.state),
            None => (0, State::Ready),
        }
    }

    /// When the lease of a message ends, in ms since the epoch.
    pub(super) fn deadline_ms(&self, lease: LeaseId) -> Option<u64> {
        self.leases.deadline_ms(lease)
    }

    /// A prefix of messages that are done with and worth removing from the store now.
    pub(super) fn worth_trimming(&mut self) -> Option<Trim> {
        self.progress.worth_trimming()
    }

    /// The prefix of messages that are done with, as far as it can be removed from the store.
    pub(super) fn trim(&self) -> Option<Trim> {
        self.progress.trim()
    }

    /// Batches behind `from`, between others, of which nothing is left and that are worth removing from the store.
    pub(super) fn hole(&self, from: u64) -> Option<Hole> {
        self.progress.hole(from)
    }

    /// Takes note that a hole has been made.
    pub(super) fn hollowed(&mut self, hole: Hole) {
        self.progress.hollowed(hole);
    }

    /// Takes note that a prefix has been removed.
    pub(super) fn trimmed(&mut self, trim: Trim) {
        self.progress.trimmed(trim);
    }

    /// Entries, and chunks of them, that were visited so far.
    #[cfg(test)]
    pub(super) fn visit_count(&self) -> u64 {
        let of_ready = self.ready.iter().map(OffsetSet::visit_count);
        of_ready.sum::<u64>()
            + self.progress.visit_count()
            + self.groups.visits.count()
            + self.leases.visits.count()
            + self.messages.visits.count()
            + self.given_back.visits.count()
            + self.delayed.visits.count()
            + self.expiring.visits.count()
    }

    /// Finishes all messages, held ones too.
    pub(super) fn purge(&mut self) {
        for ready in &mut self.ready {
            ready.clear();
        }
        self.messages = Messages::default();
        self.given_back = GivenBackByOffset::default();
        self.groups.clear();
        self.delayed = Times::default();
        self.expiring = Times::default();
        self.leases.clear();
        self.held = 0;
        self.leaving = 0;
        let mut next = self.progress.next_live(0);
        while let Some(offset) = next {
            self.progress.finish(offset);
            next = self.progress.next_live(offset + 1);
        }
    }
}

impl Message {
    fn plain(priority: u8) -> Self {
        Self {
            delivery_count: 0,
            priority,
            group: 0,
            expires_at_ms: u64::MAX,
            state: State::Ready,
        }
    }
}
