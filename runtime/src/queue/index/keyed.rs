//! What the index keeps of messages by their offset, and by time. Nothing here goes through all of it, and nothing
//! can: what a lease costs must not grow with what waits.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::Message;
use crate::queue::visits::Visits;

/// Messages that are more than a bit, by offset.
#[derive(Debug, Default)]
pub(super) struct Messages {
    by_offset: HashMap<u64, Message>,
    pub(super) visits: Visits,
}

impl Messages {
    pub(super) fn get(&self, offset: u64) -> Option<&Message> {
        self.visits.note();
        self.by_offset.get(&offset)
    }

    pub(super) fn get_mut(&mut self, offset: u64) -> Option<&mut Message> {
        self.visits.note();
        self.by_offset.get_mut(&offset)
    }

    /// The message, which is from now on one without attributes if it was but a bit.
    pub(super) fn get_or_insert_plain(&mut self, offset: u64, priority: u8) -> &mut Message {
        self.visits.note();
        let entry = self.by_offset.entry(offset);
        entry.or_insert_with(|| Message::plain(priority))
    }

    pub(super) fn insert(&mut self, offset: u64, message: Message) {
        self.visits.note();
        self.by_offset.insert(offset, message);
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<Message> {
        self.visits.note();
        self.by_offset.remove(&offset)
    }
}

/// `(time in ms, offset)`, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Times {
    times: BTreeSet<(u64, u64)>,
    pub(super) visits: Visits,
}

impl Times {
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    pub(super) fn first(&self) -> Option<(u64, u64)> {
        self.visits.note();
        self.times.first().copied()
    }

    pub(super) fn pop_first(&mut self) {
        self.visits.note();
        self.times.pop_first();
    }

    pub(super) fn insert(&mut self, time_ms: u64, offset: u64) {
        self.visits.note();
        self.times.insert((time_ms, offset));
    }

    pub(super) fn remove(&mut self, time_ms: u64, offset: u64) {
        self.visits.note();
        self.times.remove(&(time_ms, offset));
    }
}
