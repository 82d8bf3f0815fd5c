//! Asking for messages before leasing them.

use std::time::Duration;

use super::support::*;
use crate::model::Record;
use crate::queue::{DELAY, LeaseRequest, Queue, TIME_TO_LIVE};

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

/// Fails when nothing is waited for but appends and what others do.
#[test]
fn whoever_waits_is_woken_by_the_end_of_a_delay_and_of_a_lease() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_with(&queue, "a", &[(DELAY, "40")]).unwrap();
    let woken = || async {
        let waiting = {
            let queue = queue.clone();
            async move { queue.wait_until_ready().await }
        };
        fixture.woken(&queue, 40, waiting).await;
        assert!(queue.has_ready().unwrap());
    };
    block_on(async {
        woken().await;
        let request = LeaseRequest {
            visibility_timeout_ms: Some(40),
            ..LeaseRequest::default()
        };
        assert_eq!(queue.lease(&request).await.unwrap().len(), 1);
        woken().await;
    });
}

/// Whether somebody who waits for a message is woken at once.
fn is_woken(queue: &Queue) -> bool {
    let while_nothing_happens = Duration::from_millis(150);
    block_on(async {
        let waiting = queue.wait_until_ready();
        let woken = tokio::time::timeout(while_nothing_happens, waiting).await;
        woken.is_ok()
    })
}

/// Fails when a pipeline that has nothing to do is woken every millisecond, until somebody drops what has expired.
#[test]
fn what_has_expired_wakes_nobody_while_it_is_leased() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_with(&queue, "a", &[(TIME_TO_LIVE, "10")]).unwrap();
    assert_eq!(lease(&queue, 1).len(), 1);
    fixture.clock.advance_ms(11);
    assert!(!queue.has_ready().unwrap());
    assert!(!is_woken(&queue));
    // With the lease it is over.
    fixture.clock.advance_ms(30_000);
    assert!(is_woken(&queue));
    assert!(queue.has_ready().unwrap());
    assert!(lease(&queue, 1).is_empty());
    assert!(!queue.has_ready().unwrap());
    assert_eq!(queue.waiting_count().unwrap(), 0);
}

#[test]
fn what_has_expired_before_its_time_came_is_there_to_be_given_up() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    enqueue_with(&queue, "a", &[(DELAY, "60000"), (TIME_TO_LIVE, "10")]).unwrap();
    assert!(!queue.has_ready().unwrap());
    fixture.clock.advance_ms(11);
    assert!(is_woken(&queue));
    assert!(queue.has_ready().unwrap());
    assert_eq!(queue.oldest_ready_ms().unwrap(), None);
    assert!(lease(&queue, 1).is_empty());
    assert!(!queue.has_ready().unwrap());
    assert!(!is_woken(&queue));
}
