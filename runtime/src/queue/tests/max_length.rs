//! Length limits: with commits that are on their way, with many producers, with messages that have expired.

use std::sync::mpsc::channel;

use super::support::*;
use crate::queue::{
    Error, MaxLengthPolicy, MessageBatch, Queue, QueueConfig, REASON, TIME_TO_LIVE,
};
use crate::storage::Commit;

const PRODUCERS: usize = 8;

fn bounded(max_length: u64, max_length_policy: MaxLengthPolicy) -> QueueConfig {
    QueueConfig {
        max_length: Some(max_length),
        max_length_policy,
        ..QueueConfig::default()
    }
}

fn batch_of(queue: &Queue, value: &str) -> MessageBatch {
    let mut batch = queue.batch();
    let headers = crate::model::HeadersRef::EMPTY;
    let value = Some(value.as_bytes());
    assert!(batch.push(START_MS, None, value, headers).unwrap());
    batch
}

/// Does something while a commit with a message is visible, and none of its outcomes has been told: the commit thread
/// stands still in between, as it does whenever an outcome waits for a lock.
fn while_a_commit_becomes_visible(
    fixture: &Fixture,
    queue: &Queue,
    value: &str,
    then: impl FnOnce(),
) {
    let (told, is_visible) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let mut commit = Commit::new();
    commit.on_outcome(move |happened| {
        told.send(happened).unwrap();
        // An error is a test that has failed.
        let _ = may_go_on.recv();
    });
    batch_of(queue, value).add_to(&mut commit).unwrap();
    let store = fixture.queues().store().clone();
    let committing = std::thread::spawn(move || block_on(store.commit(commit)).unwrap());
    assert!(is_visible.recv().unwrap());
    then();
    go_on.send(()).unwrap();
    committing.join().unwrap();
}

/// Fails when what becomes visible still counts as being on its way.
#[test]
fn a_commit_that_becomes_visible_does_not_count_twice() {
    let fixture = Fixture::new();
    let queue = fixture.create("q", bounded(3, MaxLengthPolicy::Reject));
    enqueue(&queue, &["a"]);
    while_a_commit_becomes_visible(&fixture, &queue, "b", || {
        let (mut fits, mut too_many) = (batch_of(&queue, "c"), batch_of(&queue, "d"));
        let mut commit = Commit::new();
        fits.add_to(&mut commit).unwrap();
        let full = too_many.add_to(&mut Commit::new()).unwrap_err();
        assert!(matches!(full, Error::Full { held: 3, .. }), "{full}");
        // It never happens, and leaves its room to others.
        drop(commit);
        too_many.add_to(&mut Commit::new()).unwrap();
    });
    enqueue(&queue, &["e"]);
    assert!(enqueue_with(&queue, "f", &[]).is_err());
    assert_eq!(values(&queue, 10), ["a", "b", "e"]);
}

/// Fails when what becomes visible still counts as being on its way, and when what it drops counts again.
#[test]
fn a_commit_that_becomes_visible_drops_no_more_than_it_adds() {
    let fixture = Fixture::new();
    let queue = fixture.create("q", bounded(3, MaxLengthPolicy::DropOldest));
    enqueue(&queue, &["a", "b", "c"]);
    let mut commit = Commit::new();
    while_a_commit_becomes_visible(&fixture, &queue, "d", || {
        batch_of(&queue, "e").add_to(&mut commit).unwrap();
    });
    fixture.directory.commit(commit);
    assert_eq!(values(&queue, 10), ["c", "d", "e"]);
}

/// Runs producers at the same time.
fn produce(queue: &Queue, producer: impl Fn(&Queue) + Sync) {
    let together = std::sync::Barrier::new(PRODUCERS);
    std::thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            scope.spawn(|| {
                together.wait();
                producer(queue);
            });
        }
    });
}

/// Messages that the queue holds at one moment, and those of them that no commit on its way takes out.
fn held_now(queue: &Queue) -> (u64, u64) {
    let index = queue.state.index.lock();
    let counts = index.counts();
    let not_taken_in = queue.partition().high_watermark() - index.indexed_to();
    let stored = counts.live + not_taken_in;
    (stored, stored - counts.leaving)
}

#[test]
fn producers_at_the_same_time_keep_a_queue_full_and_no_fuller() {
    const LENGTH: u64 = 1_000;
    const ROUNDS: u64 = 20;
    let fixture = Fixture::new();
    let dead = fixture.create("dead", QueueConfig::default());
    let config = QueueConfig {
        dead_letter: Some(name("dead")),
        ..bounded(LENGTH, MaxLengthPolicy::DropOldest)
    };
    let queue = fixture.create("q", config);
    enqueue(&queue, &vec!["first"; LENGTH as usize]);
    produce(&queue, |queue| {
        for _ in 0..ROUNDS {
            enqueue(queue, &["next"; 100]);
            let (stored, staying) = held_now(queue);
            assert!(stored >= LENGTH, "{stored} messages are left");
            assert!(staying <= LENGTH, "{staying} messages stay");
        }
    });
    let count = |queue: &Queue| block_on(queue.message_count()).unwrap();
    assert_eq!(count(&queue), LENGTH);
    assert_eq!(count(&dead), PRODUCERS as u64 * ROUNDS * 100);
}

#[test]
fn producers_at_the_same_time_fill_a_queue_to_its_limit_and_not_beyond() {
    const EACH: usize = 125;
    let fixture = Fixture::new();
    let length = (PRODUCERS * EACH) as u64;
    let queue = fixture.create("q", bounded(length, MaxLengthPolicy::Reject));
    produce(&queue, |queue| {
        for _ in 0..EACH {
            // There is room for each of them.
            enqueue(queue, &["a"]);
        }
    });
    assert!(enqueue_with(&queue, "b", &[]).is_err());
    let leased = lease(&queue, 100);
    acknowledge(&queue, &leased);
    // Of these only some have room.
    produce(&queue, |queue| {
        for _ in 0..EACH {
            let _ = enqueue_with(queue, "c", &[]);
        }
    });
    assert_eq!(block_on(queue.message_count()).unwrap(), length);
}

const SHORT: &[(&str, &str)] = &[(TIME_TO_LIVE, "10")];

/// The values of dead letters and why they are.
fn letters(queue: &Queue) -> Vec<(String, String)> {
    let letters = lease(queue, 100);
    let told = letters
        .iter()
        .map(|letter| (value(letter), header(letter, REASON).unwrap()));
    told.collect()
}

fn with_dead_letters(fixture: &Fixture, config: QueueConfig) -> (Queue, Queue) {
    let dead = fixture.create("dead", QueueConfig::default());
    let config = QueueConfig {
        dead_letter: Some(name("dead")),
        ..config
    };
    (fixture.create("q", config), dead)
}

#[test]
fn what_has_expired_makes_room_in_a_full_queue() {
    let fixture = Fixture::new();
    let (queue, dead) = with_dead_letters(&fixture, bounded(3, MaxLengthPolicy::Reject));
    enqueue_with(&queue, "a", SHORT).unwrap();
    enqueue_with(&queue, "b", SHORT).unwrap();
    enqueue(&queue, &["c"]);
    assert!(enqueue_with(&queue, "d", &[]).is_err());
    let held = lease(&queue, 1);
    assert_eq!(value(&held[0]), "a");
    fixture.clock.advance_ms(10);
    // Time does not take what is leased.
    let two = [message("d", &[]), message("e", &[])];
    let full = block_on(queue.enqueue(&two)).unwrap_err();
    assert!(matches!(full, Error::Full { held: 2, .. }), "{full}");
    enqueue(&queue, &["d"]);
    assert!(enqueue_with(&queue, "e", &[]).is_err());
    let expired = |value: &str| (value.to_owned(), "expired".to_owned());
    assert_eq!(letters(&dead), [expired("b")]);
    // Its lease is over, too.
    fixture.clock.advance_ms(30_000);
    enqueue(&queue, &["e"]);
    assert_eq!(values(&queue, 10), ["c", "d", "e"]);
    let told = letters(&dead);
    assert!(told.contains(&expired("a")), "{told:?}");
}

#[test]
fn what_has_expired_goes_before_the_oldest_and_says_so() {
    let fixture = Fixture::new();
    let (queue, dead) = with_dead_letters(&fixture, bounded(3, MaxLengthPolicy::DropOldest));
    enqueue(&queue, &["old", "older"]);
    enqueue_with(&queue, "short", SHORT).unwrap();
    fixture.clock.advance_ms(10);
    let two = [message("new", &[]), message("newer", &[])];
    block_on(queue.enqueue(&two)).unwrap();
    assert_eq!(values(&queue, 10), ["older", "new", "newer"]);
    let expected = [("short", "expired"), ("old", "max-length")];
    let expected = expected.map(|(value, reason)| (value.to_owned(), reason.to_owned()));
    assert_eq!(letters(&dead), expected);
}

/// With what is said of a dead letter it is just not too large.
const LARGE_BYTES: usize = 1_000 << 10;
/// More of them than go with two commits.
const LARGE_COUNT: u64 = 70;

/// A full queue of large messages, and a dead-letter queue.
fn full_of_large_messages(
    fixture: &Fixture,
    policy: MaxLengthPolicy,
    attributes: &[(&str, &str)],
) -> (Queue, Queue) {
    let (queue, dead) = with_dead_letters(fixture, bounded(LARGE_COUNT, policy));
    let large = "x".repeat(LARGE_BYTES);
    for _ in 0..LARGE_COUNT {
        enqueue_with(&queue, &large, attributes).unwrap();
    }
    (queue, dead)
}

fn stored_counts(queue: &Queue, dead: &Queue) -> (u64, u64) {
    let count = |queue: &Queue| block_on(queue.message_count()).unwrap();
    (count(queue), count(dead))
}

/// Fails when what does not fit into the commit that adds stays in the queue.
#[test]
fn large_messages_leave_a_full_queue_before_small_ones_are_added() {
    for (policy, attributes) in [
        (MaxLengthPolicy::DropOldest, &[][..]),
        (MaxLengthPolicy::Reject, SHORT),
    ] {
        let fixture = Fixture::new();
        let (queue, dead) = full_of_large_messages(&fixture, policy, attributes);
        fixture.clock.advance_ms(10);
        let longest = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            let adding = scope.spawn(|| enqueue(&queue, &vec!["small"; LARGE_COUNT as usize - 1]));
            while !adding.is_finished() {
                let (stored, _) = held_now(&queue);
                longest.fetch_max(stored, std::sync::atomic::Ordering::Relaxed);
            }
        });
        assert!(longest.into_inner() <= LARGE_COUNT);
        // What has expired leaves when it has to.
        assert_eq!(stored_counts(&queue, &dead), (LARGE_COUNT, LARGE_COUNT - 1));
    }
}

/// Fails when a commit that has no room leaves anything in the commit or the queue, or when making room once does not
/// suffice.
#[test]
fn a_commit_adds_nothing_before_a_queue_has_made_room_in_others() {
    let fixture = Fixture::new();
    let (queue, dead) = full_of_large_messages(&fixture, MaxLengthPolicy::DropOldest, &[]);
    let mut batch = queue.batch();
    for _ in 0..LARGE_COUNT {
        let headers = crate::model::HeadersRef::EMPTY;
        batch.push(START_MS, None, Some(b"small"), headers).unwrap();
    }
    let mut commit = Commit::new();
    let error = batch.add_to(&mut commit).unwrap_err();
    assert!(
        matches!(
            error,
            Error::RoomFirst {
                added: LARGE_COUNT,
                ..
            }
        ),
        "{error}"
    );
    drop(commit);
    assert_eq!(stored_counts(&queue, &dead), (LARGE_COUNT, 0));
    block_on(batch.make_room()).unwrap();
    assert_eq!(stored_counts(&queue, &dead), (0, LARGE_COUNT));
    let mut commit = Commit::new();
    assert_eq!(batch.add_to(&mut commit).unwrap().stored_count, LARGE_COUNT);
    fixture.directory.commit(commit);
    assert_eq!(stored_counts(&queue, &dead), (LARGE_COUNT, LARGE_COUNT));
    let reasons: std::collections::BTreeSet<_> = letters(&dead)
        .into_iter()
        .map(|(_, reason)| reason)
        .collect();
    assert_eq!(reasons, ["max-length".to_owned()].into());
}

/// Fails when each queue of a commit has as much room in it as if it were the only one.
#[test]
fn queues_share_the_room_of_a_commit() {
    let fixture = Fixture::new();
    let (queue, _dead) = full_of_large_messages(&fixture, MaxLengthPolicy::DropOldest, &[]);
    let mut commit = Commit::new();
    let other = fixture.create("other", QueueConfig::default());
    let large = "x".repeat(LARGE_BYTES);
    let mut elsewhere = other.batch();
    for _ in 0..20 {
        let headers = crate::model::HeadersRef::EMPTY;
        let value = Some(large.as_bytes());
        elsewhere.push(START_MS, None, value, headers).unwrap();
    }
    elsewhere.add_to(&mut commit).unwrap();
    let mut batch = queue.batch();
    for _ in 0..20 {
        let headers = crate::model::HeadersRef::EMPTY;
        batch.push(START_MS, None, Some(b"small"), headers).unwrap();
    }
    let error = batch.add_to(&mut commit).unwrap_err();
    assert!(matches!(error, Error::RoomFirst { .. }), "{error}");
}

/// Fails when what is read to see whether it goes with a commit counts as gone, and is put back.
#[test]
fn producers_at_the_same_time_never_make_a_queue_of_large_messages_too_long() {
    for _ in 0..3 {
        let fixture = Fixture::new();
        let (queue, dead) = full_of_large_messages(&fixture, MaxLengthPolicy::DropOldest, &[]);
        let small = vec![message("small", &[]); LARGE_COUNT as usize];
        let produce = || {
            // Of what is on its way nothing makes room.
            while let Err(error) = block_on(queue.enqueue(&small)) {
                assert!(matches!(error, Error::Full { .. }), "{error}");
            }
        };
        std::thread::scope(|scope| {
            let producers = [scope.spawn(produce), scope.spawn(produce)];
            while !producers.iter().all(|producer| producer.is_finished()) {
                let (_, staying) = held_now(&queue);
                assert!(staying <= LARGE_COUNT, "{staying} messages stay");
            }
        });
        let counts = stored_counts(&queue, &dead);
        assert_eq!(counts, (LARGE_COUNT, 2 * LARGE_COUNT));
    }
}

/// Enqueues messages with these values at once.
fn enqueue_all(queue: &Queue, values: &[String]) -> Result<crate::queue::Enqueued, Error> {
    let messages: Vec<_> = values.iter().map(|value| message(value, &[])).collect();
    block_on(queue.enqueue(&messages))
}

/// Fails when a queue that drops its oldest refuses what is too much for it, keeps others than the newest, or loses what
/// it drops although there is a queue for it. The messages are one batch in the store, or several.
#[test]
fn of_more_than_a_queue_takes_the_newest_stay() {
    for (len_bytes, has_dead_letters) in [(1, true), (1, false), (25_000, true), (70_000, true)] {
        let mut fixture = Fixture::new();
        let config = bounded(3, MaxLengthPolicy::DropOldest);
        let (queue, dead) = match has_dead_letters {
            true => with_dead_letters(&fixture, config),
            false => {
                let dead = fixture.create("dead", QueueConfig::default());
                (fixture.create("q", config), dead)
            }
        };
        enqueue(&queue, &["old"]);
        let filling = "x".repeat(len_bytes);
        let values: Vec<_> = (0..10).map(|it| format!("{it}{filling}")).collect();
        let enqueued = enqueue_all(&queue, &values).unwrap();
        assert_eq!((enqueued.stored_count, enqueued.dropped_count), (3, 7));
        assert_eq!(enqueued.base_offset, Some(1));
        drop((queue, dead));
        fixture.reopen();
        let (queue, dead) = (fixture.find("q"), fixture.find("dead"));
        assert_eq!(drain(&queue), values[7..]);
        let told = letters(&dead);
        if has_dead_letters {
            let dropped = std::iter::once("old").chain(values[..7].iter().map(String::as_str));
            let dropped = dropped.map(|value| (value.to_owned(), "max-length".to_owned()));
            assert_eq!(told, dropped.collect::<Vec<_>>());
        } else {
            assert!(told.is_empty());
        }
    }
}

/// Fails when a leased message is dropped, or when a commit that is refused leaves anything behind.
#[test]
fn what_is_leased_is_not_dropped_for_more_than_a_queue_takes() {
    let fixture = Fixture::new();
    let (queue, dead) = with_dead_letters(&fixture, bounded(3, MaxLengthPolicy::DropOldest));
    enqueue(&queue, &["held", "old"]);
    let held = lease(&queue, 1);
    let values: Vec<_> = (0..5).map(|it| it.to_string()).collect();
    let full = enqueue_all(&queue, &values).unwrap_err();
    assert!(matches!(full, Error::Full { held: 2, .. }), "{full}");
    assert_eq!(stored_counts(&queue, &dead), (2, 0));
    acknowledge(&queue, &held);
    enqueue_all(&queue, &values).unwrap();
    assert_eq!(drain(&queue), ["2", "3", "4"]);
    let told = letters(&dead);
    let told: Vec<_> = told.iter().map(|(value, _)| value.as_str()).collect();
    assert_eq!(told, ["old", "0", "1"]);
}

/// Fails when an id of a message that was dropped as it came is forgotten, and when what is dropped comes back with a
/// commit that does not happen.
#[test]
fn what_is_dropped_as_it_comes_was_enqueued() {
    let fixture = Fixture::new();
    let (queue, dead) = with_dead_letters(&fixture, bounded(1, MaxLengthPolicy::DropOldest));
    let with_id = |id: &str| message(id, &[(crate::queue::DEDUPLICATION_ID, id)]);
    let mut batch = queue.batch();
    for id in ["a", "b"] {
        let mut headers = crate::model::HeadersBuf::new();
        let name = crate::queue::DEDUPLICATION_ID;
        headers.push(name, Some(id.as_bytes())).unwrap();
        let pushed = batch.push(START_MS, None, None, headers.as_headers());
        assert!(pushed.unwrap());
    }
    let mut commit = Commit::new();
    assert_eq!(batch.add_to(&mut commit).unwrap().dropped_count, 1);
    drop(commit);
    assert_eq!(stored_counts(&queue, &dead), (0, 0));

    let enqueued = block_on(queue.enqueue(&[with_id("a"), with_id("b")])).unwrap();
    assert_eq!(enqueued.accepted_count(), 2);
    let again = block_on(queue.enqueue(&[with_id("a"), with_id("b")])).unwrap();
    assert_eq!(again.duplicates, [0, 1]);
    assert_eq!(stored_counts(&queue, &dead), (1, 1));
    assert_eq!(
        header(&lease(&dead, 1)[0], crate::queue::ORIGIN).unwrap(),
        "queue:q/0"
    );
}

/// Fails when letters that go back to a queue which is too short for them are dropped there.
#[test]
fn what_is_redriven_is_not_dropped_as_it_comes() {
    let fixture = Fixture::new();
    let queue = fixture.create("q", bounded(2, MaxLengthPolicy::DropOldest));
    let mut batch = queue.batch();
    for value in ["a", "b", "c"] {
        let headers = crate::model::HeadersRef::EMPTY;
        let value = Some(value.as_bytes());
        batch.push_redriven(START_MS, None, value, headers).unwrap();
    }
    let full = batch.add_to(&mut Commit::new()).unwrap_err();
    assert!(matches!(full, Error::Full { added: 3, .. }), "{full}");
}
