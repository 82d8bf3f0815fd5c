//! Tests of the write-set and of reads through it, against a plain ordered map.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

type Map = BTreeMap<Bytes, Bytes>;

const NO_LIMITS: StateLimits = StateLimits {
    write_bytes: usize::MAX,
    read_bytes: usize::MAX,
};

/// State behind the write-set, as a task would have it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Map>>);

impl StateReader for Shared {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        Ok(self.0.lock().get(key).cloned())
    }

    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        let map = self.0.lock();
        let range = map.range::<[u8], _>((Bound::Included(from), to));
        let mut read_bytes = 0;
        Ok(range
            .take(limit.entries)
            .take_while(|(k, v)| {
                let is_within = read_bytes <= limit.bytes;
                read_bytes += k.len() + v.len();
                is_within
            })
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

#[derive(Debug, Clone)]
enum Step {
    Get(u8),
    Put(u8, u8),
    Delete(u8),
    Range(u8, Option<u8>, usize),
    Commit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..12).prop_map(Step::Get),
        (0u8..12, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        (0u8..12).prop_map(Step::Delete),
        (0u8..12, prop::option::of(0u8..14), 0usize..8).prop_map(|(f, t, n)| Step::Range(f, t, n)),
        Just(Step::Commit),
    ]
}

fn key(k: u8) -> Bytes {
    Bytes::copy_from_slice(&[k])
}

proptest! {
    #[test]
    fn reads_see_writes(steps in prop::collection::vec(step(), 1..80)) {
        let shared = Shared::default();
        let mut state = State::new(Box::new(shared.clone()), NO_LIMITS);
        let mut model = Map::new();
        for step in steps {
            match step {
                Step::Get(k) => prop_assert_eq!(state.get(&key(k)).unwrap(), model.get(&key(k)).cloned()),
                Step::Put(k, v) => {
                    state.write(key(k), Some(key(v))).unwrap();
                    model.insert(key(k), key(v));
                }
                Step::Delete(k) => {
                    state.write(key(k), None).unwrap();
                    model.remove(&key(k));
                }
                Step::Range(from, to, limit) => {
                    let expected: Vec<_> = model
                        .iter()
                        .filter(|(k, _)| **k >= key(from) && to.is_none_or(|to| **k < key(to)))
                        .take(limit)
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect();
                    let to = to.map(key);
                    prop_assert_eq!(state.range(&key(from), to.as_deref(), limit).unwrap(), expected);
                }
                Step::Commit => {
                    let mut map = shared.0.lock();
                    let changes = state.take_changes();
                    let keys: BTreeSet<_> = changes.iter().map(|(k, _)| k.clone()).collect();
                    prop_assert_eq!(keys.len(), changes.len());
                    for (k, v) in changes {
                        match v {
                            Some(v) => map.insert(k, v),
                            None => map.remove(&k),
                        };
                    }
                    prop_assert_eq!(&*map, &model);
                }
            }
        }
    }
}

#[test]
fn changes_keep_the_order_of_their_first_write() {
    let mut writes = WriteSet::default();
    for (k, v) in [(3, 1), (1, 1), (3, 2), (2, 1)] {
        writes.put(key(k), Some(key(v)));
    }
    writes.put(key(1), None);
    let expected = [
        (key(3), Some(key(2))),
        (key(1), None),
        (key(2), Some(key(1))),
    ];
    assert_eq!(writes.take(), expected);
    assert!(writes.take().is_empty());
    assert_eq!(writes.get(&key(3)), None);
}

#[test]
fn limits_hold() {
    let limits = StateLimits {
        write_bytes: 130,
        read_bytes: 10,
    };
    let mut state = State::new(Box::new(NoState), limits);
    state.write(key(1), Some(key(1))).unwrap();
    let error = state.write(key(1), Some(key(1))).unwrap_err();
    assert_eq!(error.to_string(), "one batch wrote more than 130 bytes");
    state.take_changes();
    state.write(key(1), None).unwrap();
    let long = Bytes::from(vec![0; MAX_STATE_KEY_BYTES + 1]);
    assert!(state.write(long, None).is_err());
    let large = Bytes::from(vec![0; MAX_STATE_VALUE_BYTES + 1]);
    let error = State::new(Box::new(NoState), NO_LIMITS)
        .write(key(1), Some(large))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a value has 8388609 bytes, at most 8388608 are allowed"
    );
    let mut column = Column::new(2, limits);
    column.push(b"1234567").unwrap();
    let error = column.push(b"1234567").unwrap_err();
    assert_eq!(
        error.to_string(),
        "one call read more than 10 bytes (limits.memory)"
    );
}

#[test]
fn a_range_beyond_the_limit_is_a_fault_and_reads_no_further() {
    /// Has no end.
    struct Endless(Arc<Mutex<usize>>);
    impl StateReader for Endless {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, String> {
            Ok(None)
        }
        fn range(
            &self,
            _: &[u8],
            _: Option<&[u8]>,
            limit: RangeLimit,
        ) -> Result<Vec<(Bytes, Bytes)>, String> {
            let entry = |n: usize| (Bytes::from(format!("{n:08}")), Bytes::from(vec![0; 92]));
            let count = limit.entries.min(limit.bytes / 100 + 1);
            *self.0.lock() += count;
            Ok((0..count).map(entry).collect())
        }
    }
    let limits = StateLimits {
        write_bytes: 10_000,
        read_bytes: 1_000,
    };
    let read = Arc::new(Mutex::new(0));
    let mut state = State::new(Box::new(Endless(Arc::clone(&read))), limits);
    assert_eq!(state.range(b"", None, 10).unwrap().len(), 10);
    *read.lock() = 0;
    let error = state.range(b"", None, 65_536).unwrap_err();
    assert_eq!(
        error.to_string(),
        "one call read more than 1000 bytes (limits.memory)"
    );
    assert_eq!(*read.lock(), 11);
    // Also if the batch has removed what the reader found: beyond it there may be more.
    for n in 0..20 {
        let key = Bytes::from(format!("{n:08}"));
        state.write(key, None).unwrap();
    }
    assert!(state.range(b"", None, 10).is_err());
    // What the batch itself has written counts, too.
    let mut state = State::new(Box::new(NoState), limits);
    state
        .write(key(1), Some(Bytes::from(vec![0; 1_000])))
        .unwrap();
    assert!(state.range(b"", None, 1).is_err());
}

#[test]
fn a_failing_reader_is_a_state_fault() {
    struct Broken;
    impl StateReader for Broken {
        fn get(&self, _: &[u8]) -> Result<Option<Bytes>, String> {
            Err("disk on fire".into())
        }
        fn range(
            &self,
            _: &[u8],
            _: Option<&[u8]>,
            _: RangeLimit,
        ) -> Result<Vec<(Bytes, Bytes)>, String> {
            Err("disk on fire".into())
        }
    }
    let mut state = State::new(Box::new(Broken), NO_LIMITS);
    let error = state.get(b"k").unwrap_err();
    assert!(
        matches!(error.downcast_ref::<HostFault>(), Some(HostFault::State(r)) if r == "disk on fire")
    );
    assert!(state.range(b"", None, 1).is_err());
}
