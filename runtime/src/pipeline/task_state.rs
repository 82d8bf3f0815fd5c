//! The keyed state of one task.
//!
//! A checkpoint writes its changes as one changelog entry, which is far cheaper than a put for each
//! key. Changes stay in memory until they are folded: then one checkpoint writes the newest value
//! of every changed key and drops the changelog. A restart replays what was not folded. The folded
//! generation stays in memory as a cache until the next one takes its place, if its commit is in the
//! store by then; else the two stay together.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::plugin::RangeLimit;
use crate::storage::schema::changelog::{self, Change};
use crate::storage::schema::{KeyKind, prefix_end, state};
use crate::storage::{Commit, Error, Scan, Store};

/// Bytes of unfolded changes after which they are folded.
const FOLD_BYTES: usize = 4 << 20;
/// Changelog entries after which they are folded, so that a restart is quick.
const FOLD_ENTRIES: u64 = 1024;
/// What an entry of the map costs besides its key and value.
const ENTRY_BYTES: usize = 64;

type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// The state of a task: what is stored, under what was changed since.
pub(super) struct TaskState {
    store: Store,
    pipeline_id: u32,
    partition: u32,
    /// Changes that are in the changelog only.
    unfolded: Changes,
    unfolded_bytes: usize,
    /// What was folded last, and what was folded before while that was not in the store.
    folded: Changes,
    /// Whether the commit of the last fold is in the store.
    is_fold_stored: Arc<AtomicBool>,
    /// The first sequence that may be in the changelog.
    first_sequence: u64,
    next_sequence: u64,
}

impl TaskState {
    /// Reads the unfolded changes of a task.
    pub(super) fn open(store: Store, pipeline_id: u32, partition: u32) -> Result<Self, Error> {
        let mut state = Self {
            store: store.clone(),
            pipeline_id,
            partition,
            unfolded: Changes::new(),
            unfolded_bytes: 0,
            folded: Changes::new(),
            is_fold_stored: Arc::new(AtomicBool::new(true)),
            first_sequence: 0,
            next_sequence: 0,
        };
        let from = changelog::key(pipeline_id, partition, 0);
        let to = changelog::key(pipeline_id, partition, u64::MAX);
        let mut is_first = true;
        store.scan(KeyKind::Changelog, &from, Some(&to), |key, value| {
            let damaged = || Error::Damaged {
                what: "a changelog entry".to_owned(),
                reason: "malformed".to_owned(),
            };
            let (_, _, sequence) = changelog::parse_key(key).ok_or_else(damaged)?;
            let changes =
                changelog::parse_value(&Bytes::copy_from_slice(value)).ok_or_else(damaged)?;
            if std::mem::take(&mut is_first) {
                state.first_sequence = sequence;
            }
            state.next_sequence = sequence.saturating_add(1);
            state.remember(changes);
            Ok(Scan::Continue)
        })?;
        Ok(state)
    }

    /// Whether any task of a pipeline has state.
    pub(super) fn exists(store: &Store, pipeline_id: u32) -> Result<bool, Error> {
        let mut exists = false;
        let mut found = |_: &[u8], _: &[u8]| {
            exists = true;
            Ok(Scan::Stop)
        };
        let (from, to) = (
            state::task_prefix(pipeline_id, 0),
            state::task_prefix(pipeline_id, u32::MAX),
        );
        store.scan(KeyKind::State, &from, Some(&to), &mut found)?;
        let (from, to) = (
            changelog::key(pipeline_id, 0, 0),
            changelog::key(pipeline_id, u32::MAX, u64::MAX),
        );
        store.scan(KeyKind::Changelog, &from, Some(&to), &mut found)?;
        Ok(exists)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        if let Some(value) = self.unfolded.get(key).or_else(|| self.folded.get(key)) {
            return Ok(value.clone());
        }
        self.store.get(
            KeyKind::State,
            &state::key(self.pipeline_id, self.partition, key),
        )
    }

    /// The entries with `from <= key`, and `key < to` if given, in order, until `limit` is reached.
    pub(super) fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let mut found = Found::new(limit);
        if found.is_full() || to.is_some_and(|to| to <= from) {
            return Ok(found.entries);
        }
        let bounds = (
            Bound::Included(from),
            to.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let mut changed = MergedChanges {
            newer: self.unfolded.range::<[u8], _>(bounds).peekable(),
            older: self.folded.range::<[u8], _>(bounds).peekable(),
        }
        .peekable();
        let start = state::key(self.pipeline_id, self.partition, from);
        let end = match to {
            Some(to) => Some(state::key(self.pipeline_id, self.partition, to)),
            None => prefix_end(&state::task_prefix(self.pipeline_id, self.partition)),
        };
        self.store
            .scan(KeyKind::State, &start, end.as_deref(), |key, value| {
                let key = key.get(state::PREFIX_LEN_BYTES..).unwrap_or_default();
                while !found.is_full()
                    && let Some((changed_key, changed_value)) =
                        changed.next_if(|(changed, _)| *changed < key)
                {
                    found.push_changed(changed_key, changed_value);
                }
                if found.is_full() {
                    return Ok(Scan::Stop);
                }
                match changed.next_if(|(changed, _)| *changed == key) {
                    Some((_, changed_value)) => found.push_changed(key, changed_value),
                    None => found.push(key, Bytes::copy_from_slice(value)),
                }
                Ok(if found.is_full() {
                    Scan::Stop
                } else {
                    Scan::Continue
                })
            })?;
        while !found.is_full()
            && let Some((key, value)) = changed.next()
        {
            found.push_changed(key, value);
        }
        Ok(found.entries)
    }

    /// Takes over the changes of a checkpoint and adds them to its commit.
    pub(super) fn apply(&mut self, changes: Vec<Change>, commit: &mut Commit) {
        if changes.is_empty() {
            return;
        }
        if !self.is_fold_due() {
            commit.append_changelog(
                self.pipeline_id,
                self.partition,
                self.next_sequence,
                &changes,
            );
            self.next_sequence += 1;
            self.remember(changes);
            return;
        }
        self.remember(changes);
        fail::fail_point!("state::fold");
        for (key, value) in &self.unfolded {
            commit.write_state(self.pipeline_id, self.partition, key, value.as_ref());
        }
        commit.truncate_changelog(
            self.pipeline_id,
            self.partition,
            self.first_sequence,
            self.next_sequence,
        );
        self.first_sequence = self.next_sequence;
        // The parts of a batch are gathered in one checkpoint: there may be several folds in one that is not
        // on its way yet, and what the store has is older than all of them.
        if self.is_fold_stored.load(Ordering::Acquire) {
            self.folded.clear();
        }
        self.folded.append(&mut self.unfolded);
        self.unfolded_bytes = 0;
        let is_stored = Arc::new(AtomicBool::new(false));
        self.is_fold_stored = Arc::clone(&is_stored);
        commit.on_outcome(move |happened| is_stored.store(happened, Ordering::Release));
    }

    fn is_fold_due(&self) -> bool {
        // Tests fold at each checkpoint, and so come by every step of it.
        fail::fail_point!("state::fold-now", |_| true);
        self.unfolded_bytes >= FOLD_BYTES
            || self.next_sequence - self.first_sequence >= FOLD_ENTRIES
    }

    fn remember(&mut self, changes: Vec<Change>) {
        for (key, value) in changes {
            self.unfolded_bytes += value.as_ref().map_or(0, Bytes::len);
            let key_bytes = key.len() + ENTRY_BYTES;
            match self.unfolded.insert(key, value) {
                Some(replaced) => self.unfolded_bytes -= replaced.map_or(0, |value| value.len()),
                None => self.unfolded_bytes += key_bytes,
            }
        }
    }
}

/// What memory says about a range of keys, in their order; the newer generation wins.
struct MergedChanges<'a> {
    newer: Peekable<Range<'a, Bytes, Option<Bytes>>>,
    older: Peekable<Range<'a, Bytes, Option<Bytes>>>,
}

impl<'a> Iterator for MergedChanges<'a> {
    type Item = (&'a [u8], Option<&'a Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        let older_first = match (self.newer.peek(), self.older.peek()) {
            (Some((newer, _)), Some((older, _))) => {
                if newer == older {
                    self.older.next();
                    false
                } else {
                    older < newer
                }
            }
            (None, _) => true,
            (_, None) => false,
        };
        let next = if older_first {
            self.older.next()
        } else {
            self.newer.next()
        };
        next.map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}

/// The entries that a range query has found.
struct Found {
    entries: Vec<(Bytes, Bytes)>,
    bytes: usize,
    limit: RangeLimit,
}

impl Found {
    fn new(limit: RangeLimit) -> Self {
        Self {
            entries: Vec::new(),
            bytes: 0,
            limit,
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.limit.entries || self.bytes > self.limit.bytes
    }

    fn push(&mut self, key: &[u8], value: Bytes) {
        self.bytes += key.len() + value.len();
        self.entries.push((Bytes::copy_from_slice(key), value));
    }

    /// Adds what memory says of a key, unless it is removed.
    fn push_changed(&mut self, key: &[u8], value: Option<&Bytes>) {
        if let Some(value) = value {
            self.push(key, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StoreOptions;
    use proptest::prelude::*;

    fn open(path: &std::path::Path) -> Store {
        Store::open(
            path,
            StoreOptions {
                durability: crate::storage::Durability::Os,
                ..StoreOptions::default()
            },
        )
        .unwrap()
    }

    /// The parts of a batch are gathered in one checkpoint, which may hold several folds: what the first of
    /// them wrote is read although the store does not have it yet.
    #[test]
    fn folds_of_one_checkpoint_are_all_seen() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let mut state = TaskState::open(store.clone(), 7, 3).unwrap();
        let mut gathered = Commit::new();
        for key in ["a", "b", "c"] {
            state.unfolded_bytes = FOLD_BYTES;
            let change = (Bytes::from(key), Some(Bytes::from("new")));
            state.apply(vec![change], &mut gathered);
        }
        let read = |state: &TaskState| {
            ["a", "b", "c"].map(|key| state.get(key.as_bytes()).unwrap().map(|it| it.len()))
        };
        assert_eq!(read(&state), [Some(3); 3]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(store.commit(gathered)).unwrap();
        // From here on the store has them, and memory need not.
        state.unfolded_bytes = FOLD_BYTES;
        state.apply(vec![(Bytes::from("d"), None)], &mut Commit::new());
        assert_eq!(state.folded.len(), 1);
        assert_eq!(read(&state), [Some(3); 3]);
    }

    /// A step of the model: changes of one checkpoint, a fold, or a restart.
    #[derive(Clone, Debug)]
    enum Step {
        Apply(Vec<(u8, Option<u8>)>),
        Fold,
        Reopen,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let change = (0u8..12, prop::option::of(any::<u8>()));
        let step = prop_oneof![
            4 => prop::collection::vec(change, 1..6).prop_map(Step::Apply),
            1 => Just(Step::Fold),
            1 => Just(Step::Reopen),
        ];
        prop::collection::vec(step, 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn state_is_what_a_map_would_be(
            steps in steps(),
            from in 0u8..12,
            to in 0u8..12,
            limit in 0usize..8,
            limit_bytes in 0usize..12,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mut store = open(folder.path());
            let mut state = TaskState::open(store.clone(), 7, 3).unwrap();
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Apply(changes) => {
                        let changes: Vec<Change> = changes
                            .into_iter()
                            .map(|(key, value)| (vec![key].into(), value.map(|value| vec![value].into())))
                            .collect();
                        for (key, value) in &changes {
                            match value {
                                Some(value) => drop(model.insert(key.to_vec(), value.to_vec())),
                                None => drop(model.remove(&key.to_vec())),
                            }
                        }
                        let mut commit = Commit::new();
                        state.apply(changes, &mut commit);
                        runtime.block_on(store.commit(commit)).unwrap();
                    }
                    Step::Fold => state.unfolded_bytes = FOLD_BYTES,
                    Step::Reopen => {
                        drop(state);
                        drop(store);
                        store = open(folder.path());
                        state = TaskState::open(store.clone(), 7, 3).unwrap();
                    }
                }
                for key in 0..12u8 {
                    let expected = model.get(&vec![key]).cloned().map(Bytes::from);
                    prop_assert_eq!(state.get(&[key]).unwrap(), expected);
                }
                let expected: Vec<(Bytes, Bytes)> = match from < to {
                    true => model
                        .range(vec![from]..vec![to])
                        // Two bytes each, and the one that goes beyond the limit is there.
                        .take(limit.min(limit_bytes / 2 + 1))
                        .map(|(key, value)| (key.clone().into(), value.clone().into()))
                        .collect(),
                    false => Vec::new(),
                };
                let limit = RangeLimit { entries: limit, bytes: limit_bytes };
                prop_assert_eq!(state.range(&[from], Some(&[to]), limit).unwrap(), expected);
                let limit = RangeLimit { entries: usize::MAX, bytes: limit_bytes };
                let all = state.range(b"", None, limit).unwrap();
                prop_assert_eq!(all.len(), model.len().min(limit_bytes / 2 + 1));
            }
        }
    }
}
