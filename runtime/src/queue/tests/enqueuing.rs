//! Deduplication, time to live, length limits.

use super::support::*;
use crate::queue::{
    DEDUPLICATION_ID, EXPIRES_AT, Error, MaxLengthPolicy, PRIORITY, QueueConfig, TIME_TO_LIVE,
};
use crate::storage::Commit;

const ID: &[(&str, &str)] = &[(DEDUPLICATION_ID, "order-1")];

#[test]
fn an_id_is_enqueued_once_within_its_window_also_after_a_restart() {
    let mut fixture = Fixture::new();
    let queue = fixture.queue();
    assert_eq!(enqueue_with(&queue, "a", ID).unwrap().stored_count, 1);
    let twice = [message("b", ID), message("c", &[]), message("d", ID)];
    let enqueued = block_on(queue.enqueue(&twice)).unwrap();
    assert_eq!(
        (enqueued.stored_count, enqueued.duplicates),
        (1, vec![0, 2])
    );
    assert_eq!(enqueued.base_offset, Some(1));
    assert_eq!(enqueue_with(&queue, "e", ID).unwrap().base_offset, None);
    assert_eq!(drain(&queue), ["a", "c"]);
    block_on(queue.maintain()).unwrap();
    drop(queue);
    fixture.clock.advance_ms(299_999);
    fixture.reopen();
    let queue = fixture.find("q");
    assert_eq!(enqueue_with(&queue, "f", ID).unwrap().stored_count, 0);
    fixture.clock.advance_ms(2);
    assert_eq!(enqueue_with(&queue, "g", ID).unwrap().stored_count, 1);
    assert_eq!(enqueue_with(&queue, "h", ID).unwrap().stored_count, 0);
    assert_eq!(drain(&queue), ["g"]);
}

#[test]
fn an_id_is_enqueued_once_of_messages_that_are_enqueued_together() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let twice = [message("a", ID), message("b", &[]), message("c", ID)];
    let enqueued = block_on(queue.enqueue(&twice)).unwrap();
    assert_eq!(enqueued.stored_count, 2);
    assert_eq!(enqueued.duplicates, [2]);
    assert_eq!(drain(&queue), ["a", "b"]);
    // The next commit of a batch is another one: it is not known whether the first will happen.
    let mut headers = crate::model::HeadersBuf::new();
    headers.push(DEDUPLICATION_ID, Some(b"order-2")).unwrap();
    let mut batch = queue.batch();
    let mut commit = Commit::new();
    assert!(batch.push(0, None, None, headers.as_headers()).unwrap());
    assert!(!batch.push(0, None, None, headers.as_headers()).unwrap());
    batch.add_to(&mut commit).unwrap();
    let undecided = batch.push(0, None, None, headers.as_headers());
    assert!(matches!(undecided, Err(Error::Undecided)));
}

#[test]
fn an_id_is_free_again_when_its_commit_does_not_happen() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let mut batch = queue.batch();
    let message = message("a", ID);
    let mut headers = crate::model::HeadersBuf::new();
    headers.push(DEDUPLICATION_ID, Some(b"order-1")).unwrap();
    let value = message.value.as_deref();
    assert!(batch.push(0, None, value, headers.as_headers()).unwrap());
    let mut commit = Commit::new();
    batch.add_to(&mut commit).unwrap();
    // Nobody knows yet whether it is a duplicate.
    let mut other = queue.batch();
    let undecided = other.push(0, None, value, headers.as_headers());
    assert!(matches!(undecided, Err(Error::Undecided)));
    // Enqueuing alone waits until it is known.
    block_on(async {
        let waiting = tokio::spawn({
            let (queue, message) = (queue.clone(), message.clone());
            async move { queue.enqueue(&[message]).await }
        });
        tokio::task::yield_now().await;
        drop(commit);
        assert_eq!(waiting.await.unwrap().unwrap().stored_count, 1);
    });
    // A batch that is dropped frees what it has reserved, too.
    headers.clear();
    headers.push(DEDUPLICATION_ID, Some(b"order-2")).unwrap();
    assert!(other.push(0, None, value, headers.as_headers()).unwrap());
    drop(other);
    let mut last = queue.batch();
    assert!(last.push(0, None, value, headers.as_headers()).unwrap());
}

#[test]
fn ids_out_of_the_window_are_forgotten_in_the_store() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    for number in 0..50 {
        let id = format!("id-{number}");
        enqueue_with(&queue, "a", &[(DEDUPLICATION_ID, &id)]).unwrap();
        fixture.clock.advance_ms(60_000);
    }
    let mut stored = 0;
    let store = fixture.queues().store();
    store
        .scan_kind(crate::storage::schema::KeyKind::Deduplication, |_, _| {
            stored += 1;
            Ok(crate::storage::Scan::Continue)
        })
        .unwrap();
    assert!(stored < 10, "{stored}");
}

#[test]
fn expired_messages_are_not_delivered() {
    let mut fixture = Fixture::new();
    let config = QueueConfig {
        time_to_live_ms: Some(1_000),
        ..QueueConfig::default()
    };
    let queue = fixture.create("q", config);
    let at = (START_MS + 2_000).to_string();
    enqueue_with(&queue, "short", &[(TIME_TO_LIVE, "10")]).unwrap();
    enqueue_with(&queue, "default", &[(PRIORITY, "9")]).unwrap();
    enqueue_with(&queue, "at", &[(EXPIRES_AT, &at)]).unwrap();
    fixture.clock.advance_ms(9);
    let short = lease(&queue, 1);
    assert_eq!(value(&short[0]), "default");
    fixture.clock.advance_ms(1);
    assert_eq!(values(&queue, 1), ["at"]);
    assert_eq!(block_on(queue.message_count()).unwrap(), 2);
    // Time does not take what is leased, but it does not come again.
    fixture.clock.advance_ms(30_000);
    assert_eq!(values(&queue, 10), [] as [&str; 0]);
    assert_eq!(block_on(queue.message_count()).unwrap(), 0);
    enqueue_with(&queue, "late", &[]).unwrap();
    drop(queue);
    fixture.clock.advance_ms(1_000);
    fixture.reopen();
    assert_eq!(values(&fixture.find("q"), 10), [] as [&str; 0]);
}

fn bounded(max_length_policy: MaxLengthPolicy) -> QueueConfig {
    QueueConfig {
        max_length: Some(3),
        max_length_policy,
        ..QueueConfig::default()
    }
}

#[test]
fn a_full_queue_refuses_messages() {
    let mut fixture = Fixture::new();
    let queue = fixture.create("q", bounded(MaxLengthPolicy::Reject));
    enqueue(&queue, &["a", "b"]);
    let full = block_on(queue.enqueue(&[message("c", &[]), message("d", &[])])).unwrap_err();
    let says =
        "the queue `q` is full: it holds 2 messages, 2 more would exceed its max-length of 3";
    assert_eq!(full.to_string(), says);
    enqueue(&queue, &["c"]);
    assert!(enqueue_with(&queue, "d", &[]).is_err());
    drop(queue);
    fixture.reopen();
    let queue = fixture.find("q");
    assert!(enqueue_with(&queue, "d", &[]).is_err());
    let first = lease(&queue, 1);
    assert!(enqueue_with(&queue, "d", &[]).is_err(), "leased ones count");
    acknowledge(&queue, &first);
    enqueue(&queue, &["d"]);
    // What is on its way counts, until it is known that it does not come.
    acknowledge(&queue, &lease(&queue, 1));
    let mut commit = Commit::new();
    let mut batch = queue.batch();
    batch.push(0, None, None, Default::default()).unwrap();
    batch.add_to(&mut commit).unwrap();
    assert!(enqueue_with(&queue, "e", &[]).is_err());
    drop(commit);
    enqueue(&queue, &["e"]);
    assert_eq!(values(&queue, 10), ["c", "d", "e"]);
}

#[test]
fn a_full_queue_can_drop_its_oldest_instead() {
    let fixture = Fixture::new();
    let queue = fixture.create("q", bounded(MaxLengthPolicy::DropOldest));
    enqueue(&queue, &["a", "b", "c"]);
    let held = lease(&queue, 1);
    enqueue(&queue, &["d"]);
    assert_eq!(counts(&queue), (2, 0, 1));
    let too_many = [message("e", &[]), message("f", &[]), message("g", &[])];
    assert!(matches!(
        block_on(queue.enqueue(&too_many)),
        Err(Error::Full { .. })
    ));
    acknowledge(&queue, &held);
    enqueue(&queue, &["e", "f"]);
    assert_eq!(values(&queue, 10), ["d", "e", "f"]);
}

#[test]
fn commits_under_way_at_the_same_time_drop_one_message_for_each_that_they_add() {
    let fixture = Fixture::new();
    let queue = fixture.create("q", bounded(MaxLengthPolicy::DropOldest));
    enqueue(&queue, &["a", "b", "c"]);
    let commits = ["d", "e"].map(|value| {
        let mut batch = queue.batch();
        let headers = crate::model::HeadersRef::EMPTY;
        batch
            .push(START_MS, None, Some(value.as_bytes()), headers)
            .unwrap();
        let mut commit = Commit::new();
        batch.add_to(&mut commit).unwrap();
        commit
    });
    for commit in commits {
        fixture.directory.commit(commit);
    }
    assert_eq!(values(&queue, 10), ["c", "d", "e"]);
}

#[test]
fn bad_attributes_are_refused() {
    let fixture = Fixture::new();
    let queue = fixture.queue();
    let error = enqueue_with(&queue, "a", &[(PRIORITY, "high")]).unwrap_err();
    let says = "the header `millstream-priority` is `high`; expected a digit from 0 to 9";
    assert_eq!(error.to_string(), says);
    assert_eq!(counts(&queue), (0, 0, 0));
}
