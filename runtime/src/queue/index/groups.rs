//! FIFO groups: the messages of one are delivered in order, one after the other.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::queue::visits::Visits;

/// The groups that have messages.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<u64, Group>,
    pub(super) visits: Visits,
}

#[derive(Debug, Default)]
struct Group {
    /// Messages that wait, ascending.
    waiting: VecDeque<u64>,
    /// Messages that somebody holds; while there are any, those that wait stay where they are.
    held: u32,
}

impl Groups {
    /// Adds a message that waits.
    pub(super) fn add(&mut self, group: u64, offset: u64) {
        self.visits.note();
        let waiting = &mut self.groups.entry(group).or_default().waiting;
        match waiting.back() {
            Some(last) if *last > offset => {
                let at = waiting.partition_point(|waiting| *waiting < offset);
                waiting.insert(at, offset);
            }
            _ => waiting.push_back(offset),
        }
    }

    /// Takes a message out of those that wait, for somebody to hold.
    pub(super) fn hold(&mut self, group: u64, offset: u64) {
        self.visits.note();
        let Some(group) = self.groups.get_mut(&group) else {
            return;
        };
        if let Ok(at) = group.waiting.binary_search(&offset) {
            group.waiting.remove(at);
            group.held += 1;
        }
    }

    /// A message is held no more.
    pub(super) fn let_go(&mut self, group: u64) {
        self.visits.note();
        let is_empty = self.groups.get_mut(&group).is_some_and(|group| {
            group.held = group.held.saturating_sub(1);
            group.held == 0 && group.waiting.is_empty()
        });
        if is_empty {
            self.groups.remove(&group);
        }
    }

    /// The first message that waits.
    pub(super) fn first(&self, group: u64) -> Option<u64> {
        self.visits.note();
        self.groups.get(&group)?.waiting.front().copied()
    }

    /// Whether somebody holds a message of the group.
    pub(super) fn is_held(&self, group: u64) -> bool {
        self.visits.note();
        self.groups.get(&group).is_some_and(|group| group.held > 0)
    }

    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }
}
