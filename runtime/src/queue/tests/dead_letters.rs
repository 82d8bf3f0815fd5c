//! What a queue gives up on.

use super::support::*;
use crate::queue::{
    ATTEMPTS, DEAD_LETTERED_AT, GROUP, MaxLengthPolicy, ORIGIN, PRIORITY, QueueConfig, REASON,
    TIME_TO_LIVE,
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
    assert_eq!(header(&dead[0], crate::queue::EXPIRES_AT), None);
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
