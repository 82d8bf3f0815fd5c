//! Kills. The test runs in a process of its own, which says what it has been told.

mod deduplication;
mod max_length;
mod purge;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Output};
use std::sync::mpsc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::support::{block_on, message, name, receipts};
use crate::queue::{GROUP, LeaseRequest, ORIGIN, Queue, QueueConfig, Queues, Receipt};
use crate::storage::tests::support::{alone, alone_argument};
use crate::storage::{Durability, Store, StoreOptions};

/// Messages that are enqueued together, at most.
const MAX_BATCH: u64 = 40;
/// Messages that are leased together, at most.
const MAX_LEASED: usize = 37;
const MAX_DELIVERIES: u32 = 3;
/// How long each process goes on once everything is in motion, and enough has happened, in ms.
const KILLED_AFTER_MS: [u64; 3] = [60, 200, 120];

/// How long a process may take to say enough.
const PATIENCE: Duration = Duration::from_secs(120);

fn open(path: &Path, durability: Durability, config: QueueConfig) -> (Queues, Queue) {
    let options = StoreOptions {
        durability,
        tail_bytes: 100_000,
        memtable_bytes: 256 << 10,
        ..StoreOptions::default()
    };
    let queues = Queues::open(Store::open(path, options).unwrap()).unwrap();
    let queue = block_on(queues.ensure_queue(&name("q"), config)).unwrap();
    (queues, queue)
}

#[expect(clippy::print_stdout, reason = "it is read by the process that kills")]
fn say(what: &str, which: impl std::fmt::Display) {
    println!("{what} {which} .");
}

/// The rest of the argument of the process that is killed, and the queue in the data directory that the argument
/// names; `None` in the process that kills.
fn open_alone(config: QueueConfig) -> Option<(String, Queues, Queue)> {
    let argument = alone_argument()?;
    // The test harness may have begun a line.
    say("\nopening", "");
    let mut words = argument.splitn(3, ' ');
    let (durability, path) = (words.next().unwrap(), words.next().unwrap());
    let (queues, queue) = open(Path::new(path), durability.parse().unwrap(), config);
    Some((words.next().unwrap_or_default().to_owned(), queues, queue))
}

/// Runs tasks that go on until this process is killed.
fn work(spawn: impl FnOnce(&mut JoinSet<()>)) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        spawn(&mut tasks);
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
}

/// Kills a process that long after `hear` has said for the first time that it has heard enough. What the process says
/// is heard meanwhile: one that waits for its listener is in the middle of nothing.
fn hear_until_killed(
    mut child: Child,
    kill_after: Duration,
    mut hear: impl FnMut(&str, &str) -> bool,
) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (told, is_told) = mpsc::channel();
    let mut told = Some(told);
    let killer = std::thread::spawn(move || {
        let is_enough = is_told.recv_timeout(PATIENCE).is_ok();
        if is_enough {
            std::thread::sleep(kill_after);
        }
        child.kill().unwrap();
        (is_enough, child.wait_with_output().unwrap())
    });
    for line in lines {
        let line = line.unwrap();
        // The last line may have been cut off by the kill.
        let Some((what, which)) = line
            .strip_suffix(" .")
            .and_then(|line| line.split_once(' '))
        else {
            continue;
        };
        if hear(what, which)
            && let Some(told) = told.take()
        {
            // If its patience is over that is said below.
            let _ = told.send(());
        }
    }
    // One that has ended by itself says no more.
    drop(told);
    let (is_enough, Output { status, stderr, .. }) = killer.join().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), None, "it ended by itself: {stderr}");
    assert!(is_enough, "it has not said enough in {PATIENCE:?}");
}

async fn enqueue_for_ever(queue: Queue) {
    for step in 0_u64.. {
        let group = (step % 5).to_string();
        let messages: Vec<_> = (0..1 + step % MAX_BATCH)
            .map(|number| match number % 4 {
                0 => message("grouped", &[(GROUP, &group)]),
                _ => message("plain", &[]),
            })
            .collect();
        let enqueued = queue.enqueue(&messages).await.unwrap();
        let base = enqueued.base_offset.unwrap();
        say("enqueued", format_args!("{base} {}", enqueued.stored_count));
    }
}

/// Leases, and acknowledges and releases some; the others come again. One in four is acknowledged in none
/// of its three deliveries.
async fn work_for_ever(queue: Queue) {
    loop {
        let mut others = acknowledge_some(&queue).await;
        others.retain(|receipt| turn(receipt) == 1);
        queue.release(&others, 1).await.unwrap();
    }
}

/// Leases and acknowledges some; returns the others.
async fn acknowledge_some(queue: &Queue) -> Vec<Receipt> {
    let request = LeaseRequest {
        max_messages: MAX_LEASED,
        wait: Duration::from_secs(60),
        ..LeaseRequest::default()
    };
    let leased = queue.lease(&request).await.unwrap();
    let receipts = receipts(&leased);
    for receipt in &receipts {
        say("delivered", receipt);
    }
    let (finished, others): (Vec<Receipt>, _) =
        receipts.into_iter().partition(|receipt| turn(receipt) == 0);
    for receipt in &finished {
        say("acknowledging", receipt.offset);
    }
    let settled = queue.acknowledge(&finished).await.unwrap();
    for receipt in finished
        .iter()
        .filter(|receipt| !settled.stale.contains(receipt))
    {
        say("acknowledged", receipt);
    }
    others
}

/// Below four; another one with each delivery of a message.
fn turn(receipt: &Receipt) -> u64 {
    (receipt.offset + u64::from(receipt.delivery_count)) % 4
}

fn config() -> QueueConfig {
    QueueConfig {
        visibility_timeout_ms: 5,
        max_deliveries: Some(MAX_DELIVERIES),
        dead_letter: Some(name("dead")),
        ..QueueConfig::default()
    }
}

#[test]
fn a_kill_loses_no_message_and_no_count_and_brings_nothing_back() {
    let test = "a_kill_loses_no_message_and_no_count_and_brings_nothing_back";
    if let Some((_, _queues, queue)) = open_alone(config()) {
        return work(|tasks| {
            tasks.spawn(enqueue_for_ever(queue.clone()));
            for _ in 0..3 {
                tasks.spawn(work_for_ever(queue.clone()));
            }
        });
    }
    for durability in ["os", "sync"] {
        let folder = tempfile::tempdir().unwrap();
        let mut said = Said::default();
        for kill_after_ms in KILLED_AFTER_MS {
            let argument = format!("{durability} {}", folder.path().display());
            let child = alone(module_path!(), test, &argument).spawn().unwrap();
            let kill_after = Duration::from_millis(kill_after_ms);
            hear_until_killed(child, kill_after, |what, which| {
                said.take_in(what, which);
                // From an acknowledgement on everything is in motion.
                what == "acknowledged" && said.has_given_up && said.acknowledged.len() > 10
            });
            said.check(folder.path());
        }
        let (queues, queue) = open(folder.path(), Durability::Os, config());
        let all = LeaseRequest {
            max_messages: usize::MAX,
            ..LeaseRequest::default()
        };
        block_on(queue.lease(&all)).unwrap();
        assert!(!dead_letters(&queues).is_empty());
    }
}

/// Where the dead letters come from, each once.
fn dead_letters(queues: &Queues) -> BTreeSet<u64> {
    let queue = queues.queue(&name("dead")).unwrap();
    let mut origins = BTreeSet::new();
    for letter in block_on(queue.peek(0, usize::MAX)).unwrap() {
        let record = letter.record().unwrap();
        let (_, origin) = record
            .headers
            .iter()
            .find(|(name, _)| *name == ORIGIN)
            .unwrap();
        let origin = std::str::from_utf8(origin.unwrap()).unwrap();
        let offset = origin.strip_prefix("queue:q/").unwrap().parse().unwrap();
        assert!(origins.insert(offset), "{origin} is a dead letter twice");
    }
    origins
}

/// The messages of a queue, with their delivery counts.
fn held(queue: &Queue) -> BTreeMap<u64, u32> {
    let peeked = block_on(queue.peek(0, usize::MAX)).unwrap();
    let counted = block_on(queue.message_count()).unwrap();
    assert_eq!(
        peeked.len() as u64,
        counted,
        "messages that the queue counts"
    );
    let held = peeked.iter();
    held.map(|message| (message.offset, message.delivery_count))
        .collect()
}

/// What was said before the kills.
#[derive(Default)]
struct Said {
    enqueued: BTreeSet<u64>,
    delivered: BTreeMap<u64, u32>,
    acknowledging: BTreeSet<u64>,
    /// Whether a message was delivered for the last time, and is not acknowledged then.
    has_given_up: bool,
    /// The delivery that was acknowledged.
    acknowledged: BTreeMap<u64, u32>,
}

impl Said {
    fn take_in(&mut self, what: &str, which: &str) {
        match what {
            "enqueued" => {
                let (base, count) = which.split_once(' ').unwrap();
                let (base, count): (u64, u64) = (base.parse().unwrap(), count.parse().unwrap());
                self.enqueued.extend(base..base + count);
            }
            "delivered" => {
                let receipt: Receipt = which.parse().unwrap();
                let count = self.delivered.entry(receipt.offset).or_default();
                *count = receipt.delivery_count.max(*count);
                self.has_given_up |= receipt.delivery_count == MAX_DELIVERIES && turn(&receipt) > 0;
                // A worker may say what was delivered to it after another has acknowledged a later
                // delivery.
                let acknowledged = self.acknowledged.get(&receipt.offset);
                assert!(
                    acknowledged.is_none_or(|last| receipt.delivery_count <= *last),
                    "{receipt} came back"
                );
            }
            "acknowledging" => _ = self.acknowledging.insert(which.parse().unwrap()),
            "acknowledged" => {
                let receipt: Receipt = which.parse().unwrap();
                self.acknowledged
                    .insert(receipt.offset, receipt.delivery_count);
            }
            _ => {}
        }
    }

    fn check(&self, path: &Path) {
        let (queues, queue) = open(path, Durability::Os, config());
        let (dead, held) = (dead_letters(&queues), held(&queue));
        self.check_places(0, &held, &dead);
        self.check_counts(&held);
    }

    /// What was acknowledged is nowhere, and everything else from an offset on is in one place.
    fn check_places(&self, from: u64, held: &BTreeMap<u64, u32>, dead: &BTreeSet<u64>) {
        for offset in self.acknowledged.keys() {
            assert!(
                !held.contains_key(offset) && !dead.contains(offset),
                "{offset} came back"
            );
        }
        for offset in self.enqueued.range(from..) {
            let places = u32::from(held.contains_key(offset)) + u32::from(dead.contains(offset));
            assert!(places <= 1, "{offset} is there and a dead letter, too");
            let is_there = places == 1 || self.acknowledging.contains(offset);
            assert!(is_there, "{offset} is lost");
        }
    }

    fn check_counts(&self, held: &BTreeMap<u64, u32>) {
        for (offset, count) in &self.delivered {
            if let Some(stored) = held.get(offset) {
                assert!(stored >= count, "{offset}: {stored} deliveries of {count}");
            }
        }
    }
}
