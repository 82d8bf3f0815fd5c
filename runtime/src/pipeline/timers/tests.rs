//! Timers of a task against a sorted map, over restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::storage::{Durability, StoreOptions};

const PIPELINE: u32 = 7;
const TASK: u32 = 3;

fn open(path: &std::path::Path) -> Store {
    let options = StoreOptions {
        durability: Durability::Os,
        ..StoreOptions::default()
    };
    Store::open(path, options).unwrap()
}

fn set(due_ms: u64, key: &[u8], payload: u8) -> TimerChange {
    TimerChange {
        due_ms,
        key: Bytes::copy_from_slice(key),
        payload: Some(Bytes::copy_from_slice(&[payload])),
    }
}

fn cancel(due_ms: u64, key: &[u8]) -> TimerChange {
    TimerChange {
        payload: None,
        ..set(due_ms, key, 0)
    }
}

/// A store, and what a task knows of its timers there.
struct Scene {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    /// Both are closed together.
    opened: Option<(Store, TaskTimers)>,
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap(),
            folder: tempfile::tempdir().unwrap(),
            opened: None,
        };
        scene.reopen();
        scene
    }

    fn reopen(&mut self) {
        self.opened = None;
        let store = open(self.folder.path());
        let timers = TaskTimers::open(store.clone(), PIPELINE, TASK).unwrap();
        self.opened = Some((store, timers));
    }

    fn timers(&mut self) -> &mut TaskTimers {
        &mut self.opened.as_mut().unwrap().1
    }

    fn commit(&self, commit: Commit) {
        let (store, _) = self.opened.as_ref().unwrap();
        self.runtime.block_on(store.commit(commit)).unwrap();
    }

    fn apply(&mut self, changes: Vec<TimerChange>) {
        let mut commit = Commit::new();
        self.timers().apply(changes, &mut commit);
        self.commit(commit);
    }

    /// Takes timers that are due and removes them, and sets others in the same checkpoint.
    fn fire(&mut self, now_ms: u64, max: usize, sets: Vec<TimerChange>) -> Vec<(u64, Bytes, u8)> {
        let due = self.timers().take_due(now_ms, max, usize::MAX).unwrap();
        let mut commit = Commit::new();
        for timer in &due {
            self.timers().remove(timer.due_ms, &timer.key, &mut commit);
        }
        self.timers().apply(sets, &mut commit);
        self.commit(commit);
        let due = due.into_iter();
        due.map(|timer| (timer.due_ms, timer.key, timer.payload[0]))
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<TimerChange>),
    Fire {
        now_ms: u64,
        max: usize,
        sets: Vec<TimerChange>,
    },
    Reopen,
}

fn change() -> impl Strategy<Value = TimerChange> {
    let key = prop::collection::vec(0u8..3, 0..3);
    (0u64..12, key, prop::option::weighted(0.7, any::<u8>())).prop_map(|(due_ms, key, payload)| {
        match payload {
            Some(payload) => set(due_ms, &key, payload),
            None => cancel(due_ms, &key),
        }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = || prop::collection::vec(change(), 0..5);
    let step = prop_oneof![
        3 => changes().prop_map(Step::Apply),
        3 => (0u64..12, 1usize..5, changes())
            .prop_map(|(now_ms, max, sets)| Step::Fire { now_ms, max, sets }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Each timer fires once, in the order of time and key, whatever is set meanwhile.
    #[test]
    fn timers_are_what_a_sorted_map_would_be(steps in steps()) {
        let mut scene = Scene::new();
        let mut model: BTreeMap<(u64, Bytes), u8> = BTreeMap::new();
        let note = |model: &mut BTreeMap<(u64, Bytes), u8>, changes: &[TimerChange]| {
            for change in changes {
                let timer = (change.due_ms, change.key.clone());
                match &change.payload {
                    Some(payload) => drop(model.insert(timer, payload[0])),
                    None => drop(model.remove(&timer)),
                }
            }
        };
        for step in steps {
            match step {
                Step::Apply(changes) => {
                    note(&mut model, &changes);
                    scene.apply(changes);
                }
                Step::Fire { now_ms, max, sets } => {
                    let expected: Vec<_> = model
                        .iter()
                        .filter(|((due_ms, _), _)| *due_ms <= now_ms)
                        .take(max)
                        .map(|((due_ms, key), payload)| (*due_ms, key.clone(), *payload))
                        .collect();
                    for (due_ms, key, _) in &expected {
                        model.remove(&(*due_ms, key.clone()));
                    }
                    note(&mut model, &sets);
                    prop_assert_eq!(scene.fire(now_ms, max, sets), expected);
                }
                Step::Reopen => scene.reopen(),
            }
            // Never later than the first one; exactly that once somebody has looked.
            let first_ms = model.keys().next().map(|(due_ms, _)| *due_ms);
            let next_ms = scene.timers().next_due_ms();
            prop_assert!(first_ms.is_none_or(|first_ms| next_ms.is_some_and(|next| next <= first_ms)));
            let store = &scene.opened.as_ref().unwrap().0;
            let pending = pending(store, PIPELINE).unwrap();
            prop_assert_eq!((pending.count, pending.next_due_ms), (model.len() as u64, first_ms));
        }
    }
}

#[test]
fn what_has_fired_is_not_read_again() {
    let mut scene = Scene::new();
    scene.apply((0..10).map(|n| set(n, b"k", 0)).collect());
    assert_eq!(scene.timers().next_due_ms(), Some(0));
    assert_eq!(scene.fire(6, 3, Vec::new()).len(), 3);
    assert_eq!(scene.timers().next_due_ms(), Some(3));
    // Not removed yet: a task with a batch of timers in hand asks for those after it.
    assert_eq!(scene.timers().take_due(4, 9, 99).unwrap().len(), 2);
    assert_eq!(scene.timers().take_due(4, 9, 99).unwrap(), []);
    // It was never removed: after a restart it is there.
    scene.reopen();
    assert_eq!(scene.timers().next_due_ms(), Some(3));
    // A time that has passed comes first.
    scene.apply(vec![set(1, b"k", 0)]);
    assert_eq!(scene.timers().next_due_ms(), Some(1));
}

#[test]
fn a_batch_of_timers_is_bounded_in_bytes() {
    let mut scene = Scene::new();
    scene.apply((0..10).map(|n| set(n, b"key", 0)).collect());
    // Four bytes each: the one that reaches the bound is the last.
    assert_eq!(scene.timers().take_due(99, 99, 5).unwrap().len(), 2);
    assert_eq!(scene.timers().next_due_ms(), Some(2));
}

#[test]
fn tasks_and_pipelines_have_their_own() {
    let mut scene = Scene::new();
    scene.apply(vec![set(5, b"k", 1)]);
    let store = scene.opened.as_ref().unwrap().0.clone();
    for (pipeline_id, task) in [
        (PIPELINE, TASK + 1),
        (PIPELINE + 1, TASK),
        (PIPELINE - 1, TASK),
    ] {
        let mut timers = TaskTimers::open(store.clone(), pipeline_id, task).unwrap();
        assert_eq!(timers.next_due_ms(), None);
        assert_eq!(timers.take_due(9, 9, 9).unwrap(), []);
    }
}
