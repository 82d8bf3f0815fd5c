//! Kills. The test runs in a process of its own, which says what it has been told.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use super::support::{block_on, message, name, receipts};
use crate::queue::{GROUP, LeaseRequest, ORIGIN, Queue, QueueConfig, Queues, Receipt};
use crate::storage::tests::support::{alone, alone_argument};
use crate::storage::{Durability, Store, StoreOptions};

fn open(path: &Path, durability: Durability) -> (Queues, Queue) {
    let options = StoreOptions {
        durability,
        tail_bytes: 100_000,
        memtable_bytes: 256 << 10,
        ..StoreOptions::default()
    };
    let queues = Queues::open(Store::open(path, options).unwrap()).unwrap();
    let config = QueueConfig {
        visibility_timeout_ms: 5,
        max_deliveries: Some(3),
        dead_letter: Some(name("dead")),
        ..QueueConfig::default()
    };
    let queue = block_on(queues.ensure_queue(&name("q"), config)).unwrap();
    (queues, queue)
}

#[expect(clippy::print_stdout, reason = "it is read by the process that kills")]
fn say(what: &str, which: impl std::fmt::Display) {
    println!("{what} {which} .");
}

async fn enqueue_for_ever(queue: Queue) {
    for step in 0_u64.. {
        let group = (step % 5).to_string();
        let messages: Vec<_> = (0..1 + step % 40)
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
    let request = LeaseRequest {
        max_messages: 37,
        wait: Duration::from_secs(60),
        ..LeaseRequest::default()
    };
    loop {
        let leased = queue.lease(&request).await.unwrap();
        let receipts = receipts(&leased);
        for receipt in &receipts {
            say("delivered", receipt);
        }
        let of = |remainder: u64| {
            let chosen = receipts
                .iter()
                .filter(move |of| (of.offset + u64::from(of.delivery_count)) % 4 == remainder);
            chosen.copied().collect::<Vec<_>>()
        };
        let finished = of(0);
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
        queue.release(&of(1), 1).await.unwrap();
    }
}

#[test]
fn a_kill_loses_no_message_and_no_count_and_brings_nothing_back() {
    let test = "a_kill_loses_no_message_and_no_count_and_brings_nothing_back";
    if let Some(argument) = alone_argument() {
        let (durability, path) = argument.split_once(' ').unwrap();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
        let (path, durability) = (Path::new(path).to_owned(), durability.parse().unwrap());
        let (_queues, queue) = std::thread::spawn(move || open(&path, durability))
            .join()
            .unwrap();
        return runtime.block_on(async move {
            let mut tasks = vec![tokio::spawn(enqueue_for_ever(queue.clone()))];
            tasks.extend((0..3).map(|_| tokio::spawn(work_for_ever(queue.clone()))));
            for task in tasks {
                task.await.unwrap();
            }
        });
    }
    for durability in ["os", "sync"] {
        let folder = tempfile::tempdir().unwrap();
        let mut said = Said::default();
        for kill_after_ms in [60, 200, 120] {
            let argument = format!("{durability} {}", folder.path().display());
            let mut child = alone(module_path!(), test, &argument).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut line = || lines.next().map(Result::unwrap);
            // From the first acknowledgement on everything is in motion.
            while let Some(line) = line() {
                said.take_in(&line);
                if line.starts_with("acknowledged ") {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(kill_after_ms));
            child.kill().unwrap();
            std::iter::from_fn(&mut line).for_each(|line| said.take_in(&line));
            child.wait().unwrap();
            said.check(folder.path());
        }
        assert!(said.acknowledged.len() > 10 && said.enqueued.len() > 100);
        assert!(said.delivered.values().any(|count| *count > 1));
        let (queues, _) = open(folder.path(), Durability::Os);
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

/// What was said before the kills.
#[derive(Default)]
struct Said {
    enqueued: BTreeSet<u64>,
    delivered: BTreeMap<u64, u32>,
    acknowledging: BTreeSet<u64>,
    /// The delivery that was acknowledged.
    acknowledged: BTreeMap<u64, u32>,
}

impl Said {
    fn take_in(&mut self, line: &str) {
        // The last line may have been cut off by the kill.
        let Some(line) = line.strip_suffix(" .") else {
            return;
        };
        let (what, which) = line.split_once(' ').unwrap();
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
        let (queues, queue) = open(path, Durability::Os);
        let dead = dead_letters(&queues);
        let peeked = block_on(queue.peek(0, usize::MAX)).unwrap();
        let held: BTreeMap<_, _> = peeked
            .iter()
            .map(|message| (message.offset, message.delivery_count))
            .collect();
        for offset in self.acknowledged.keys() {
            assert!(
                !held.contains_key(offset) && !dead.contains(offset),
                "{offset} came back"
            );
        }
        for offset in &self.enqueued {
            let places = u32::from(held.contains_key(offset)) + u32::from(dead.contains(offset));
            assert!(places <= 1, "{offset} is there and a dead letter, too");
            let is_there = places == 1 || self.acknowledging.contains(offset);
            assert!(is_there, "{offset} is lost");
        }
        for (offset, count) in &self.delivered {
            if let Some(stored) = held.get(offset) {
                assert!(stored >= count, "{offset}: {stored} deliveries of {count}");
            }
        }
    }
}
