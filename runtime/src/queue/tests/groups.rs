//! FIFO groups.

use super::support::*;
use crate::queue::{DELAY, GROUP, GroupBy, LeaseRequest, PRIORITY, QueueConfig};

fn enqueue_in(queue: &crate::queue::Queue, group: &str, value: &str) {
    enqueue_with(queue, value, &[(GROUP, group)]).unwrap();
}

#[test]
fn a_group_is_delivered_in_order_and_blocks_no_other() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    for value in ["a1", "b1", "a2", "b2", "c1", "a3"] {
        enqueue_in(&queue, &value[..1], value);
    }
    enqueue(&queue, &["free"]);
    let first = lease(&queue, 1);
    assert_eq!(value(&first[0]), "a1");
    // Group a is in flight: the others are leased, in order, in one batch.
    let others = lease(&queue, 10);
    let other_values: Vec<_> = others.iter().map(value).collect();
    assert_eq!(other_values, ["b1", "b2", "c1", "free"]);
    assert!(lease(&queue, 10).is_empty());
    assert_eq!(counts(&queue), (2, 0, 5));
    acknowledge(&queue, &first);
    assert_eq!(values(&queue, 1), ["a2"]);
    assert_eq!(values(&queue, 1), [] as [&str; 0]);
    // b is free once all of it that is in flight is done with.
    enqueue_in(&queue, "b", "b3");
    acknowledge(&queue, &others[..1]);
    assert_eq!(values(&queue, 1), [] as [&str; 0]);
    acknowledge(&queue, &others[1..2]);
    assert_eq!(values(&queue, 1), ["b3"]);
}

#[test]
fn what_comes_back_is_before_what_follows_in_its_group() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    for value in ["a1", "a2", "a3"] {
        enqueue_in(&queue, "a", value);
    }
    let first = lease(&queue, 2);
    assert_eq!(first.len(), 2);
    block_on(queue.release(&receipts(&first[..1]), 0)).unwrap();
    // a2 is still in flight.
    assert!(lease(&queue, 10).is_empty());
    block_on(queue.release(&receipts(&first[1..]), 0)).unwrap();
    assert_eq!(values(&queue, 10), ["a1", "a2", "a3"]);
    fixture.clock.advance_ms(30_000);
    let again = lease(&queue, 1);
    assert_eq!(value(&again[0]), "a1");
    block_on(queue.release(&receipts(&again), 1_000)).unwrap();
    // Order before speed: the group waits with its first.
    assert!(lease(&queue, 10).is_empty());
    fixture.clock.advance_ms(1_000);
    assert_eq!(values(&queue, 10), ["a1", "a2", "a3"]);
}

#[test]
fn a_lease_that_is_taken_up_again_holds_the_group() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_in(&queue, "a", "a1");
    enqueue_in(&queue, "a", "a2");
    let messages = lease(&queue, 2);
    fixture.clock.advance_ms(30_000);
    assert_eq!(counts(&queue), (2, 0, 0));
    queue.extend(&receipts(&messages[1..]), 60_000).unwrap();
    // a1 is the first, but a2 is in flight.
    assert!(lease(&queue, 10).is_empty());
    acknowledge(&queue, &messages[1..]);
    assert_eq!(values(&queue, 10), ["a1"]);
}

#[test]
fn a_lease_that_is_too_large_leaves_the_rest_of_a_group_in_order() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    for value in ["a1", "a2", "a3"] {
        enqueue_in(&queue, "a", value);
    }
    let size_bytes = {
        let peeked = block_on(queue.peek(0, 1)).unwrap();
        peeked[0].record().unwrap().size_bytes()
    };
    let request = LeaseRequest {
        max_bytes: size_bytes,
        ..LeaseRequest::default()
    };
    for expected in ["a1", "a2", "a3"] {
        let messages = block_on(queue.lease(&request)).unwrap();
        assert_eq!(messages.iter().map(value).collect::<Vec<_>>(), [expected]);
        assert!(lease(&queue, 10).is_empty());
        acknowledge(&queue, &messages);
    }
}

#[test]
fn a_delayed_message_holds_up_its_group_only() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_with(&queue, "a1", &[(GROUP, "a"), (DELAY, "10")]).unwrap();
    enqueue_in(&queue, "a", "a2");
    enqueue_in(&queue, "b", "b1");
    assert_eq!(values(&queue, 10), ["b1"]);
    fixture.clock.advance_ms(10);
    assert_eq!(values(&queue, 10), ["a1", "a2"]);
}

#[test]
fn priorities_order_groups_and_never_messages_of_one() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_with(&queue, "a1", &[(GROUP, "a"), (PRIORITY, "0")]).unwrap();
    enqueue_with(&queue, "a2", &[(GROUP, "a"), (PRIORITY, "9")]).unwrap();
    enqueue_with(&queue, "b1", &[(GROUP, "b"), (PRIORITY, "5")]).unwrap();
    assert_eq!(values(&queue, 10), ["b1", "a1", "a2"]);
}

#[test]
fn the_key_can_be_the_group() {
    let fixture = Fixture::new();
    let config = QueueConfig {
        groups: GroupBy::Key,
        ..QueueConfig::default()
    };
    let queue = fixture.create("q", config);
    let mut batch = queue.batch();
    for (key, value) in [(Some("k"), "k1"), (Some("k"), "k2"), (None, "free")] {
        let key = key.map(str::as_bytes);
        batch
            .push(0, key, Some(value.as_bytes()), Default::default())
            .unwrap();
    }
    block_on(batch.enqueue()).unwrap();
    assert_eq!(values(&queue, 1), ["k1"]);
    assert_eq!(values(&queue, 10), ["free"]);
}
