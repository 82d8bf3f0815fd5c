//! What many parked records cost: a start, memory, the disk, and the turn of others; and that they are counted.

use proptest::prelude::*;

use super::tests::{open, record, store};
use super::*;
use crate::storage::schema::KeyKind;
use crate::storage::schema::parked_group::MIN_RECORDS;
use crate::storage::tests::support::{START_MS, TestStore, cases};

const PIPELINE: u32 = 3;
const TASK: u32 = 1;

/// Parks records of a group, and stores that.
fn park(directory: &TestStore, parked: &mut Parked, group: GroupId, count: u64) {
    let mut commit = Commit::new();
    for offset in 0..count {
        parked.park(group, &record(offset, 0, START_MS), &mut commit);
    }
    store(directory, parked, commit);
}

/// Removes the first records of a group.
fn remove(directory: &TestStore, parked: &mut Parked, group: GroupId, count: usize) {
    for _ in 0..count {
        let mut commit = Commit::new();
        for first in &parked.head_of(group, 1, 1 << 20).unwrap() {
            parked.remove(first, &mut commit);
        }
        store(directory, parked, commit);
    }
}

fn read_count(directory: &TestStore) -> u64 {
    let store = directory.store().clone();
    Parked::read(store, PIPELINE, TASK).unwrap().1
}

/// By group: how many records lie in the store, and the last place among them.
fn stored(directory: &TestStore) -> HashMap<GroupId, (u64, u64)> {
    let mut stored = HashMap::new();
    let visit = |waiting: Waiting| {
        let (count, last) = stored.entry(waiting.group).or_insert((0, 0));
        (*count, *last) = (*count + 1, waiting.sequence);
        Further::Record
    };
    open(directory).visit(visit).unwrap();
    stored
}

/// A task that starts now counts what is there, and so does whoever counts without one.
fn assert_counted(directory: &TestStore) {
    let (opened, stored) = (open(directory), stored(directory));
    let counted = opened.groups.iter().map(|(group, of)| {
        assert_eq!(of.stored.last_sequence, of.last_sequence);
        (*group, (of.stored.record_count, of.last_sequence))
    });
    assert_eq!(counted.collect::<HashMap<_, _>>(), stored);
    assert_eq!(
        opened.len(),
        stored.values().map(|(count, _)| count).sum::<u64>()
    );
    let counted = parked_count(directory.store(), PIPELINE).unwrap();
    assert_eq!(counted, opened.len());
    let next = stored.values().map(|(_, last)| last + 1).max();
    assert_eq!(opened.next_sequence, next.unwrap_or(0));
}

/// However much is parked of a key, a start reads its first and its last record, and how many there are.
#[test]
fn a_start_reads_no_more_than_the_ends_of_large_groups() {
    const LARGE: [GroupId; 3] = [0, 500, u64::MAX];
    let directory = TestStore::new();
    let mut parked = open(&directory);
    for group in LARGE {
        for _ in 0..10 {
            park(&directory, &mut parked, group, 400);
        }
    }
    for group in 1..=200 {
        park(&directory, &mut parked, group, 1);
    }
    // What was done leaves nothing behind that would have to be read, nor a count.
    park(&directory, &mut parked, 300, 100);
    remove(&directory, &mut parked, 300, 100);
    remove(&directory, &mut parked, 500, 150);
    let expected = 200 + 3 * LARGE.len() as u64;
    assert_eq!(read_count(&directory), expected);
    assert_counted(&directory);
    let opened = open(&directory);
    assert_eq!(
        (opened.len(), opened.group_count()),
        (3 * 4000 - 150 + 200, 203)
    );
    assert_eq!(opened.groups[&500].first_sequence, 4150);
}

/// A directory without counts, or in which an earlier version has gone on without keeping them up.
#[test]
fn counts_that_are_missing_or_were_not_kept_up_are_made_again() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    for group in [3, 5, 7] {
        park(&directory, &mut parked, group, 100);
    }
    assert_eq!(read_count(&directory), 9);
    let mut commit = Commit::new();
    commit.set_parked_group(PIPELINE, TASK, 3, None);
    for offset in 0..10 {
        let (sequence, record) = (parked.reserve(1), record(offset, 0, START_MS));
        commit.park(PIPELINE, TASK, 5, sequence, &record);
    }
    directory.commit(commit);
    assert_counted(&directory);
    // 3 counts, the two ends of 7, and all others; of 5 the last one twice.
    assert_eq!(read_count(&directory), 2 + 2 + 100 + 111);
    // The next commit of a group counts it again.
    let mut parked = open(&directory);
    for group in [3, 5] {
        park(&directory, &mut parked, group, 1);
    }
    assert_eq!(read_count(&directory), 9);
    assert_counted(&directory);
}

/// A group that gets small again is counted by reading it, and leaves no count behind that would be taken for that of a
/// later one.
#[test]
fn small_groups_have_no_count() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    let counts = || {
        let mut counts = 0;
        let count = |_: &[u8], _: &[u8]| {
            counts += 1;
            Ok(Scan::Continue)
        };
        directory
            .store()
            .scan_kind(KeyKind::ParkedGroup, count)
            .unwrap();
        counts
    };
    park(&directory, &mut parked, 3, MIN_RECORDS - 1);
    assert_eq!(counts(), 0);
    park(&directory, &mut parked, 3, 1);
    assert_eq!(counts(), 1);
    remove(&directory, &mut parked, 3, 1);
    assert_eq!(counts(), 0);
    park(&directory, &mut parked, 3, 1);
    remove(&directory, &mut parked, 3, MIN_RECORDS as usize);
    assert_eq!((counts(), parked.len(), parked.leaving.len()), (0, 0, 0));
}

#[derive(Clone, Debug)]
enum Change {
    /// One of two writers parks so many records of a group.
    Park {
        writer: usize,
        group: GroupId,
        count: usize,
    },
    /// One of two writers removes the first records of a group.
    Remove {
        writer: usize,
        group: GroupId,
        count: usize,
    },
    /// A writer hands its commit to the store.
    Submit { writer: usize },
    /// What was not handed over is lost.
    Crash,
}

fn change() -> impl Strategy<Value = Change> {
    let fields = || (0usize..2, 0u64..3, 1usize..100);
    prop_oneof![
        4 => fields().prop_map(|(writer, group, count)| Change::Park { writer, group, count }),
        4 => fields().prop_map(|(writer, group, count)| Change::Remove { writer, group, count }),
        4 => (0usize..2).prop_map(|writer| Change::Submit { writer }),
        1 => Just(Change::Crash),
    ]
}

proptest! {
    #![proptest_config(cases(24))]

    /// Two commits are put together at a time, as a lane and its task do, and handed over in any order.
    #[test]
    fn what_is_stored_counts_what_is_there(changes in prop::collection::vec(change(), 1..40)) {
        let directory = TestStore::new();
        let mut parked = open(&directory);
        let mut commits = [Commit::new(), Commit::new()];
        // Of each writer: the first place that it has parked since it last handed over its commit.
        let mut fresh = [u64::MAX; 2];
        for change in changes {
            match change {
                Change::Park { writer, group, count } => {
                    fresh[writer] = fresh[writer].min(parked.next_sequence);
                    for offset in 0..count {
                        parked.park(group, &record(offset as u64, 0, START_MS), &mut commits[writer]);
                    }
                }
                Change::Remove { writer, group, count } => {
                    // No writer removes what is not stored yet.
                    let is_stored = |place: u64| fresh.iter().all(|fresh| place < *fresh);
                    if let Some(of) = parked.groups.get_mut(&group) {
                        of.max_run = u32::MAX;
                    }
                    let found = parked.head_of(group, count, 1 << 20).unwrap();
                    for waiting in found.iter().filter(|waiting| is_stored(waiting.sequence)) {
                        parked.remove(waiting, &mut commits[writer]);
                    }
                    // Nor what another one has removed.
                    let other = std::mem::take(&mut commits[writer]);
                    store(&directory, &mut parked, other);
                    fresh[writer] = u64::MAX;
                }
                Change::Submit { writer } => {
                    let commit = std::mem::take(&mut commits[writer]);
                    store(&directory, &mut parked, commit);
                    fresh[writer] = u64::MAX;
                }
                Change::Crash => {
                    commits = [Commit::new(), Commit::new()];
                    fresh = [u64::MAX; 2];
                    parked = open(&directory);
                }
            }
            assert_counted(&directory);
            let there: u64 = stored(&directory).values().map(|(count, _)| count).sum();
            prop_assert_eq!(parked.len(), there);
        }
    }
}

/// What a task holds back for is memory, which groups take, not how much is parked of one.
#[test]
fn groups_stop_a_task_and_records_of_one_do_not() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    parked.max_groups = 3;
    park(&directory, &mut parked, 0, 5_000);
    park(&directory, &mut parked, 1, 1);
    assert_eq!(parked.no_room(), None);
    park(&directory, &mut parked, 2, 1);
    assert_eq!(parked.no_room(), Some(NoRoom::Groups));
    remove(&directory, &mut parked, 1, 1);
    assert_eq!(parked.no_room(), None);
}

/// Fails when a task that is at its bound goes on and stops with each record.
#[test]
fn a_task_that_was_full_goes_on_when_an_eighth_is_done() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    parked.max_groups = 8;
    for group in 0..8 {
        park(&directory, &mut parked, group, 1);
    }
    let full = parked.no_room();
    assert_eq!(full, Some(NoRoom::Groups));
    remove(&directory, &mut parked, 0, 1);
    assert_eq!(parked.no_room_after(full), full);
    assert_eq!(parked.no_room_after(None), None);
    remove(&directory, &mut parked, 1, 1);
    assert_eq!(parked.no_room_after(full), None);
}

#[test]
fn a_low_disk_stops_a_task_that_has_parked_records() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    park(&directory, &mut parked, 0, 1);
    assert_eq!(parked.no_room(), None);
    directory.store().keep_free_disk(u64::MAX);
    assert_eq!(parked.no_room(), Some(NoRoom::Disk));
    directory.store().keep_free_disk(0);
    assert_eq!(parked.no_room(), None);
    directory.store().keep_free_disk(u64::MAX);
    remove(&directory, &mut parked, 0, 1);
    assert_eq!(parked.no_room(), None);
}

/// A key of which much is parked that goes through again, and others that are due meanwhile.
#[test]
fn a_group_of_which_much_is_parked_leaves_others_their_turn() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    park(&directory, &mut parked, 7, 20_000);
    let mut now_ms = START_MS;
    let mut largest = 0;
    for turn in 0..40 {
        let mut commit = Commit::new();
        let other = 1_000 + turn;
        parked.park(other, &record(0, 1, now_ms), &mut commit);
        for _ in 0..2 {
            now_ms += 1;
            let due = parked.take_due(now_ms, 128, 1 << 20, |_| false).unwrap();
            largest = largest.max(due.len());
            for waiting in &due {
                parked.remove(waiting, &mut commit);
            }
        }
        store(&directory, &mut parked, commit);
        assert!(!parked.contains(other), "{turn}");
    }
    // It fills whole batches all the while.
    assert!(parked.contains(7) && largest == 128, "{largest}");
}

/// What is looked for is found in its group, and a visit that needs only the first ones sees only these.
#[test]
fn records_are_looked_up_by_group() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    for group in [3, 7, u64::MAX] {
        park(&directory, &mut parked, group, 100);
    }
    let find = |parked: &Parked, group, from, offset| {
        let is_meant = |record: &ParkedRecord| record.record.base_offset() >= offset;
        let found = parked.find(group, from, is_meant).unwrap();
        found.map(|found| (found.group, found.sequence))
    };
    for parked in [&parked, &open(&directory)] {
        assert_eq!(find(parked, 7, 0, 50), Some((7, 150)));
        assert_eq!(find(parked, 7, 99, 99), Some((7, 199)));
        assert_eq!(find(parked, 7, 0, 100), None);
        assert_eq!(find(parked, 5, 0, 0), None);
        // None of it has such an offset, so that it is not read.
        assert_eq!(find(parked, 7, 100, 0), None);
        assert!(parked.has_record_of(0).unwrap() && !parked.has_record_of(1).unwrap());
    }
    let mut seen = Vec::new();
    let mut visit = |further| {
        let mut take = |waiting: Waiting| {
            seen.push((waiting.group, waiting.sequence));
            further
        };
        parked.visit(&mut take).unwrap();
        std::mem::take(&mut seen)
    };
    assert_eq!(visit(Further::Group), [(3, 0), (7, 100), (u64::MAX, 200)]);
    assert_eq!(visit(Further::Record).len(), 300);
    assert_eq!(visit(Further::Nothing), [(3, 0)]);
}

/// Looking for a free place passes over what is taken, and asks for nothing else.
#[test]
fn a_free_place_is_found_before_many_that_are_taken() {
    let directory = TestStore::new();
    let mut parked = open(&directory);
    parked.reserve(2);
    park(&directory, &mut parked, 7, 3_000);
    park(&directory, &mut parked, 8, 1);
    let free = |parked: &Parked, group, before| parked.free_before(group, before, |_| false);
    assert_eq!(free(&parked, 7, 3_002).unwrap(), Some(1));
    assert_eq!(free(&parked, 7, 3_003).unwrap(), Some(3_002));
    assert_eq!(free(&parked, 7, 2).unwrap(), Some(1));
    assert_eq!(free(&parked, 7, 0).unwrap(), None);
    assert_eq!(free(&parked, 9, 5).unwrap(), Some(4));
}
