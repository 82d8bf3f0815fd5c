//! Keyed state in memory, for plugins that are measured outside a pipeline.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::plugin::{RangeLimit, StateChanges, StateReader};

/// State of one instance. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryState(Arc<Mutex<BTreeMap<Bytes, Bytes>>>);

impl MemoryState {
    /// Takes over the changes of a batch.
    pub(super) fn apply(&self, changes: StateChanges) {
        if changes.is_empty() {
            return;
        }
        let mut entries = self.0.lock();
        for (key, value) in changes {
            match value {
                Some(value) => drop(entries.insert(key, value)),
                None => drop(entries.remove(&key)),
            }
        }
    }

    /// Number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl StateReader for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        Ok(self.0.lock().get(key).cloned())
    }

    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let bounds = (
            Bound::Included(from),
            to.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let entries = self.0.lock();
        let found = entries.range::<[u8], _>(bounds).take(limit.entries);
        Ok(found
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_seen() {
        let state = MemoryState::default();
        let set = |key: &'static str, value: Option<&'static str>| {
            (Bytes::from(key), value.map(Bytes::from))
        };
        state.apply(vec![
            set("a", Some("1")),
            set("b", Some("2")),
            set("c", Some("3")),
        ]);
        state.apply(vec![set("b", None)]);
        assert_eq!(state.len(), 2);
        assert_eq!(state.get(b"a").unwrap(), Some(Bytes::from("1")));
        let limit = RangeLimit {
            entries: 9,
            bytes: usize::MAX,
        };
        assert_eq!(state.range(b"a", Some(b"c"), limit).unwrap().len(), 1);
        assert_eq!(state.range(b"a", None, limit).unwrap().len(), 2);
        assert_eq!(state.range(b"b", Some(b"a"), limit).unwrap().len(), 0);
    }
}
