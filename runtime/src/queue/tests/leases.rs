//! Leases, acknowledgements, releases, extensions, priorities, delay, long poll.

use std::time::Duration;

use super::support::*;
use crate::queue::{
    DELAY, Error, LeaseRequest, MessageState, NOT_BEFORE, PRIORITY, QueueConfig, Receipt,
};
use crate::storage::Commit;

#[test]
fn messages_are_leased_in_order_and_gone_when_acknowledged() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let enqueued = enqueue(&queue, &["a", "b", "c"]);
    assert_eq!(enqueued.base_offset, Some(0));
    assert_eq!(enqueued.stored_count, 3);
    assert_eq!(counts(&queue), (3, 0, 0));
    let first = lease(&queue, 2);
    assert_eq!(first.iter().map(value).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(first[0].deadline_ms(), START_MS + 30_000);
    assert_eq!(counts(&queue), (1, 0, 2));
    assert_eq!(leased(&queue, 10), [("c".to_owned(), 1)]);
    assert_eq!(leased(&queue, 10), []);
    acknowledge(&queue, &first);
    assert_eq!(counts(&queue), (0, 0, 1));
    fixture.clock.advance_ms(30_000);
    assert_eq!(leased(&queue, 10), [("c".to_owned(), 2)]);
}

#[test]
fn a_message_comes_again_when_its_lease_ends_and_an_old_receipt_is_stale_then() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b"]);
    let first = lease(&queue, 10);
    fixture.clock.advance_ms(29_999);
    assert!(lease(&queue, 10).is_empty());
    fixture.clock.advance_ms(1);
    // Not delivered again yet: the receipt still counts.
    let settled = block_on(queue.acknowledge(&[first[0].receipt()])).unwrap();
    assert_eq!((settled.settled_count, settled.stale), (1, vec![]));
    let again = lease(&queue, 10);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].delivery_count(), 2);
    let stale = block_on(queue.acknowledge(&[first[1].receipt()])).unwrap();
    assert_eq!(stale.stale, [first[1].receipt()]);
    assert_eq!(stale.settled_count, 0);
    acknowledge(&queue, &again);
    let unknown = Receipt {
        offset: 99,
        delivery_count: 1,
    };
    let all = [unknown, again[0].receipt()];
    assert_eq!(block_on(queue.acknowledge(&all)).unwrap().stale, all);
}

#[test]
fn released_messages_come_again_at_once_or_after_their_delay() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b", "c"]);
    let messages = lease(&queue, 10);
    block_on(queue.release(&receipts(&messages[1..2]), 0)).unwrap();
    block_on(queue.release(&receipts(&messages[..1]), 5_000)).unwrap();
    assert_eq!(counts(&queue), (1, 1, 1));
    assert_eq!(leased(&queue, 10), [("b".to_owned(), 2)]);
    fixture.clock.advance_ms(4_999);
    assert_eq!(leased(&queue, 10), []);
    fixture.clock.advance_ms(1);
    assert_eq!(leased(&queue, 10), [("a".to_owned(), 2)]);
}

#[test]
fn extended_leases_end_later() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b"]);
    let messages = lease(&queue, 10);
    fixture.clock.advance_ms(20_000);
    let settled = queue.extend(&receipts(&messages[..1]), 60_000).unwrap();
    assert_eq!(settled.settled_count, 1);
    fixture.clock.advance_ms(20_000);
    assert_eq!(leased(&queue, 10), [("b".to_owned(), 2)]);
    // The lease of b has ended, but so what: nobody has got it since.
    fixture.clock.advance_ms(30_000);
    let again = Receipt {
        offset: 1,
        delivery_count: 2,
    };
    assert_eq!(queue.extend(&[again], 60_000).unwrap().settled_count, 1);
    fixture.clock.advance_ms(10_000);
    assert_eq!(leased(&queue, 10), [("a".to_owned(), 2)]);
    assert_eq!(
        queue.extend(&receipts(&messages), 1).unwrap().stale.len(),
        2
    );
}

#[test]
fn a_lease_is_bounded_in_messages_and_bytes() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["aaaa", "bbbb", "cccc", "dddd"]);
    let request = |max_messages, max_bytes| LeaseRequest {
        max_messages,
        max_bytes,
        visibility_timeout_ms: Some(1_000),
        ..LeaseRequest::default()
    };
    let take = |request| block_on(queue.lease(&request)).unwrap().len();
    assert_eq!(take(request(10, 8)), 2);
    assert_eq!(take(request(10, 1)), 1);
    assert_eq!(take(request(0, 100)), 0);
    fixture.clock.advance_ms(1_000);
    let all = lease(&queue, 10);
    // Those that did not fit were not delivered.
    let delivered: Vec<_> = all.iter().map(|message| message.delivery_count()).collect();
    assert_eq!(delivered, [2, 2, 2, 1]);
}

#[test]
fn higher_priorities_come_first_and_within_one_the_oldest() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    for (value, priority) in [("a", "0"), ("b", "9"), ("c", "4"), ("d", "9"), ("e", "3")] {
        enqueue_with(&queue, value, &[(PRIORITY, priority)]).unwrap();
    }
    enqueue(&queue, &["f"]);
    assert_eq!(values(&queue, 2), ["b", "d"]);
    let rest = lease(&queue, 10);
    let rest_values: Vec<_> = rest.iter().map(value).collect();
    assert_eq!(rest_values, ["c", "f", "e", "a"]);
    block_on(queue.release(&receipts(&rest), 0)).unwrap();
    enqueue_with(&queue, "g", &[(PRIORITY, "4")]).unwrap();
    assert_eq!(values(&queue, 10), ["c", "f", "g", "e", "a"]);
}

#[test]
fn delayed_messages_wait_for_their_time() {
    let fixture = Fixture::new();
    let config = QueueConfig {
        delay_ms: 100,
        ..QueueConfig::default()
    };
    let queue = fixture.create("q", config);
    let at = (START_MS + 50).to_string();
    enqueue_with(&queue, "default", &[]).unwrap();
    enqueue_with(&queue, "none", &[(DELAY, "0")]).unwrap();
    enqueue_with(&queue, "own", &[(DELAY, "10")]).unwrap();
    enqueue_with(&queue, "at", &[(NOT_BEFORE, &at)]).unwrap();
    assert_eq!(counts(&queue), (1, 3, 0));
    assert_eq!(values(&queue, 10), ["none"]);
    fixture.clock.advance_ms(49);
    assert_eq!(values(&queue, 10), ["own"]);
    fixture.clock.advance_ms(1);
    assert_eq!(values(&queue, 10), ["at"]);
    fixture.clock.advance_ms(50);
    assert_eq!(values(&queue, 10), ["default"]);
}

#[test]
fn a_commit_that_is_dropped_undoes_what_it_was_to_settle() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b", "c"]);
    let messages = lease(&queue, 10);
    let mut commit = Commit::new();
    let acknowledged = receipts(&messages[..1]);
    let settled = queue.acknowledge_in(&acknowledged, &mut commit).unwrap();
    assert_eq!(settled.settled_count, 1);
    let released = receipts(&messages[1..2]);
    queue.release_in(&released, 1_000, &mut commit).unwrap();
    // Nobody else can settle them meanwhile, nor do they come again.
    assert_eq!(
        block_on(queue.acknowledge(&acknowledged)).unwrap().stale,
        acknowledged
    );
    fixture.clock.advance_ms(60_000);
    assert_eq!(leased(&queue, 10), [("c".to_owned(), 2)]);
    drop(commit);
    assert_eq!(
        leased(&queue, 10),
        [("a".to_owned(), 2), ("b".to_owned(), 2)]
    );
}

#[test]
fn a_commit_settles_and_enqueues_in_one() {
    let fixture = Fixture::new();
    let from = fixture.queue();
    let to = fixture.create("to", QueueConfig::default());
    enqueue(&from, &["a"]);
    let messages = lease(&from, 1);
    let mut commit = Commit::new();
    from.acknowledge_in(&receipts(&messages), &mut commit)
        .unwrap();
    let mut batch = to.batch();
    let record = messages[0].record().unwrap();
    batch
        .push(
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )
        .unwrap();
    batch.add_to(&mut commit).unwrap();
    assert!(batch.is_empty());
    assert_eq!(counts(&to), (0, 0, 0));
    block_on(fixture.queues().store().commit(commit)).unwrap();
    assert_eq!(counts(&from), (0, 0, 0));
    assert_eq!(values(&to, 10), ["a"]);
}

#[test]
fn a_commit_to_a_deleted_queue_does_nothing_at_all() {
    let fixture = Fixture::new();
    let from = fixture.queue();
    let to = fixture.create("to", QueueConfig::default());
    enqueue(&from, &["a"]);
    let messages = lease(&from, 1);
    let mut commit = Commit::new();
    from.acknowledge_in(&receipts(&messages), &mut commit)
        .unwrap();
    let mut batch = to.batch();
    batch
        .push(0, None, Some(b"out"), Default::default())
        .unwrap();
    batch.add_to(&mut commit).unwrap();
    block_on(fixture.queues().delete_queue(from.name())).unwrap();
    assert!(block_on(fixture.queues().store().commit(commit)).is_err());
    assert_eq!(counts(&to), (0, 0, 0));
    let error = block_on(from.lease(&LeaseRequest::default())).unwrap_err();
    assert!(matches!(error, Error::Deleted { .. }), "{error}");
    let error = enqueue_with(&from, "b", &[]).unwrap_err();
    assert!(matches!(error, Error::Deleted { .. }), "{error}");
}

#[test]
fn a_long_poll_is_woken_by_what_it_waits_for() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let request = LeaseRequest {
        max_messages: 1,
        wait: Duration::from_secs(3600),
        ..LeaseRequest::default()
    };
    block_on(async {
        // By an append, by a release, by the acknowledgement that frees a group.
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.lease(&request).await }
        });
        tokio::task::yield_now().await;
        queue
            .enqueue(&[message("a", &[(crate::queue::GROUP, "g")])])
            .await
            .unwrap();
        let first = waiting.await.unwrap().unwrap();
        assert_eq!(value(&first[0]), "a");

        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.lease(&request).await }
        });
        tokio::task::yield_now().await;
        queue.release(&receipts(&first), 0).await.unwrap();
        let again = waiting.await.unwrap().unwrap();
        assert_eq!(again[0].delivery_count(), 2);

        queue
            .enqueue(&[message("b", &[(crate::queue::GROUP, "g")])])
            .await
            .unwrap();
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.lease(&request).await }
        });
        tokio::task::yield_now().await;
        queue.acknowledge(&receipts(&again)).await.unwrap();
        assert_eq!(value(&waiting.await.unwrap().unwrap()[0]), "b");
    });
}

/// Fails when nothing is waited for but appends and what others do.
#[test]
fn a_long_poll_is_woken_by_the_end_of_a_delay_and_of_a_lease() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_with(&queue, "a", &[(DELAY, "40")]).unwrap();
    block_on(async {
        for delivery_count in [1, 2] {
            let waiting = {
                let queue = queue.clone();
                let request = LeaseRequest {
                    visibility_timeout_ms: Some(40),
                    wait: Duration::from_secs(3600),
                    ..LeaseRequest::default()
                };
                async move { queue.lease(&request).await }
            };
            let leased = fixture.woken(&queue, 40, waiting).await.unwrap();
            assert_eq!(leased[0].delivery_count(), delivery_count);
        }
    });
}

#[test]
fn a_long_poll_ends_when_its_time_is_over() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let request = LeaseRequest {
        wait: Duration::from_millis(5),
        ..LeaseRequest::default()
    };
    assert!(block_on(queue.lease(&request)).unwrap().is_empty());
}

#[test]
fn peeking_changes_nothing() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b"]);
    enqueue_with(&queue, "c", &[(DELAY, "7")]).unwrap();
    let messages = lease(&queue, 1);
    let peeked = block_on(queue.peek(0, 10)).unwrap();
    let states: Vec<_> = peeked.iter().map(|message| message.state).collect();
    let deadline_ms = Some(messages[0].deadline_ms());
    assert_eq!(
        states,
        [
            MessageState::Leased { deadline_ms },
            MessageState::Ready,
            MessageState::Delayed {
                until_ms: START_MS + 7
            },
        ]
    );
    assert_eq!(peeked[1].record().unwrap().value, Some(&b"b"[..]));
    assert_eq!(peeked[0].delivery_count, 1);
    assert_eq!(block_on(queue.peek(2, 10)).unwrap().len(), 1);
    assert_eq!(block_on(queue.peek(0, 1)).unwrap().len(), 1);
    assert_eq!(leased(&queue, 10), [("b".to_owned(), 1)]);
    fixture.clock.advance_ms(1_000);
    let described = block_on(queue.describe()).unwrap();
    assert_eq!(described.oldest_age_ms, Some(1_000));
}

#[test]
fn purging_empties_a_queue_and_what_comes_later_stays() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue(&queue, &["a", "b", "c"]);
    let messages = lease(&queue, 1);
    assert_eq!(block_on(queue.purge()).unwrap(), 3);
    assert_eq!(block_on(queue.purge()).unwrap(), 0);
    assert_eq!(counts(&queue), (0, 0, 0));
    assert_eq!(queue.partition().size_bytes(), 0);
    let settled = block_on(queue.acknowledge(&receipts(&messages))).unwrap();
    assert_eq!(settled.stale, receipts(&messages));
    enqueue(&queue, &["d"]);
    drop(queue);
    fixture.reopen();
    assert_eq!(leased(&fixture.find("q"), 10), [("d".to_owned(), 1)]);
}

#[test]
fn what_is_acknowledged_is_removed_from_the_store() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    let long = "x".repeat(40_000);
    for _ in 0..12 {
        enqueue(&queue, &vec![long.as_str(); 100]);
    }
    let held = lease(&queue, 1);
    assert_eq!(drain(&queue).len(), 1_199);
    // The first is not acknowledged: everything is still there.
    let full_bytes = queue.partition().size_bytes();
    assert!(full_bytes > 40_000_000, "{full_bytes}");
    acknowledge(&queue, &held);
    enqueue(&queue, &vec![long.as_str(); 1_100]);
    drain(&queue);
    assert!(
        queue.partition().size_bytes() < full_bytes,
        "a prefix is gone"
    );
    enqueue(&queue, &["last"]);
    block_on(queue.maintain()).unwrap();
    assert!(queue.partition().size_bytes() < 100_000);
    drop((queue, held));
    fixture.reopen();
    assert_eq!(leased(&fixture.find("q"), 10), [("last".to_owned(), 1)]);
}
