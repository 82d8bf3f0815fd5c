//! Kills of producers that give deduplication ids, and repeat after a kill what they have not heard of, and more.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{KILLED_AFTER_MS, hear_until_killed, open, open_alone, say, work};
use crate::model::Record;
use crate::queue::tests::support::{block_on, message, receipts};
use crate::queue::{DEDUPLICATION_ID, LeaseRequest, Queue, QueueConfig};
use crate::storage::Durability;
use crate::storage::tests::support::{alone, stored_records};

const PRODUCERS: usize = 2;
/// Ids that are repeated although they were acknowledged.
const REPEATED: u64 = 30;

/// Messages whose value is their deduplication id.
fn messages(producer: usize, numbers: std::ops::Range<u64>) -> Vec<Record> {
    let ids = numbers.map(|number| format!("{producer}-{number}"));
    ids.map(|id| message(&id, &[(DEDUPLICATION_ID, &id)]))
        .collect()
}

/// Enqueues numbers from one on, each in its turn, and now and then some of them again.
async fn enqueue_for_ever(queue: Queue, producer: usize, from: u64, step_by: u64) {
    let mut next = from;
    for step in (0_u64..).step_by(step_by as usize) {
        let end = next + 1 + step % 20;
        let enqueued = queue.enqueue(&messages(producer, next..end)).await.unwrap();
        let duplicates = enqueued.duplicates.len() as u64;
        assert_eq!(enqueued.stored_count + duplicates, end - next);
        say(
            "acknowledged",
            format_args!("{producer} {end} {duplicates}"),
        );
        next = match step % 7 {
            0 => end.saturating_sub(REPEATED),
            _ => end,
        };
    }
}

/// An id is remembered when its message is gone. One in three stays, so that all can be read that was ever stored.
async fn work_for_ever(queue: Queue) {
    let request = LeaseRequest {
        wait: Duration::from_secs(60),
        ..LeaseRequest::default()
    };
    loop {
        let leased = queue.lease(&request).await.unwrap();
        let mut finished = receipts(&leased);
        finished.retain(|receipt| receipt.offset % 3 > 0);
        queue.acknowledge(&finished).await.unwrap();
    }
}

/// What the producers know: up to which number all is acknowledged.
#[derive(Default)]
struct Acknowledged {
    to: [u64; PRODUCERS],
    duplicate_count: u64,
}

impl Acknowledged {
    fn take_in(&mut self, which: &str) {
        let mut words = which.split(' ');
        let mut word = || words.next().unwrap().parse::<u64>().unwrap();
        let to = &mut self.to[word() as usize];
        *to = word().max(*to);
        self.duplicate_count += word();
    }

    fn are_many(&self) -> bool {
        self.duplicate_count > 100 && self.to.iter().all(|to| *to > 100)
    }

    /// Where producers begin after a kill.
    fn repeat_from(&self) -> String {
        let from = self.to.map(|to| to.saturating_sub(REPEATED).to_string());
        from.join(" ")
    }

    fn check(&self, path: &Path) {
        let (queues, queue) = open(path, Durability::Os, QueueConfig::default());
        assert_eq!(queue.partition().start_offset(), 0, "nothing was removed");
        let mut stored: BTreeMap<String, u32> = BTreeMap::new();
        for (_, record) in stored_records(queues.store(), queue.partition()) {
            let id = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            *stored.entry(id).or_default() += 1;
        }
        for (id, count) in &stored {
            assert_eq!(*count, 1, "{id} is stored more than once");
        }
        for (producer, to) in self.to.iter().enumerate() {
            for number in 0..*to {
                let id = format!("{producer}-{number}");
                assert!(stored.contains_key(&id), "{id} is lost");
            }
            let from = to.saturating_sub(REPEATED);
            let enqueued = block_on(queue.enqueue(&messages(producer, from..*to))).unwrap();
            assert_eq!(enqueued.stored_count, 0, "of {from} to {to}");
        }
    }
}

/// Fails when an id is not stored, or in another commit than its message, be that before or after it.
#[test]
fn a_kill_stores_no_id_twice_and_loses_none() {
    let test = "a_kill_stores_no_id_twice_and_loses_none";
    if let Some((from, _queues, queue)) = open_alone(QueueConfig::default()) {
        return work(|tasks| {
            tasks.spawn(work_for_ever(queue.clone()));
            for (producer, from) in from.split(' ').enumerate() {
                let from: u64 = from.parse().unwrap();
                // Two of a name send the same ids at the same time, in batches of their own.
                for step_by in [1, 3] {
                    tasks.spawn(enqueue_for_ever(queue.clone(), producer, from, step_by));
                }
            }
        });
    }
    for durability in ["os", "sync"] {
        let folder = tempfile::tempdir().unwrap();
        let mut acknowledged = Acknowledged::default();
        for kill_after_ms in KILLED_AFTER_MS {
            let (path, from) = (folder.path().display(), acknowledged.repeat_from());
            let argument = format!("{durability} {path} {from}");
            let child = alone(module_path!(), test, &argument).spawn().unwrap();
            let kill_after = Duration::from_millis(kill_after_ms);
            hear_until_killed(child, kill_after, |what, which| {
                if what == "acknowledged" {
                    acknowledged.take_in(which);
                }
                what == "acknowledged" && acknowledged.are_many()
            });
            acknowledged.check(folder.path());
        }
    }
}
