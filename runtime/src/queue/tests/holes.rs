//! A message that stays for long keeps nothing that comes and goes behind it.

use super::support::*;
use crate::model::Record;
use crate::queue::{DELAY, Queue};
use crate::storage::Scan;
use crate::storage::schema::{KeyKind, batch};

const BATCHES: usize = 100;
const BATCH_MESSAGES: usize = 1000;

/// Enqueues and acknowledges that many batches.
fn pass_through(queue: &Queue, batches: usize) {
    let messages: Vec<Record> = (0..BATCH_MESSAGES)
        .map(|number| message(&format!("{number:0100}"), &[]))
        .collect();
    for _ in 0..batches {
        block_on(queue.enqueue(&messages)).unwrap();
        acknowledge(queue, &lease(queue, BATCH_MESSAGES));
    }
}

/// Batches of a queue that are stored.
fn batches(fixture: &Fixture, queue: &Queue) -> usize {
    let mut count = 0;
    let key = |offset| batch::key(queue.id(), 0, offset);
    let scanned =
        fixture
            .directory
            .store()
            .scan(KeyKind::Batch, &key(0), Some(&key(u64::MAX)), |_, _| {
                count += 1;
                Ok(Scan::Continue)
            });
    scanned.unwrap();
    count
}

/// Fails when what is done with goes only as far as the first message that stays.
#[test]
fn what_has_passed_behind_a_message_that_stays_is_removed() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_with(&queue, "stays", &[(DELAY, "86400000")]).unwrap();
    pass_through(&queue, BATCHES);
    let before_bytes = queue.partition().size_bytes();
    assert!(batches(&fixture, &queue) >= BATCHES);
    block_on(queue.maintain()).unwrap();
    let (stored, bytes) = (batches(&fixture, &queue), queue.partition().size_bytes());
    assert!(stored < BATCHES / 4, "{stored} batches");
    assert!(bytes < before_bytes / 10, "{bytes} of {before_bytes} bytes");

    // Once more, in a process that knows of the hole only that it is there.
    drop(queue);
    fixture.reopen();
    let queue = fixture.find("q");
    enqueue(&queue, &["comes later"]);
    assert_eq!(counts(&queue), (1, 1, 0));
    assert_eq!(drain(&queue), ["comes later"]);
    pass_through(&queue, BATCHES);
    block_on(queue.maintain()).unwrap();
    assert!(batches(&fixture, &queue) < BATCHES / 2);
    drop(queue);
    fixture.reopen();

    fixture.clock.advance_ms(86_400_000);
    let queue = fixture.find("q");
    assert_eq!(drain(&queue), ["stays"]);
    assert_eq!(counts(&queue), (0, 0, 0));
    block_on(queue.maintain()).unwrap();
    assert_eq!(batches(&fixture, &queue), 0);
    assert_eq!(queue.partition().size_bytes(), 0);
}

/// Fails when a hole is made of what is leased, delayed or waits for its turn.
#[test]
fn messages_within_what_is_removed_stay_and_are_delivered() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    let mut expected = Vec::new();
    for round in 0..3 {
        let stays = format!("stays {round}");
        enqueue_with(&queue, &stays, &[(DELAY, "3600000")]).unwrap();
        expected.push(stays);
        pass_through(&queue, BATCHES);
    }
    block_on(queue.maintain()).unwrap();
    assert!(batches(&fixture, &queue) < BATCHES / 2);
    drop(queue);
    for is_reopened in [false, true] {
        if is_reopened {
            fixture.reopen();
        }
        let queue = fixture.find("q");
        assert_eq!(counts(&queue), (0, 3, 0));
    }
    fixture.clock.advance_ms(3_600_000);
    assert_eq!(drain(&fixture.find("q")), expected);
}
