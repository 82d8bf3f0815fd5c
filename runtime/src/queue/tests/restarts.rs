//! What of a queue survives closing and opening the data directory.

use super::support::*;
use crate::queue::{DELAY, GROUP, PRIORITY};

#[test]
fn acknowledgements_and_counts_survive_and_leases_do_not() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b", "c", "d"]);
    let messages = lease(&queue, 3);
    acknowledge(&queue, &messages[1..2]);
    fixture.clock.advance_ms(30_000);
    assert_eq!(leased(&queue, 1), [("a".to_owned(), 2)]);
    drop((queue, messages));
    fixture.reopen();
    let queue = fixture.find("q");
    assert_eq!(counts(&queue), (3, 0, 0));
    let expected = [("a", 3), ("c", 2), ("d", 1)].map(|(value, count)| (value.to_owned(), count));
    assert_eq!(leased(&queue, 10), expected);
}

#[test]
fn a_receipt_from_before_a_restart_counts_until_the_message_is_delivered_again() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b"]);
    let old = receipts(&lease(&queue, 2));
    drop(queue);
    fixture.reopen();
    let queue = fixture.find("q");
    let settled = block_on(queue.acknowledge(&old[..1])).unwrap();
    assert_eq!(settled.settled_count, 1);
    assert_eq!(leased(&queue, 10), [("b".to_owned(), 2)]);
    assert_eq!(block_on(queue.acknowledge(&old)).unwrap().stale, old);
}

#[test]
fn times_priorities_and_groups_survive() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["released"]);
    enqueue_with(&queue, "delayed", &[(DELAY, "60000")]).unwrap();
    enqueue_with(&queue, "low", &[(PRIORITY, "0")]).unwrap();
    enqueue_with(&queue, "g1", &[(GROUP, "g")]).unwrap();
    enqueue_with(&queue, "g2", &[(GROUP, "g")]).unwrap();
    let released = lease(&queue, 1);
    block_on(queue.release(&receipts(&released), 50_000)).unwrap();
    drop((queue, released));
    fixture.reopen();
    let queue = fixture.find("q");
    assert_eq!(counts(&queue), (3, 2, 0));
    assert_eq!(leased(&queue, 1), [("g1".to_owned(), 1)]);
    assert_eq!(leased(&queue, 10), [("low".to_owned(), 1)]);
    fixture.clock.advance_ms(50_000);
    let again = leased(&queue, 1);
    assert_eq!(again, [("released".to_owned(), 2)]);
}

#[test]
fn whole_chunks_that_are_acknowledged_out_of_order_stay_so() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    let all: Vec<_> = (0..5_000).map(|number| number.to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    enqueue(&queue, &all);
    let messages = lease(&queue, 5_000);
    acknowledge(&queue, &messages[1_000..3_500]);
    acknowledge(&queue, &messages[4_999..]);
    drop((queue, messages));
    fixture.reopen();
    let queue = fixture.find("q");
    let mut expected = all[..1_000].to_vec();
    expected.extend(&all[3_500..4_999]);
    assert_eq!(values(&queue, 5_000), expected);
}

#[test]
fn changes_that_lie_in_several_files_add_up() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    let numbers: Vec<_> = (0..1_500).map(|number| number.to_string()).collect();
    let numbers: Vec<_> = numbers.iter().map(String::as_str).collect();
    enqueue(&queue, &numbers);
    let store = fixture.queues().store().clone();
    let mut left = Vec::new();
    for round in 0..5_u64 {
        let messages = lease(&queue, 1_500);
        store.flush().unwrap();
        let (done, rest): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|message| message.offset() % 7 == round);
        acknowledge(&queue, &done);
        left = receipts(&rest);
        store.flush().unwrap();
        block_on(queue.release(&left, 1_000 * round)).unwrap();
        fixture.clock.advance_ms(1_000 * round);
    }
    let expected: Vec<_> = left
        .iter()
        .map(|receipt| (receipt.offset.to_string(), receipt.delivery_count + 1))
        .collect();
    assert_eq!(expected[0].1, 6);
    drop((queue, store));
    fixture.reopen();
    let queue = fixture.find("q");
    assert_eq!(leased(&queue, 1_500), expected);
}
