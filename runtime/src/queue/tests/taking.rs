//! Taking chosen messages out of a queue, and going through dead letters.

use super::support::*;
use crate::model::HeadersBuf;
use crate::queue::letter::{self, Filter};
use crate::queue::{DEDUPLICATION_ID, DELAY, GROUP, PeekedMessage, Queue, QueueConfig};
use crate::storage::Commit;

const ALL_BYTES: usize = usize::MAX;

fn taken_values(messages: &[PeekedMessage]) -> Vec<String> {
    messages
        .iter()
        .map(|message| {
            let record = message.record().unwrap();
            String::from_utf8(record.value.unwrap().to_vec()).unwrap()
        })
        .collect()
}

/// A queue that holds a leased message, a ready one, two of a group and a delayed one.
fn mixed(fixture: &Fixture) -> Queue {
    let queue = fixture.queue();
    enqueue(&queue, &["leased"]);
    assert_eq!(values(&queue, 1), ["leased"]);
    enqueue(&queue, &["ready"]);
    enqueue_with(&queue, "first", &[(GROUP, "g")]).unwrap();
    enqueue_with(&queue, "behind", &[(GROUP, "g")]).unwrap();
    enqueue_with(&queue, "delayed", &[(DELAY, "60000")]).unwrap();
    queue
}

#[test]
fn what_nobody_holds_is_taken_whatever_it_waits_for() {
    let mut fixture = Fixture::new();
    let queue = mixed(&fixture);
    let mut commit = Commit::new();
    // In the order asked for; what is leased, unknown or asked for twice is not taken.
    let offsets = [4, 0, 3, 99, 1, 3];
    let taken = block_on(queue.take_in(&offsets, ALL_BYTES, &mut commit)).unwrap();
    assert_eq!(
        taken_values(&taken.messages),
        ["delayed", "behind", "ready"]
    );
    assert_eq!(taken.decided_count, offsets.len());
    // Until it is known whether the commit happens nobody else gets them, nor another of a group.
    let mut second = Commit::new();
    let nothing = block_on(queue.take_in(&offsets, ALL_BYTES, &mut second)).unwrap();
    assert!(nothing.messages.is_empty() && second.is_empty());
    assert!(values(&queue, 10).is_empty());
    fixture.directory.commit(commit);
    drop((taken, nothing, second, queue));
    fixture.reopen();
    let mut left = drain(&fixture.find("q"));
    left.sort();
    assert_eq!(left, ["first", "leased"]);
}

#[test]
fn a_commit_that_is_dropped_gives_back_what_it_took() {
    let fixture = Fixture::new();
    let queue = mixed(&fixture);
    let before = counts(&queue);
    let mut commit = Commit::new();
    let taken = block_on(queue.take_in(&[1, 2, 3, 4], ALL_BYTES, &mut commit)).unwrap();
    assert_eq!(taken.messages.len(), 4);
    drop(commit);
    assert_eq!(counts(&queue), before);
    // In their order, and what waits for a time still does.
    assert_eq!(values(&queue, 10), ["ready", "first", "behind"]);
}

#[test]
fn bytes_bound_what_is_taken_and_the_rest_stays() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["aaaa", "bbbb", "cccc", "dddd"]);
    let mut commit = Commit::new();
    let taken = block_on(queue.take_in(&[7, 0, 1, 2, 3], 9, &mut commit)).unwrap();
    assert_eq!(taken_values(&taken.messages), ["aaaa", "bbbb"]);
    assert_eq!(taken.decided_count, 3);
    fixture.directory.commit(commit);
    let mut commit = Commit::new();
    let one = block_on(queue.take_in(&[2, 3], 1, &mut commit)).unwrap();
    assert_eq!(one.decided_count, 1);
    fixture.directory.commit(commit);
    assert_eq!(values(&queue, 10), ["dddd"]);
}

#[test]
fn chosen_messages_are_removed_for_good() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b", "c"]);
    assert_eq!(values(&queue, 1), ["a"]);
    // `a` is leased.
    assert_eq!(block_on(queue.remove(&[0, 1, 1, 5])).unwrap(), 1);
    drop(queue);
    fixture.reopen();
    assert_eq!(drain(&fixture.find("q")), ["a", "c"]);
}

#[test]
fn letters_come_in_order_and_as_the_filter_says() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let count = 1_300;
    for offset in 0..count {
        let reason = if offset % 3 == 0 { "trap" } else { "memory" };
        enqueue_with(&queue, "v", &[(letter::REASON, reason)]).unwrap();
    }
    let filter = Filter {
        terms: vec!["reason=trap".parse().unwrap()],
        ..Filter::default()
    };
    let mut letters = queue.letters(filter);
    let mut offsets = Vec::new();
    while let Some(page) = block_on(letters.next_page()).unwrap() {
        offsets.extend(page.iter().map(|message| message.offset));
    }
    let expected: Vec<u64> = (0..count).step_by(3).collect();
    assert_eq!(offsets, expected);
}

#[test]
fn a_message_that_comes_back_is_no_duplicate_and_has_a_new_time() {
    let fixture = Fixture::new();
    let queue = fixture.create(
        "q",
        QueueConfig {
            delay_ms: 50,
            time_to_live_ms: Some(1_000),
            ..QueueConfig::default()
        },
    );
    enqueue_with(&queue, "first", &[(DEDUPLICATION_ID, "id")]).unwrap();
    fixture.clock.advance_ms(50);
    let messages = lease(&queue, 1);
    let mut batch = queue.batch();
    let record = messages[0].record().unwrap();
    let mut headers = HeadersBuf::new();
    letter::redriven(record.headers, &name("dead"), 0, &mut headers).unwrap();
    fixture.clock.advance_ms(500);
    let headers = headers.as_headers();
    batch
        .push_redriven(record.timestamp_ms, None, Some(b"again"), headers)
        .unwrap();
    block_on(batch.enqueue()).unwrap();
    acknowledge(&queue, &messages);
    assert_eq!(counts(&queue), (1, 0, 0), "it does not wait again");
    fixture.clock.advance_ms(900);
    assert_eq!(values(&queue, 10), ["again"]);
    fixture.clock.advance_ms(30_000);
    assert_eq!(values(&queue, 10), [""; 0]);
}
