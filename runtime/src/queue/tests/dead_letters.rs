//! What a queue gives up on.

use super::support::*;
use crate::queue::{
    ATTEMPTS, DEAD_LETTERED_AT, DEDUPLICATION_ID, DELAY, EXPIRES_AT, GROUP, MaxLengthPolicy,
    NOT_BEFORE, ORIGIN, PRIORITY, QueueConfig, REASON, TIME_TO_LIVE,
};

fn with_dead_letter(config: QueueConfig) -> QueueConfig {
    QueueConfig {
        dead_letter: Some(name("dead")),
        ..config
    }
}

#[test]
fn a_message_is_given_up_on_after_its_deliveries_also_after_a_restart() {
    let mut fixture = Fixture::new();
    let config = with_dead_letter(QueueConfig {
        max_deliveries: Some(3),
        ..QueueConfig::default()
    });
    let mut queue = fixture.create("q", config);
    enqueue_with(
        &queue,
        "poison",
        &[("h", "1"), (PRIORITY, "7"), (TIME_TO_LIVE, "999999")],
    )
    .unwrap();
    enqueue(&queue, &["good"]);
    for delivery in 1..=3 {
        assert_eq!(leased(&queue, 1), [("poison".to_owned(), delivery)]);
        drop(queue);
        fixture.reopen();
        queue = fixture.find("q");
    }
    // In the same call it is moved, and the next is delivered.
    assert_eq!(leased(&queue, 1), [("good".to_owned(), 1)]);
    assert_eq!(counts(&queue), (0, 0, 1));
    let described = block_on(queue.describe()).unwrap();
    assert_eq!(described.dead_letter, Some((name("dead"), 1)));
    drop(queue);
    fixture.reopen();
    let dead = lease(&fixture.find("dead"), 10);
    assert_eq!(dead.len(), 1);
    assert_eq!(value(&dead[0]), "poison");
    let says = |name| header(&dead[0], name).unwrap();
    assert_eq!(says(ORIGIN), "queue:q/0");
    assert_eq!(says(REASON), "max-deliveries");
    assert_eq!(says(ATTEMPTS), "3");
    assert_eq!(says(DEAD_LETTERED_AT), START_MS.to_string());
    assert_eq!(says("h"), "1");
    assert_eq!(says(PRIORITY), "7");
    assert_eq!(header(&dead[0], EXPIRES_AT), None);
    assert_eq!(leased(&fixture.find("q"), 10), [("good".to_owned(), 2)]);
}

/// Fails when the messages are given up on after two leases, and when they never are.
#[test]
fn what_is_given_back_does_not_count_also_after_a_restart() {
    let mut fixture = Fixture::new();
    let config = with_dead_letter(QueueConfig {
        max_deliveries: Some(2),
        ..QueueConfig::default()
    });
    let mut queue = fixture.create("q", config);
    enqueue(&queue, &["a", "b"]);
    let both = |delivery| ["a", "b"].map(|value| (value.to_owned(), delivery));
    let mut earlier = Vec::new();
    for delivery in 1..=6 {
        let messages = lease(&queue, 10);
        let found: Vec<_> = messages
            .iter()
            .map(|message| (value(message), message.delivery_count()))
            .collect();
        assert_eq!(found, both(delivery));
        // Each delivery has its own receipt: that of an earlier one means nothing any more.
        assert_eq!(block_on(queue.give_back(&earlier)).unwrap().stale, earlier);
        earlier = receipts(&messages);
        assert_eq!(
            block_on(queue.give_back(&earlier)).unwrap().settled_count,
            2
        );
        // A second time it is none of its deliveries.
        assert_eq!(block_on(queue.give_back(&earlier)).unwrap().stale, earlier);
        assert_eq!(counts(&queue), (2, 0, 0));
        drop((queue, messages));
        if delivery % 2 == 0 {
            fixture.reopen();
        }
        queue = fixture.find("q");
    }
    // These end by their visibility timeout, by a restart, and by a release.
    let late = lease(&queue, 10);
    assert_eq!(late[1].delivery_count(), 7);
    fixture.clock.advance_ms(30_000);
    let late = receipts(&late);
    assert_eq!(block_on(queue.give_back(&late)).unwrap().stale, late);
    let last = lease(&queue, 1);
    assert_eq!(
        (value(&last[0]), last[0].delivery_count()),
        ("a".to_owned(), 8)
    );
    block_on(queue.release(&receipts(&last), 0)).unwrap();
    drop((queue, last));
    fixture.reopen();
    queue = fixture.find("q");
    assert_eq!(leased(&queue, 10), [("b".to_owned(), 8)]);
    let dead = lease(&fixture.find("dead"), 10);
    assert_eq!(dead.iter().map(value).collect::<Vec<_>>(), ["a"]);
    assert_eq!(header(&dead[0], ATTEMPTS).unwrap(), "2");
}

#[test]
fn five_deliveries_are_the_default_and_without_a_dead_letter_there_is_no_end() {
    let fixture = Fixture::new();
    let queue = fixture.create("q", with_dead_letter(QueueConfig::default()));
    let endless = fixture.create("endless", QueueConfig::default());
    enqueue(&queue, &["a"]);
    enqueue(&endless, &["a"]);
    for delivery in 1..=5 {
        assert_eq!(leased(&queue, 10), [("a".to_owned(), delivery)]);
        assert_eq!(leased(&endless, 10), [("a".to_owned(), delivery)]);
        fixture.clock.advance_ms(30_000);
    }
    assert_eq!(leased(&queue, 10), []);
    assert_eq!(leased(&endless, 10), [("a".to_owned(), 6)]);
    assert_eq!(values(&fixture.find("dead"), 10), ["a"]);
}

#[test]
fn a_group_goes_on_behind_a_dead_letter() {
    let fixture = Fixture::new();
    let config = with_dead_letter(QueueConfig {
        max_deliveries: Some(1),
        ..QueueConfig::default()
    });
    let queue = fixture.create("q", config);
    for value in ["a1", "a2", "a3"] {
        enqueue_with(&queue, value, &[(GROUP, "a")]).unwrap();
    }
    assert_eq!(values(&queue, 1), ["a1"]);
    fixture.clock.advance_ms(30_000);
    assert_eq!(values(&queue, 1), ["a2"]);
    fixture.clock.advance_ms(30_000);
    assert_eq!(values(&queue, 10), ["a3"]);
    assert_eq!(values(&fixture.find("dead"), 10), ["a1", "a2"]);
}

#[test]
fn expired_and_dropped_messages_are_dead_letters_too() {
    let fixture = Fixture::new();
    let config = with_dead_letter(QueueConfig {
        max_length: Some(2),
        max_length_policy: MaxLengthPolicy::DropOldest,
        ..QueueConfig::default()
    });
    let queue = fixture.create("q", config);
    enqueue(&queue, &["old"]);
    enqueue_with(&queue, "short", &[(TIME_TO_LIVE, "10")]).unwrap();
    enqueue(&queue, &["new"]);
    fixture.clock.advance_ms(10);
    assert_eq!(values(&queue, 10), ["new"]);
    let dead = lease(&fixture.find("dead"), 10);
    let reasons: Vec<_> = dead
        .iter()
        .map(|message| (value(message), header(message, REASON).unwrap()))
        .collect();
    let expected = [("old", "max-length"), ("short", "expired")]
        .map(|(value, reason)| (value.to_owned(), reason.to_owned()));
    assert_eq!(reasons, expected);
}

#[test]
fn a_full_dead_letter_queue_takes_dead_letters_all_the_same() {
    let fixture = Fixture::new();
    let small = QueueConfig {
        max_length: Some(1),
        ..QueueConfig::default()
    };
    let dead = fixture.create("dead", small);
    enqueue(&dead, &["there"]);
    let config = with_dead_letter(QueueConfig {
        max_deliveries: Some(1),
        ..QueueConfig::default()
    });
    let queue = fixture.create("q", config);
    enqueue(&queue, &["a"]);
    lease(&queue, 1);
    fixture.clock.advance_ms(30_000);
    assert!(lease(&queue, 1).is_empty());
    assert_eq!(values(&dead, 10), ["there", "a"]);
}

#[test]
fn large_dead_letters_are_moved_in_several_commits_and_one_too_large_to_be_marked_as_it_is() {
    let fixture = Fixture::new();
    let config = with_dead_letter(QueueConfig {
        max_deliveries: Some(1),
        ..QueueConfig::default()
    });
    let queue = fixture.create("q", config);
    let largest = "x".repeat(crate::model::limits::MAX_RECORD_BYTES);
    for _ in 0..20 {
        enqueue(&queue, &[&largest]);
    }
    let request = crate::queue::LeaseRequest {
        max_bytes: usize::MAX,
        ..Default::default()
    };
    assert_eq!(block_on(queue.lease(&request)).unwrap().len(), 20);
    fixture.clock.advance_ms(30_000);
    assert!(lease(&queue, 100).is_empty());
    assert_eq!(counts(&queue), (0, 0, 0));
    let dead = lease(&fixture.find("dead"), 1);
    assert_eq!(value(&dead[0]).len(), largest.len());
    assert_eq!(header(&dead[0], ORIGIN), None);
    let count = block_on(fixture.find("dead").message_count()).unwrap();
    assert_eq!(count, 20);
}

/// A dead-letter queue with a delay and a time to live.
fn timed_dead(fixture: &Fixture) -> crate::queue::Queue {
    timed_dead_named(fixture, "dead")
}

fn timed_dead_named(fixture: &Fixture, name: &str) -> crate::queue::Queue {
    let config = QueueConfig {
        delay_ms: 100,
        time_to_live_ms: Some(1_000),
        ..QueueConfig::default()
    };
    fixture.create(name, config)
}

/// Fails when the settings of the dead-letter queue do not apply to dead letters, and when a message brings the time at
/// which it expires along from its own queue.
#[test]
fn the_times_of_a_dead_letter_are_those_of_its_queue() {
    let fixture = Fixture::new();
    let dead = timed_dead(&fixture);
    let config = with_dead_letter(QueueConfig {
        max_deliveries: Some(1),
        ..QueueConfig::default()
    });
    let queue = fixture.create("q", config);
    enqueue_with(&queue, "expired", &[(TIME_TO_LIVE, "10")]).unwrap();
    enqueue_with(&queue, "delivered", &[(TIME_TO_LIVE, "30500")]).unwrap();
    fixture.clock.advance_ms(10);
    assert_eq!(values(&queue, 10), ["delivered"]);
    assert_eq!(counts(&dead), (0, 1, 0));
    fixture.clock.advance_ms(100);
    let letters = lease(&dead, 10);
    assert_eq!(value(&letters[0]), "expired");
    let expires_at = (START_MS + 1_010).to_string();
    assert_eq!(header(&letters[0], EXPIRES_AT), Some(expires_at));
    acknowledge(&dead, &letters);

    fixture.clock.advance_ms(29_900);
    assert!(lease(&queue, 10).is_empty());
    // In the queue that it was in it would have expired now.
    fixture.clock.advance_ms(999);
    assert_eq!(counts(&dead), (1, 0, 0));
    fixture.clock.advance_ms(1);
    assert!(lease(&dead, 10).is_empty());
    assert_eq!(block_on(dead.message_count()).unwrap(), 0);
}

/// Fails when what is too large to be marked as a dead letter is one that has expired already.
#[test]
fn a_message_too_large_to_be_marked_does_not_expire_by_its_own_time() {
    for has_times in [false, true] {
        let fixture = Fixture::new();
        let dead = match has_times {
            true => timed_dead(&fixture),
            false => fixture.create("dead", QueueConfig::default()),
        };
        let queue = fixture.create("q", with_dead_letter(QueueConfig::default()));
        // Its own time has room, and what a dead letter says has not.
        let large = "x".repeat(crate::model::limits::MAX_RECORD_BYTES - 60);
        enqueue_with(&queue, &large, &[(TIME_TO_LIVE, "10")]).unwrap();
        fixture.clock.advance_ms(10);
        assert!(lease(&queue, 10).is_empty());
        fixture.clock.advance_ms(100);
        let letters = lease(&dead, 10);
        assert_eq!(letters.len(), 1);
        assert_eq!(header(&letters[0], ORIGIN), None);
        assert_eq!(header(&letters[0], EXPIRES_AT), None);
    }
}

/// Fails when a batch that is kept, as a pipeline keeps it, does not see that the settings of its queue have changed.
#[test]
fn what_is_kept_for_dead_letters_sees_new_settings_of_the_queue() {
    let fixture = Fixture::new();
    let dead = fixture.create("dead", QueueConfig::default());
    let mut batch = dead.batch();
    let changed = QueueConfig {
        time_to_live_ms: Some(1_000),
        ..QueueConfig::default()
    };
    block_on(fixture.queues().ensure_queue(&name("dead"), changed)).unwrap();
    let headers = crate::model::HeadersRef::EMPTY;
    batch
        .push_dead_letter(START_MS, None, Some(b"a"), headers)
        .unwrap();
    let mut commit = crate::storage::Commit::new();
    batch.add_dead_letters_to(&mut commit).unwrap();
    fixture.directory.commit(commit);
    fixture.clock.advance_ms(1_000);
    assert!(lease(&dead, 10).is_empty());
}

/// Fails when a letter that is put back is a duplicate of another, or expires or waits by the times that it had before.
#[test]
fn letters_that_are_put_back_are_all_there_and_have_the_times_of_their_queue() {
    let fixture = Fixture::new();
    let dead = fixture.create("dead", QueueConfig::default());
    let id = (DEDUPLICATION_ID, "id");
    let (over, far) = (START_MS.to_string(), (START_MS + 99_999).to_string());
    let letter = [
        id,
        (REASON, "expired"),
        (EXPIRES_AT, &over),
        (NOT_BEFORE, &far),
    ];
    for value in ["a", "b"] {
        let enqueued = enqueue_with(&dead, value, &letter).unwrap();
        assert_eq!(enqueued.stored_count, 1);
    }
    let letters = lease(&dead, 10);
    let there: Vec<_> = letters.iter().map(value).collect();
    assert_eq!(there, ["a", "b"]);
    assert_eq!(header(&letters[0], DEDUPLICATION_ID).unwrap(), "id");
    // It is nobody else's duplicate, either; and others still are.
    for stored_count in [1, 0] {
        let enqueued = enqueue_with(&dead, "c", &[id]).unwrap();
        assert_eq!(enqueued.stored_count, stored_count);
    }
    assert_eq!(values(&dead, 10), ["c"]);

    let timed = timed_dead_named(&fixture, "timed");
    enqueue_with(&timed, "by the queue", &letter).unwrap();
    let asked = [&letter[..], &[(DELAY, "0"), (TIME_TO_LIVE, "5000")]].concat();
    enqueue_with(&timed, "as asked", &asked).unwrap();
    assert_eq!(values(&timed, 10), ["as asked"]);
    fixture.clock.advance_ms(100);
    assert_eq!(values(&timed, 10), ["by the queue"]);
}

/// Fails when an id that a plugin has set does not count, since it has made the message of a dead letter.
#[test]
fn what_a_pipeline_makes_of_a_letter_can_be_a_duplicate() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let mut headers = crate::model::HeadersBuf::new();
    for (name, value) in [(REASON, "expired"), (DEDUPLICATION_ID, "id")] {
        headers.push(name, Some(value.as_bytes())).unwrap();
    }
    let mut batch = queue.batch();
    for is_new in [true, false] {
        let headers = headers.as_headers();
        let pushed = batch.push_output(START_MS, None, Some(b"a"), headers);
        assert_eq!(pushed.unwrap(), is_new);
    }
}

#[test]
fn maintenance_that_finishes_gives_up_on_what_has_expired_until_then() {
    let fixture = Fixture::new();
    let config = with_dead_letter(QueueConfig {
        time_to_live_ms: Some(1_000),
        ..QueueConfig::default()
    });
    let queue = fixture.create("q", config);
    enqueue(&queue, &["a", "b"]);
    assert_eq!(counts(&queue), (2, 0, 0));
    fixture.clock.advance_ms(1_000);
    block_on(async {
        let maintenance = crate::queue::Maintenance::start(fixture.queues().clone());
        maintenance.finish().await;
    });
    let dead = block_on(fixture.find("dead").message_count());
    assert_eq!(dead.unwrap(), 2);
}
