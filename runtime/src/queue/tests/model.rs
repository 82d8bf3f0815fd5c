//! A queue against a simple model of it: a list of messages, and what may happen to each.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::support::*;
use crate::queue::{
    DELAY, GROUP, LeaseRequest, PRIORITY, Queue, QueueConfig, Receipt, TIME_TO_LIVE,
};
use crate::storage::Commit;

const VISIBILITY_TIMEOUT_MS: u64 = 10_000;
const MAX_DELIVERIES: u32 = 4;

#[derive(Clone, Debug)]
struct Attributes {
    priority: u8,
    group: Option<u8>,
    delay_ms: Option<u64>,
    time_to_live_ms: Option<u64>,
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue(Vec<Attributes>),
    Lease(usize),
    /// Which of the receipts ever handed out.
    Acknowledge(Vec<prop::sample::Index>),
    Release(prop::sample::Index, u64),
    GiveBack(Vec<prop::sample::Index>),
    Extend(prop::sample::Index, u64),
    /// Acknowledges and releases in a commit that is dropped.
    Drop(Vec<prop::sample::Index>, prop::sample::Index),
    Advance(u64),
    Maintain,
    Purge,
    Reopen,
}

fn attributes() -> impl Strategy<Value = Attributes> {
    (
        prop_oneof![3 => Just(4_u8), 1 => 0..10_u8],
        prop::option::weighted(0.4, 0..4_u8),
        prop::option::weighted(0.2, 0..15_000_u64),
        prop::option::weighted(0.2, 0..40_000_u64),
    )
        .prop_map(|(priority, group, delay_ms, time_to_live_ms)| Attributes {
            priority,
            group,
            delay_ms,
            time_to_live_ms,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(any::<prop::sample::Index>(), 1..6);
    let one = any::<prop::sample::Index>;
    prop_oneof![
        6 => prop::collection::vec(attributes(), 1..8).prop_map(Step::Enqueue),
        8 => (1..8_usize).prop_map(Step::Lease),
        6 => some().prop_map(Step::Acknowledge),
        3 => (one(), 0..12_000_u64).prop_map(|(which, ms)| Step::Release(which, ms)),
        3 => some().prop_map(Step::GiveBack),
        2 => (one(), 1..20_000_u64).prop_map(|(which, ms)| Step::Extend(which, ms)),
        2 => (some(), one()).prop_map(|(all, which)| Step::Drop(all, which)),
        4 => (0..12_000_u64).prop_map(Step::Advance),
        1 => Just(Step::Maintain),
        1 => Just(Step::Purge),
        2 => Just(Step::Reopen),
    ]
}

#[derive(Clone, Debug)]
struct Message {
    priority: u8,
    group: Option<u8>,
    until_ms: u64,
    expires_at_ms: Option<u64>,
    count: u32,
    /// Deliveries that do not count.
    given_back: BTreeSet<u32>,
    /// Until when it is leased.
    leased_ms: Option<u64>,
}

#[derive(Default)]
struct Model {
    live: BTreeMap<u64, Message>,
    next: u64,
    dead: usize,
}

impl Model {
    fn enqueue(&mut self, messages: &[Attributes], now_ms: u64) {
        for of in messages {
            let message = Message {
                priority: of.priority,
                group: of.group,
                until_ms: of.delay_ms.map_or(0, |ms| now_ms + ms),
                expires_at_ms: of.time_to_live_ms.map(|ms| now_ms + ms),
                count: 0,
                given_back: BTreeSet::new(),
                leased_ms: None,
            };
            self.live.insert(self.next, message);
            self.next += 1;
        }
    }

    fn end_leases(&mut self, now_ms: u64) {
        for message in self.live.values_mut() {
            if message.leased_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                message.leased_ms = None;
                message.until_ms = 0;
            }
        }
    }

    fn drop_expired(&mut self, now_ms: u64) {
        self.end_leases(now_ms);
        let before = self.live.len();
        self.live.retain(|_, message| {
            let is_over = message.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
            message.leased_ms.is_some() || !is_over
        });
        self.dead += before - self.live.len();
    }

    fn lease(&mut self, max: usize, now_ms: u64) -> Vec<(u64, u32)> {
        loop {
            self.drop_expired(now_ms);
            let held: BTreeSet<u8> = self
                .live
                .values()
                .filter(|message| message.leased_ms.is_some())
                .filter_map(|message| message.group)
                .collect();
            let (mut leased, mut given_up) = (Vec::new(), BTreeSet::new());
            while leased.len() + given_up.len() < max {
                let mut seen = held.clone();
                let taken = |offset: &u64| {
                    given_up.contains(offset) || leased.iter().any(|(taken, _)| taken == offset)
                };
                let waiting = self
                    .live
                    .iter()
                    .filter(|(offset, message)| message.leased_ms.is_none() && !taken(offset));
                // Of each group its first, unless somebody held one before.
                let ready = waiting.filter(|(_, message)| {
                    message.group.is_none_or(|group| seen.insert(group))
                        && message.until_ms <= now_ms
                });
                let next = ready.min_by_key(|(offset, message)| (9 - message.priority, **offset));
                let Some((offset, message)) = next else { break };
                let (offset, count) = (*offset, message.count);
                if count - message.given_back.len() as u32 >= MAX_DELIVERIES {
                    given_up.insert(offset);
                } else {
                    leased.push((offset, count + 1));
                }
            }
            for offset in &given_up {
                self.live.remove(offset);
                self.dead += 1;
            }
            for (offset, count) in &leased {
                let message = self.live.get_mut(offset).unwrap();
                message.count = *count;
                message.leased_ms = Some(now_ms + VISIBILITY_TIMEOUT_MS);
            }
            if !leased.is_empty() || given_up.is_empty() {
                return leased;
            }
        }
    }

    fn valid_unless_delayed(&mut self, receipt: Receipt, now_ms: u64) -> Option<&mut Message> {
        let message = self.valid(receipt)?;
        (message.leased_ms.is_some() || message.until_ms <= now_ms).then_some(message)
    }

    fn valid(&mut self, receipt: Receipt) -> Option<&mut Message> {
        self.live
            .get_mut(&receipt.offset)
            .filter(|message| message.count == receipt.delivery_count)
    }
}

struct Run {
    fixture: Fixture,
    queue: Option<Queue>,
    model: Model,
    receipts: Vec<Receipt>,
}

impl Run {
    fn new() -> Self {
        let fixture = Fixture::new();
        let config = QueueConfig {
            visibility_timeout_ms: VISIBILITY_TIMEOUT_MS,
            max_deliveries: Some(MAX_DELIVERIES),
            dead_letter: Some(name("dead")),
            ..QueueConfig::default()
        };
        let queue = Some(fixture.create("q", config));
        Self {
            fixture,
            queue,
            model: Model::default(),
            receipts: Vec::new(),
        }
    }

    fn queue(&self) -> &Queue {
        self.queue.as_ref().unwrap()
    }

    fn pick(&self, which: &[prop::sample::Index]) -> Vec<Receipt> {
        let mut picked = BTreeSet::new();
        if !self.receipts.is_empty() {
            picked.extend(which.iter().map(|at| *at.get(&self.receipts)));
        }
        picked.into_iter().collect()
    }

    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let now_ms = self.fixture.clock.now_ms();
        match step {
            Step::Enqueue(messages) => self.enqueue(messages, now_ms),
            Step::Lease(max) => {
                let request = LeaseRequest {
                    max_messages: *max,
                    ..LeaseRequest::default()
                };
                let leased = block_on(self.queue().lease(&request)).unwrap();
                let found: Vec<_> = leased
                    .iter()
                    .map(|message| (message.offset(), message.delivery_count()))
                    .collect();
                prop_assert_eq!(found, self.model.lease(*max, now_ms));
                for message in &leased {
                    prop_assert_eq!(value(message), message.offset().to_string());
                }
                self.receipts.extend(receipts(&leased));
            }
            Step::Acknowledge(which) => {
                let picked = self.pick(which);
                let settled = block_on(self.queue().acknowledge(&picked)).unwrap();
                let mut stale = Vec::new();
                for receipt in picked {
                    match self.model.valid(receipt) {
                        Some(_) => _ = self.model.live.remove(&receipt.offset),
                        None => stale.push(receipt),
                    }
                }
                prop_assert_eq!(settled.stale, stale);
            }
            Step::Release(which, delay_ms) => {
                let picked = self.pick(&[*which]);
                let settled = block_on(self.queue().release(&picked, *delay_ms)).unwrap();
                for receipt in picked {
                    let message = self.model.valid_unless_delayed(receipt, now_ms);
                    prop_assert_eq!(settled.stale.is_empty(), message.is_some());
                    if let Some(message) = message {
                        message.leased_ms = None;
                        message.until_ms = now_ms + delay_ms;
                    }
                }
            }
            Step::GiveBack(which) => {
                let picked = self.pick(which);
                let settled = block_on(self.queue().give_back(&picked)).unwrap();
                let mut stale = Vec::new();
                self.model.end_leases(now_ms);
                for receipt in picked {
                    let message = self.model.valid(receipt);
                    match message.filter(|message| message.leased_ms.is_some()) {
                        Some(message) => {
                            message.given_back.insert(receipt.delivery_count);
                            message.leased_ms = None;
                            message.until_ms = 0;
                        }
                        None => stale.push(receipt),
                    }
                }
                prop_assert_eq!(settled.stale, stale);
            }
            Step::Extend(which, ms) => {
                let picked = self.pick(&[*which]);
                let settled = self.queue().extend(&picked, *ms).unwrap();
                for receipt in picked {
                    let message = self.model.valid_unless_delayed(receipt, now_ms);
                    prop_assert_eq!(settled.stale.is_empty(), message.is_some());
                    if let Some(message) = message {
                        message.leased_ms = Some(now_ms + ms);
                    }
                }
            }
            Step::Drop(which, released) => {
                let mut commit = Commit::new();
                let picked = self.pick(which);
                self.queue().acknowledge_in(&picked, &mut commit).unwrap();
                let picked = self.pick(&[*released]);
                self.queue()
                    .release_in(&picked, 5_000, &mut commit)
                    .unwrap();
            }
            Step::Advance(ms) => self.fixture.clock.advance_ms(*ms),
            Step::Maintain => {
                block_on(self.queue().maintain()).unwrap();
                self.model.drop_expired(now_ms);
            }
            Step::Purge => {
                let purged = block_on(self.queue().purge()).unwrap();
                prop_assert_eq!(purged, self.model.live.len() as u64);
                self.model.live.clear();
            }
            Step::Reopen => self.reopen(),
        }
        self.check()
    }

    fn enqueue(&mut self, messages: &[Attributes], now_ms: u64) {
        let records: Vec<_> = (self.model.next..)
            .zip(messages)
            .map(|(offset, of)| {
                let headers = [
                    (PRIORITY, Some(of.priority.to_string())),
                    (GROUP, of.group.map(|group| format!("group-{group}"))),
                    (DELAY, of.delay_ms.map(|ms| ms.to_string())),
                    (TIME_TO_LIVE, of.time_to_live_ms.map(|ms| ms.to_string())),
                ];
                let headers: Vec<_> = headers
                    .iter()
                    // The default is not said.
                    .filter(|(name, value)| *name != PRIORITY || value.as_deref() != Some("4"))
                    .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
                    .collect();
                message(&offset.to_string(), &headers)
            })
            .collect();
        block_on(self.queue().enqueue(&records)).unwrap();
        self.model.enqueue(messages, now_ms);
    }

    /// Leases do not survive; counts, acknowledgements and times do.
    fn reopen(&mut self) {
        self.queue = None;
        self.fixture.reopen();
        self.queue = Some(self.fixture.find("q"));
        for message in self.model.live.values_mut() {
            if message.leased_ms.take().is_some() {
                message.until_ms = 0;
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let now_ms = self.fixture.clock.now_ms();
        let (waiting, delayed, leased) = counts(self.queue());
        self.model.end_leases(now_ms);
        let live = &self.model.live;
        let is_leased = |message: &&Message| message.leased_ms.is_some();
        prop_assert_eq!(leased, live.values().filter(is_leased).count() as u64);
        prop_assert_eq!(waiting + delayed + leased, live.len() as u64);
        let peeked = block_on(self.queue().peek(0, 10_000)).unwrap();
        let found: Vec<_> = peeked
            .iter()
            .map(|message| (message.offset, message.delivery_count))
            .collect();
        let expected: Vec<_> = live
            .iter()
            .map(|(offset, of)| (*offset, of.count))
            .collect();
        prop_assert_eq!(found, expected);
        let dead = block_on(self.fixture.find("dead").message_count()).unwrap();
        prop_assert_eq!(dead, self.model.dead as u64);
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_queue_is_what_a_simple_model_says(steps in prop::collection::vec(step(), 1..50)) {
        let mut run = Run::new();
        for step in &steps {
            run.apply(step)?;
        }
    }
}
