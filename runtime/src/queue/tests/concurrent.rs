//! Many workers at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::support::*;
use crate::queue::{GROUP, LeaseRequest, Queue, QueueConfig};

const GROUPS: u64 = 7;
const PRODUCERS: u64 = 3;
const MESSAGES: u64 = 400;

/// What has been seen of the groups: the messages in hand, and the last of each producer.
#[derive(Default)]
struct Seen {
    in_hand: BTreeMap<String, u64>,
    last: BTreeMap<(String, u64), u64>,
    count: u64,
}

impl Seen {
    /// Text `group/producer/number`; those of a producer ascend within a group.
    fn begin(&mut self, values: &[String]) {
        let mut groups: Vec<_> = values
            .iter()
            .map(|value| value.split('/').next().unwrap())
            .collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let held = self.in_hand.entry(group.to_owned()).or_default();
            assert_eq!(*held, 0, "two have messages of group {group} at a time");
            *held = 1;
        }
        for value in values {
            let parts: Vec<_> = value.split('/').collect();
            let (producer, number) = (parts[1].parse().unwrap(), parts[2].parse().unwrap());
            let last = self.last.insert((parts[0].to_owned(), producer), number);
            assert!(
                last.is_none_or(|last| last < number),
                "{value} came after {last:?}"
            );
            self.count += 1;
        }
    }

    fn end(&mut self, values: &[String]) {
        for value in values {
            self.in_hand
                .insert(value.split('/').next().unwrap().to_owned(), 0);
        }
    }
}

async fn produce(queue: Queue, producer: u64) {
    for number in 0..MESSAGES {
        let group = format!("{}", number % GROUPS);
        let value = format!("{group}/{producer}/{number}");
        queue
            .enqueue(&[message(&value, &[(GROUP, &group)])])
            .await
            .unwrap();
    }
}

async fn work(queue: Queue, seen: Arc<Mutex<Seen>>) {
    let request = LeaseRequest {
        max_messages: 5,
        wait: Duration::from_millis(20),
        ..LeaseRequest::default()
    };
    while seen.lock().count < PRODUCERS * MESSAGES {
        // Awaited to its end: what a lease has begun to take is nobody else's until its timeout.
        let messages = queue.lease(&request).await.unwrap();
        let values: Vec<_> = messages.iter().map(value).collect();
        seen.lock().begin(&values);
        tokio::task::yield_now().await;
        seen.lock().end(&values);
        let settled = queue.acknowledge(&receipts(&messages)).await.unwrap();
        assert_eq!(settled.stale, []);
    }
}

#[test]
fn each_message_is_in_one_hand_and_groups_stay_in_order() {
    let fixture = Fixture::new();
    // The clock stands still: no lease ends.
    let queue = fixture.create("q", QueueConfig::default());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
    let seen = Arc::new(Mutex::new(Seen::default()));
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for producer in 0..PRODUCERS {
            tasks.push(tokio::spawn(produce(queue.clone(), producer)));
        }
        for _ in 0..6 {
            tasks.push(tokio::spawn(work(queue.clone(), Arc::clone(&seen))));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(seen.lock().count, PRODUCERS * MESSAGES);
    assert_eq!(counts(&queue), (0, 0, 0));
}
