//! Kills of a full queue that drops its oldest messages.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::{
    KILLED_AFTER_MS, MAX_BATCH, MAX_LEASED, Said, acknowledge_some, dead_letters, enqueue_for_ever,
    hear_until_killed, held, open, open_alone, work,
};
use crate::queue::tests::support::name;
use crate::queue::{MaxLengthPolicy, Queue, QueueConfig, Receipt};
use crate::storage::Durability;
use crate::storage::tests::support::alone;

const LENGTH: u64 = 300;
const PRODUCERS: u64 = 2;
const WORKERS: u64 = 1;

/// Nothing becomes a dead letter but what is dropped.
fn config() -> QueueConfig {
    QueueConfig {
        visibility_timeout_ms: 5,
        max_deliveries: Some(u32::MAX),
        dead_letter: Some(name("dead")),
        max_length: Some(LENGTH),
        max_length_policy: MaxLengthPolicy::DropOldest,
        ..QueueConfig::default()
    }
}

/// What was said, and what had been dropped at the last kill.
#[derive(Default)]
struct Heard {
    said: Said,
    dropped: BTreeSet<u64>,
}

impl Heard {
    fn take_in(&mut self, what: &str, which: &str) {
        if what == "delivered" {
            let receipt: Receipt = which.parse().unwrap();
            let was_dropped = self.dropped.contains(&receipt.offset);
            assert!(!was_dropped, "{receipt} was dropped before");
        }
        self.said.take_in(what, which);
    }

    /// Whether more messages were dropped than the queue holds.
    fn has_dropped(&self) -> bool {
        let acknowledged = self.said.acknowledging.len() as u64;
        self.said.enqueued.len() as u64 > acknowledged + 2 * LENGTH
    }

    fn check(&mut self, path: &Path) {
        let (queues, queue) = open(path, Durability::Os, config());
        let (dropped, held) = (dead_letters(&queues), held(&queue));
        self.said.check_places(0, &held, &dropped);
        self.said.check_counts(&held);
        let length = held.len() as u64;
        assert!(length <= LENGTH, "{length} messages");
        assert!(self.dropped.is_subset(&dropped), "letters are lost");
        // What others held, and what others were about to add, may have made it drop more.
        let spared = LENGTH - WORKERS * MAX_LEASED as u64 - PRODUCERS * MAX_BATCH;
        let end = queue.partition().high_watermark();
        if let Some(newest) = dropped.last() {
            assert!(newest + spared <= end, "{newest} of {end} was dropped");
        }
        self.dropped = dropped;
    }
}

/// Holds no more messages than those of one lease.
async fn work_without_leaving_any(queue: Queue) {
    loop {
        let others = acknowledge_some(&queue).await;
        queue.release(&others, 0).await.unwrap();
    }
}

/// Fails when what is dropped leaves the queue in another commit than that of its letter or of what takes its room.
#[test]
fn a_kill_leaves_a_full_queue_no_longer_than_it_may_be_and_what_was_dropped_out_of_it() {
    let test = "a_kill_leaves_a_full_queue_no_longer_than_it_may_be_and_what_was_dropped_out_of_it";
    if let Some((_, _queues, queue)) = open_alone(config()) {
        return work(|tasks| {
            for _ in 0..PRODUCERS {
                tasks.spawn(enqueue_for_ever(queue.clone()));
            }
            for _ in 0..WORKERS {
                tasks.spawn(work_without_leaving_any(queue.clone()));
            }
        });
    }
    for durability in ["os", "sync"] {
        let folder = tempfile::tempdir().unwrap();
        let mut heard = Heard::default();
        for kill_after_ms in KILLED_AFTER_MS {
            let argument = format!("{durability} {}", folder.path().display());
            let child = alone(module_path!(), test, &argument).spawn().unwrap();
            let kill_after = Duration::from_millis(kill_after_ms);
            hear_until_killed(child, kill_after, |what, which| {
                heard.take_in(what, which);
                what == "acknowledged" && heard.has_dropped()
            });
            heard.check(folder.path());
        }
        assert!(heard.dropped.len() as u64 > LENGTH);
    }
}
