//! Which deduplication ids were enqueued within the queue's window.
//!
//! They are stored beside the messages, in the same commit, so that an id is known after a restart
//! and after its message was acknowledged. Memory: some 60 bytes for each id of the window.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::shared::Queue;
use super::{Error, attributes};
use crate::storage::schema::{KeyKind, deduplication as stored_ids};
use crate::storage::{self, Commit, Scan};

/// The ids of a queue.
#[derive(Debug, Default)]
pub(super) struct Deduplication {
    is_loaded: bool,
    ids: HashMap<u128, Id>,
    /// Ids by the time of their enqueuing; those that were forgotten since are still named.
    by_time: VecDeque<(u64, u128)>,
    next_sequence: u64,
    next_owner: u64,
    /// Entries that were stored before are deleted.
    deleted_to_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Id {
    enqueued_at_ms: u64,
    /// The messages that it was reserved for together; `None` once the commit has happened.
    owner: Option<u64>,
}

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing; from now on it is reserved.
    Reserved,
    /// It was enqueued within the window, or is among those that are enqueued together.
    Duplicate,
    /// It is being enqueued, and nobody knows whether it will be.
    Undecided,
}

impl Deduplication {
    fn reserve(&mut self, id: u128, owner: u64, now_ms: u64, window_ms: u64) -> Known {
        self.forget_before(now_ms.saturating_sub(window_ms));
        match self.ids.get(&id) {
            Some(known) if known.owner.is_none_or(|other| other == owner) => Known::Duplicate,
            Some(_) => Known::Undecided,
            None => {
                self.remember(id, now_ms, Some(owner));
                Known::Reserved
            }
        }
    }

    fn remember(&mut self, id: u128, enqueued_at_ms: u64, owner: Option<u64>) {
        let known = Id {
            enqueued_at_ms,
            owner,
        };
        self.ids.insert(id, known);
        self.by_time.push_back((enqueued_at_ms, id));
    }

    fn forget_before(&mut self, before_ms: u64) {
        while let Some((at_ms, id)) = self.by_time.front().copied() {
            if at_ms >= before_ms {
                return;
            }
            self.by_time.pop_front();
            // A later one of the same id is another entry; one that is undecided is not forgotten.
            match self.ids.get(&id) {
                Some(known) if known.enqueued_at_ms == at_ms && known.owner.is_none() => {
                    self.ids.remove(&id);
                }
                _ => {}
            }
        }
    }

    /// The commit that reserved the ids happened, or not.
    fn decide(&mut self, ids: &[u128], happened: bool, now_ms: u64) {
        for id in ids {
            if !happened {
                self.ids.remove(id);
            } else if let Some(known) = self.ids.get_mut(id) {
                known.owner = None;
                known.enqueued_at_ms = now_ms;
                // It may have left the list while it was undecided.
                self.by_time.push_back((now_ms, *id));
            }
        }
    }
}

impl Queue {
    /// What messages that are enqueued together reserve their ids as: they happen together or not at all.
    pub(super) fn id_owner(&self) -> u64 {
        let mut known = self.state.deduplication.lock();
        known.next_owner += 1;
        known.next_owner
    }

    /// Reserves a deduplication id for a message; `None` if it is a duplicate.
    ///
    /// # Errors
    /// [`Error::Undecided`]; reading what is stored.
    pub(super) fn reserve_id(&self, id: &[u8], owner: u64) -> Result<Option<u128>, Error> {
        let mut known = self.state.deduplication.lock();
        if !known.is_loaded {
            self.load_ids(&mut known)?;
        }
        let hash = attributes::deduplication_hash(id);
        let window_ms = self.config().deduplication_window_ms;
        match known.reserve(hash, owner, self.now_ms(), window_ms) {
            Known::Reserved => Ok(Some(hash)),
            Known::Duplicate => Ok(None),
            Known::Undecided => Err(Error::Undecided),
        }
    }

    fn load_ids(&self, known: &mut Deduplication) -> Result<(), Error> {
        let (from, to) = (
            stored_ids::key(self.id(), 0, 0),
            stored_ids::key(self.id(), u64::MAX, u64::MAX),
        );
        self.store
            .scan(KeyKind::Deduplication, &from, Some(&to), |key, value| {
                let parsed = stored_ids::parse_key(key).zip(stored_ids::parse_value(value));
                let ((_, at_ms, sequence), ids) =
                    parsed.ok_or_else(|| storage::Error::Damaged {
                        what: format!("deduplication ids of queue `{}`", self.name()),
                        reason: "malformed".to_owned(),
                    })?;
                known.next_sequence = known.next_sequence.max(sequence.saturating_add(1));
                for id in ids {
                    known.remember(id, at_ms, None);
                }
                Ok(Scan::Continue)
            })?;
        known.is_loaded = true;
        Ok(())
    }

    /// Adds ids that are reserved to a commit; they are kept or free again when it is decided.
    pub(super) fn remember_ids_in(&self, ids: Vec<u128>, commit: &mut Commit) {
        let now_ms = self.now_ms();
        let window_ms = self.config().deduplication_window_ms;
        {
            let mut known = self.state.deduplication.lock();
            let sequence = known.next_sequence;
            known.next_sequence += 1;
            commit.put_deduplication(self.id(), now_ms, sequence, &ids);
            let outdated_ms = now_ms.saturating_sub(window_ms);
            // Not each time: a deleted range costs as much as many entries.
            if outdated_ms.saturating_sub(known.deleted_to_ms) > window_ms / 4 + 1_000 {
                commit.delete_deduplication(self.id(), known.deleted_to_ms, outdated_ms);
                known.deleted_to_ms = outdated_ms;
            }
        }
        let state = std::sync::Arc::clone(&self.state);
        commit.on_outcome(move |happened| {
            state.deduplication.lock().decide(&ids, happened, now_ms);
            state.changed.notify_waiters();
        });
    }

    /// Frees ids that were reserved and not added to a commit.
    pub(super) fn free_ids(&self, ids: &[u128]) {
        if !ids.is_empty() {
            self.state.deduplication.lock().decide(ids, false, 0);
            self.state.changed.notify_waiters();
        }
    }
}
