//! Kills of a queue that is purged again and again.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::{
    KILLED_AFTER_MS, Said, enqueue_for_ever, hear_until_killed, held, open, open_alone, say, work,
    work_for_ever,
};
use crate::queue::{Queue, QueueConfig, Receipt};
use crate::storage::Durability;
use crate::storage::tests::support::alone;

/// Between purges, in turn: some kills come while the queue is purged, and some while it is not.
const PAUSES_MS: [u64; 2] = [1, 20];

fn config() -> QueueConfig {
    QueueConfig {
        visibility_timeout_ms: 5,
        ..QueueConfig::default()
    }
}

async fn purge_for_ever(queue: Queue) {
    for pause_ms in PAUSES_MS.into_iter().cycle() {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let from = queue.partition().high_watermark();
        say("purging", from);
        queue.purge().await.unwrap();
        let to = queue.partition().high_watermark();
        say("purged", format_args!("{from} {to}"));
    }
}

/// What was said, and how far purges have come.
#[derive(Default)]
struct Heard {
    said: Said,
    purge_count: u64,
    /// Whether a purge has begun of which nothing more was heard.
    is_purging: bool,
    /// Everything below was purged.
    gone_to: u64,
    /// Nothing from here on was purged.
    kept_from: u64,
}

impl Heard {
    fn take_in(&mut self, what: &str, which: &str) {
        match what {
            "purging" => self.is_purging = true,
            "purged" => {
                let (from, to) = which.split_once(' ').unwrap();
                self.gone_to = from.parse().unwrap();
                self.kept_from = to.parse().unwrap();
                self.is_purging = false;
                self.purge_count += 1;
            }
            _ => self.said.take_in(what, which),
        }
    }

    fn check(&mut self, path: &Path) {
        let (_queues, queue) = open(path, Durability::Os, config());
        // Nothing else removes so few messages.
        let start = queue.partition().start_offset();
        let Self {
            gone_to, kept_from, ..
        } = *self;
        assert!(
            start >= gone_to,
            "{start} is there again, all below {gone_to} was purged"
        );
        assert!(
            self.is_purging || start <= kept_from,
            "{kept_from} to {start} came after the purge"
        );
        let held = held(&queue);
        self.said.check_places(start, &held, &BTreeSet::new());
        self.said.check_counts(&held);
        self.is_purging = false;
        self.gone_to = start;
        self.kept_from = kept_from.max(start);
    }
}

/// Fails when a purge is acknowledged before it is stored, or takes messages that came after it.
#[test]
fn a_kill_brings_nothing_back_that_was_purged_and_takes_nothing_else() {
    let test = "a_kill_brings_nothing_back_that_was_purged_and_takes_nothing_else";
    if let Some((_, _queues, queue)) = open_alone(config()) {
        return work(|tasks| {
            for _ in 0..2 {
                tasks.spawn(enqueue_for_ever(queue.clone()));
            }
            tasks.spawn(work_for_ever(queue.clone()));
            tasks.spawn(purge_for_ever(queue.clone()));
        });
    }
    for durability in ["os", "sync"] {
        let folder = tempfile::tempdir().unwrap();
        let mut heard = Heard::default();
        for kill_after_ms in KILLED_AFTER_MS {
            let argument = format!("{durability} {}", folder.path().display());
            let child = alone(module_path!(), test, &argument).spawn().unwrap();
            let gone_to = heard.gone_to;
            let kill_after = Duration::from_millis(kill_after_ms);
            hear_until_killed(child, kill_after, |what, which| {
                if what == "delivered" {
                    let receipt: Receipt = which.parse().unwrap();
                    assert!(receipt.offset >= gone_to, "{receipt} was purged before");
                }
                heard.take_in(what, which);
                let is_enough = heard.purge_count > 5 && heard.said.acknowledged.len() > 10;
                what == "purged" && is_enough
            });
            heard.check(folder.path());
        }
    }
}
