//! Asking for messages before leasing them.

use super::support::*;
use crate::model::Record;
use crate::queue::LeaseRequest;

#[test]
fn a_message_is_ready_until_it_is_leased_and_when_it_is_released() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    assert!(!queue.has_ready().unwrap());
    enqueue(&queue, &["a"]);
    assert!(queue.has_ready().unwrap());
    let leased = lease(&queue, 10);
    assert!(!queue.has_ready().unwrap());
    assert_eq!(queue.waiting_count().unwrap(), 1);
    block_on(queue.release(&[leased[0].receipt()], 1_000)).unwrap();
    assert!(!queue.has_ready().unwrap());
    fixture.clock.advance_ms(1_001);
    assert!(queue.has_ready().unwrap());
}

#[test]
fn the_oldest_message_is_the_oldest_that_can_be_leased() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    assert_eq!(queue.oldest_ready_ms().unwrap(), None);
    let dated = |timestamp_ms| Record {
        timestamp_ms,
        ..message("a", &[])
    };
    block_on(queue.enqueue(&[dated(START_MS - 500), dated(START_MS - 200)])).unwrap();
    assert_eq!(queue.oldest_ready_ms().unwrap(), Some(START_MS - 500));
    let leased = lease(&queue, 1);
    assert_eq!(queue.oldest_ready_ms().unwrap(), Some(START_MS - 200));
    block_on(queue.release(&[leased[0].receipt()], 0)).unwrap();
    assert_eq!(queue.oldest_ready_ms().unwrap(), Some(START_MS - 500));
    lease(&queue, 10);
    assert_eq!(queue.oldest_ready_ms().unwrap(), None);
}

#[test]
fn whoever_waits_hears_of_a_message_and_of_one_that_comes_back() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let wait = || {
        let queue = queue.clone();
        tokio::spawn(async move {
            while !queue.has_ready().unwrap() {
                queue.wait_until_ready().await;
            }
        })
    };
    block_on(async {
        let waiting = wait();
        tokio::task::yield_now().await;
        queue.enqueue(&[message("a", &[])]).await.unwrap();
        waiting.await.unwrap();
        let leased = queue.lease(&LeaseRequest::default()).await.unwrap();
        let waiting = wait();
        tokio::task::yield_now().await;
        queue.release(&[leased[0].receipt()], 0).await.unwrap();
        waiting.await.unwrap();
    });
}

#[test]
fn a_deleted_queue_is_an_error_for_who_asks() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    block_on(fixture.queues().delete_queue(queue.name())).unwrap();
    assert!(queue.has_ready().is_err());
}
