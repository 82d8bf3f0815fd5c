//! Which leases there are and when they end. Messages that were leased together share an entry.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use crate::queue::visits::Visits;

/// A lease of some messages.
pub(super) type LeaseId = u64;

/// The leases of a queue.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<LeaseId, Lease>,
    /// `(deadline, lease)`.
    deadlines: BTreeSet<(u64, LeaseId)>,
    next_id: LeaseId,
    pub(super) visits: Visits,
}

#[derive(Debug)]
struct Lease {
    deadline_ms: u64,
    /// Those that have left are still named here.
    offsets: Vec<u64>,
    remaining: usize,
}

impl Leases {
    /// The id that the next lease gets.
    pub(super) fn next_id(&self) -> LeaseId {
        self.next_id
    }

    /// Adds a lease of these messages, under [`next_id`](Self::next_id).
    pub(super) fn add(&mut self, deadline_ms: u64, offsets: Vec<u64>) {
        self.visits.note();
        let id = self.next_id;
        if offsets.is_empty() {
            return;
        }
        self.next_id += 1;
        self.deadlines.insert((deadline_ms, id));
        let remaining = offsets.len();
        let lease = Lease {
            deadline_ms,
            offsets,
            remaining,
        };
        self.leases.insert(id, lease);
    }

    /// A message leaves its lease.
    pub(super) fn leave(&mut self, id: LeaseId) {
        self.visits.note();
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        lease.remaining -= 1;
        if lease.remaining == 0 {
            let deadline_ms = lease.deadline_ms;
            self.leases.remove(&id);
            self.deadlines.remove(&(deadline_ms, id));
        }
    }

    /// Whether a lease has not ended.
    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.visits.note();
        self.leases.contains_key(&id)
    }

    /// When a lease ends, in ms since the epoch.
    pub(super) fn deadline_ms(&self, id: LeaseId) -> Option<u64> {
        self.visits.note();
        self.leases.get(&id).map(|lease| lease.deadline_ms)
    }

    /// When the first lease ends, in ms since the epoch.
    pub(super) fn first_deadline_ms(&self) -> Option<u64> {
        self.visits.note();
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Ends the first lease, if its time has come; the messages named may have left it.
    pub(super) fn end_first(&mut self, now_ms: u64) -> Option<(LeaseId, Vec<u64>)> {
        self.visits.note();
        let first = *self.deadlines.first()?;
        if first.0 > now_ms {
            return None;
        }
        self.deadlines.remove(&first);
        let lease = self.leases.remove(&first.1)?;
        Some((first.1, lease.offsets))
    }

    pub(super) fn clear(&mut self) {
        self.leases.clear();
        self.deadlines.clear();
    }
}
