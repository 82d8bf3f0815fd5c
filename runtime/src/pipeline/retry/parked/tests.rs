//! What is kept in memory against what is stored, and what a group that fails costs.

use proptest::prelude::*;

use super::*;
use crate::model::{BatchBuilder, Compression, HeadersRef};
use crate::storage::tests::support::{START_MS, TestStore, cases};

const PIPELINE: u32 = 3;
const TASK: u32 = 1;

pub(super) fn record(offset: u64, attempt_count: u32, due_ms: u64) -> ParkedRecord {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .push(1, Some(b"key"), Some(b"value"), HeadersRef::EMPTY)
        .unwrap();
    ParkedRecord {
        input: 0,
        attempt_count,
        has_faulted: false,
        due_ms,
        first_failed_ms: 0,
        last_failed_ms: 0,
        reason: String::new(),
        record: builder.build().unwrap().unwrap().assign(offset),
    }
}

/// Completes a commit and stores it.
pub(super) fn store(directory: &TestStore, parked: &mut Parked, mut commit: Commit) {
    parked.complete(&mut commit);
    directory.commit(commit);
}

pub(super) fn open(directory: &TestStore) -> Parked {
    Parked::open(directory.store().clone(), PIPELINE, TASK).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    /// Parks so many records of a group, of which the first has failed.
    Park { group: u64, count: usize },
    /// Parks two records of a group in places that were reserved, the later one first.
    ParkLate { group: u64 },
    /// Tries what is due: so many go through, the next one fails again, and those behind it stay.
    Try { max_records: usize, done: usize },
    /// Starts anew.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..4, 1usize..90).prop_map(|(group, count)| Step::Park { group, count }),
        2 => (0u64..4).prop_map(|group| Step::ParkLate { group }),
        6 => (1usize..60, 0usize..60).prop_map(|(max_records, done)| Step::Try { max_records, done }),
        1 => Just(Step::Reopen),
    ]
}

/// What the records of a group are, by place, attempts and time.
fn told(found: &[Waiting]) -> Vec<(u64, u32, u64)> {
    let told = |waiting: &Waiting| {
        let parked = &waiting.parked;
        (waiting.sequence, parked.attempt_count, parked.due_ms)
    };
    found.iter().map(told).collect()
}

/// The first records of each group are those that are stored, whether they are in memory or not.
fn assert_as_stored(parked: &Parked, directory: &TestStore) {
    let mut stored = open(directory);
    assert_eq!(parked.len(), stored.len());
    let counted = parked_count(directory.store(), PIPELINE).unwrap();
    assert_eq!(counted, stored.len());
    assert_eq!(parked.groups.len(), stored.groups.len());
    let bytes: usize = parked.groups.values().map(|of| of.recent.len_bytes()).sum();
    assert_eq!(parked.recent_bytes, bytes);
    for (group, of) in &parked.groups {
        assert_eq!(
            of.stored.record_count,
            stored.groups[group].stored.record_count
        );
        assert_eq!(of.last_sequence, stored.groups[group].last_sequence);
        stored.groups.get_mut(group).unwrap().max_run = of.max_run;
        let expected = told(&stored.head_of(*group, 50, 1 << 20).unwrap());
        let found = told(&parked.head_of(*group, 50, 1 << 20).unwrap());
        assert!(!found.is_empty());
        assert_eq!(found, expected[..found.len()]);
        if of.recent.is_empty() {
            assert_eq!(found, expected);
        }
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn what_is_in_memory_is_what_is_stored(steps in prop::collection::vec(step(), 1..40)) {
        let directory = TestStore::new();
        let mut parked = open(&directory);
        let mut now_ms = START_MS;
        for step in steps {
            now_ms += 10;
            let mut commit = Commit::new();
            match step {
                Step::Park { group, count } => {
                    for at in 0..count {
                        let attempts = u32::from(at == 0 && !parked.contains(group));
                        parked.park(group, &record(at as u64, attempts, now_ms), &mut commit);
                    }
                }
                Step::ParkLate { group } => {
                    let first = parked.reserve(2);
                    for sequence in [first + 1, first] {
                        parked.park_at(sequence, group, &record(sequence, 0, now_ms), &mut commit);
                    }
                }
                Step::Try { max_records, done } => {
                    let due = parked.take_due(now_ms, max_records, 1 << 20, |_| false).unwrap();
                    let mut held = BTreeSet::new();
                    for (at, waiting) in due.iter().enumerate() {
                        if held.contains(&waiting.group) {
                            continue;
                        }
                        if at < done {
                            parked.remove(waiting, &mut commit);
                            continue;
                        }
                        held.insert(waiting.group);
                        let mut again = waiting.clone();
                        again.parked.attempt_count += 1;
                        again.parked.due_ms = now_ms + 5;
                        parked.park_again(&again, &mut commit);
                    }
                }
                Step::Reopen => parked = open(&directory),
            }
            store(&directory, &mut parked, commit);
            assert_as_stored(&parked, &directory);
        }
    }
}

/// A record that others have overtaken gets a place before them again, and none before what was before it.
#[test]
fn a_record_that_was_overtaken_finds_its_place_again() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    let mut commit = Commit::new();
    let running = parked.reserve(3);
    parked.park_at(running, 7, &record(5, 1, START_MS), &mut commit);
    parked.park(7, &record(8, 0, START_MS), &mut commit);
    store(&directory, &mut parked, commit);
    let mut parked = open(&directory);
    let behind = running + 3;
    let free = |parked: &Parked, taken: &[u64]| {
        let free = parked.free_before(7, behind, |place| taken.contains(&place));
        free.unwrap()
    };
    assert_eq!(free(&parked, &[]), Some(running + 2));
    assert_eq!(free(&parked, &[running + 2]), Some(running + 1));
    assert_eq!(free(&parked, &[running + 1, running + 2]), None);
    let mut commit = Commit::new();
    for (place, offset) in [(running + 2, 7), (running + 1, 6)] {
        parked.park_at(place, 7, &record(offset, 0, START_MS), &mut commit);
    }
    store(&directory, &mut parked, commit);
    assert_as_stored(&parked, &directory);
    let mut offsets = Vec::new();
    parked
        .visit(|waiting| {
            offsets.push(waiting.parked.record.base_offset());
            Further::Record
        })
        .unwrap();
    assert_eq!(offsets, [5, 6, 7, 8]);
}

/// A key of which every record fails once: what ran behind a record that failed ran for nothing, and there must
/// not be much of that.
#[test]
fn a_group_of_which_each_record_fails_once_costs_little() {
    const RECORDS: u64 = 600;
    let directory = TestStore::new();
    let mut parked = open(&directory);
    let mut commit = Commit::new();
    for offset in 0..RECORDS {
        parked.park(7, &record(offset, 0, START_MS), &mut commit);
    }
    store(&directory, &mut parked, commit);
    let mut run_count = 0;
    while !parked.is_empty() {
        let mut commit = Commit::new();
        let due = parked.take_due(u64::MAX, 512, 1 << 20, |_| false).unwrap();
        run_count += due.len() as u64;
        for waiting in &due {
            if waiting.parked.attempt_count > 0 {
                parked.remove(waiting, &mut commit);
                continue;
            }
            let mut again = waiting.clone();
            again.parked.attempt_count = 1;
            parked.park_again(&again, &mut commit);
            break;
        }
        store(&directory, &mut parked, commit);
    }
    // Each of them twice, and what waited behind it.
    assert!(run_count <= 4 * RECORDS, "{run_count}");
}

/// A group that goes through again is soon tried in whole batches.
#[test]
fn a_group_that_goes_through_is_done_in_large_batches() {
    const RECORDS: u64 = 5000;
    let directory = TestStore::new();
    let mut parked = open(&directory);
    let mut commit = Commit::new();
    for offset in 0..RECORDS {
        parked.park(7, &record(offset, 0, START_MS), &mut commit);
    }
    store(&directory, &mut parked, commit);
    let mut calls = 0;
    while !parked.is_empty() {
        let mut commit = Commit::new();
        let due = parked.take_due(START_MS, 512, 1 << 20, |_| false).unwrap();
        calls += 1;
        for waiting in &due {
            parked.remove(waiting, &mut commit);
        }
        store(&directory, &mut parked, commit);
    }
    assert!(calls <= 20, "{calls}");
}

/// However many records are parked, memory holds a bounded part of them, and of one key less.
#[test]
fn records_in_memory_are_bounded() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    let mut large = record(0, 0, START_MS);
    large.reason = "x".repeat(1 << 10);
    for group in 0..20_000 {
        let mut commit = Commit::new();
        parked.park(group, &large, &mut commit);
        // The key that fails all the time.
        parked.park(0, &large, &mut commit);
        assert!(parked.recent_bytes <= MAX_RECENT_BYTES);
    }
    assert!(parked.groups[&0].recent.len_bytes() <= 64 << 10);
    assert!(parked.recent_bytes >= MAX_RECENT_BYTES / 4);
}

/// However many records a trial has held, and whatever was parked behind them: when it ends, or the task starts
/// anew, they are due, and not before.
#[test]
fn what_a_trial_has_held_is_due_when_it_ends() {
    const HELD_UNTIL_MS: u64 = START_MS + 60_000;
    let directory = TestStore::new();
    for is_reopened in [false, true] {
        let mut parked = open(&directory);
        parked.hold(HELD_UNTIL_MS);
        let mut commit = Commit::new();
        for group in [3, 7] {
            for offset in 0..20 {
                let mut held = record(offset, 0, HELD_UNTIL_MS);
                held.first_failed_ms = START_MS;
                parked.park(group, &held, &mut commit);
                parked.park(group, &record(offset, 0, START_MS), &mut commit);
            }
        }
        // Fails for another reason, and keeps its time.
        parked.park(5, &record(1, 1, HELD_UNTIL_MS), &mut commit);
        store(&directory, &mut parked, commit);
        let due = parked.take_due(START_MS, 512, 1 << 20, |_| false);
        assert!(due.unwrap().is_empty());
        match is_reopened {
            true => parked = open(&directory),
            false => parked.release(),
        }
        while parked
            .next_due_ms()
            .is_some_and(|due_ms| due_ms <= START_MS)
        {
            let mut commit = Commit::new();
            let due = parked.take_due(START_MS, 512, 1 << 20, |_| false);
            for waiting in &due.unwrap() {
                parked.remove(waiting, &mut commit);
            }
            store(&directory, &mut parked, commit);
        }
        assert_eq!(
            (parked.len(), parked.next_due_ms()),
            (1, Some(HELD_UNTIL_MS))
        );
        let mut commit = Commit::new();
        for waiting in &parked
            .take_due(HELD_UNTIL_MS, 1, 1 << 20, |_| false)
            .unwrap()
        {
            parked.remove(waiting, &mut commit);
        }
        store(&directory, &mut parked, commit);
        assert!(parked.is_empty());
    }
}

/// What an earlier trial has held waits for no later one.
#[test]
fn a_trial_holds_what_it_has_held_and_nothing_else() {
    let (first_ms, second_ms) = (START_MS + 60_000, START_MS + 90_000);
    let directory = TestStore::new();
    let mut parked = open(&directory);
    parked.hold(first_ms);
    let mut commit = Commit::new();
    let held = |due_ms| {
        let mut held = record(0, 0, due_ms);
        held.first_failed_ms = START_MS;
        held
    };
    parked.park(3, &record(0, 1, START_MS), &mut commit);
    parked.park(3, &held(first_ms), &mut commit);
    parked.release();
    parked.hold(second_ms);
    parked.park(5, &held(second_ms), &mut commit);
    store(&directory, &mut parked, commit);
    for is_held in [false, true] {
        let mut commit = Commit::new();
        let due = parked.take_due(START_MS, 512, 1 << 20, |_| false).unwrap();
        assert_eq!(due.len(), 1);
        assert_eq!((due[0].group, due[0].parked.is_held()), (3, is_held));
        parked.remove(&due[0], &mut commit);
        store(&directory, &mut parked, commit);
    }
    assert_eq!((parked.len(), parked.next_due_ms()), (1, Some(second_ms)));
}

/// What can become of a trial after it has held a record, and whether that makes the record due at once.
const TURNS: [(&str, bool); 4] = [
    ("goes on", false),
    ("ends", true),
    ("ends, and another one begins", true),
    ("is forgotten by a restart", true),
];

/// A record alone in its group, in each state, at each turn of the trial that is under way.
///
/// Fails when a record that has failed, or only waits, counts as held, and when one that is held waits for longer
/// than its trial, or not for that.
#[test]
fn each_state_of_a_record_is_due_in_its_time() {
    const UNTIL_MS: u64 = START_MS + 60_000;
    // Attempts, whether it has faulted, when it first failed, and whether it is held then.
    let states = [
        ("waits behind another", 0, false, 0, false),
        ("has failed", 1, false, START_MS, false),
        ("has faulted", 1, true, START_MS, false),
        ("has failed often", u32::MAX, false, START_MS, false),
        ("is held", 0, false, START_MS, true),
        ("is held, and has faulted", 0, true, START_MS, true),
    ];
    for (state, attempt_count, has_faulted, first_failed_ms, is_held) in states {
        for (turn, is_released) in TURNS {
            let case = format!("a record that {state}, of a trial that {turn}");
            let directory = TestStore::new();
            let mut parked = open(&directory);
            parked.hold(UNTIL_MS);
            let mut commit = Commit::new();
            let record = ParkedRecord {
                has_faulted,
                first_failed_ms,
                ..record(0, attempt_count, UNTIL_MS)
            };
            assert_eq!(record.is_held(), is_held, "{case}");
            parked.park(3, &record, &mut commit);
            store(&directory, &mut parked, commit);
            match turn {
                "ends" => parked.release(),
                "ends, and another one begins" => {
                    parked.release();
                    parked.hold(UNTIL_MS + 60_000);
                }
                "is forgotten by a restart" => parked = open(&directory),
                _ => {}
            }
            let mut due_at = |now_ms| {
                let due = parked.take_due(now_ms, 512, 1 << 20, |_| false).unwrap();
                due.len()
            };
            let at_once = usize::from(is_held && is_released);
            assert_eq!(due_at(START_MS), at_once, "{case}");
            assert_eq!(due_at(UNTIL_MS - 1), at_once, "{case}");
            assert_eq!(due_at(UNTIL_MS), 1, "{case}");
        }
    }
}
