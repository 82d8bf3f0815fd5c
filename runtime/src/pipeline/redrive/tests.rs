//! Redriving against what is simple to say: everything once, in the order of its origin.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::log::TopicConfig;
use crate::manifest::{RetryOrder, Start};
use crate::model::{Header, QueueName, Record, TIMERS_INPUT, key_hash};
use crate::pipeline::registry::{self, StoredPipeline};
use crate::pipeline::retry::Parked;
use crate::queue::GROUP;
use crate::queue::letter::{ORIGIN, PIPELINE, REASON, REDRIVE_COUNT, REDRIVEN_FROM};
use crate::queue::{LeaseRequest, MaxLengthPolicy, QueueConfig};
use crate::storage::tests::support::{START_MS, TestStore, block_on, cases, stored_records};

const PARTITIONS: u32 = 2;

/// A data directory with a topic `in`, the queues `work` and `dead`, and the pipeline `p` on the topic.
struct Scene {
    log: Log,
    queues: Queues,
    dead: Queue,
    directory: TestStore,
}

fn queue_name(name: &str) -> QueueName {
    name.parse().unwrap()
}

impl Scene {
    fn new(order: RetryOrder) -> Self {
        let directory = TestStore::new();
        let store = directory.store().clone();
        let (log, queues) = (
            Log::open(store.clone()).unwrap(),
            Queues::open(store.clone()).unwrap(),
        );
        let config = TopicConfig {
            partitions: PARTITIONS,
            ..TopicConfig::default()
        };
        block_on(log.create_topic(&"in".parse().unwrap(), config)).unwrap();
        for name in ["work", "dead"] {
            block_on(queues.create_queue(&queue_name(name), QueueConfig::default())).unwrap();
        }
        let pipeline = StoredPipeline {
            id: 0,
            group: "p".parse().unwrap(),
            plugin: "x".parse().unwrap(),
            plugin_digest: String::new(),
            inputs: vec!["topic:other".parse().unwrap(), "topic:in".parse().unwrap()],
            numbered_inputs: Vec::new(),
            ports: Vec::new(),
            delivery: "exactly-once".to_owned(),
            dead_letter: Some(queue_name("dead")),
            concurrency: 1,
            retry_order: order,
            start: Start::Earliest,
        };
        block_on(registry::register(&store, &"p".parse().unwrap(), pipeline)).unwrap();
        Self {
            dead: queues.queue(&queue_name("dead")).unwrap(),
            log,
            queues,
            directory,
        }
    }

    fn letter(&self, key: &str, value: &str, headers: &[(&str, &str)]) {
        let header = |(name, value): &(&str, &str)| {
            Header::new(*name, Some(Bytes::copy_from_slice(value.as_bytes())))
        };
        let record = Record {
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: headers.iter().map(header).collect(),
            timestamp_ms: START_MS - 5,
        };
        block_on(self.dead.enqueue(&[record])).unwrap();
    }

    fn plan(&self, to: RedriveTo, max_records: u64) -> Redrive {
        let filter = Filter::default();
        let plan = Redrive::plan(&self.log, &self.queues, &self.dead, filter, to, max_records);
        block_on(plan).unwrap()
    }

    fn redrive(&self, to: RedriveTo, batch: usize) -> (Sent, Vec<Stranded>) {
        let mut redrive = self.plan(to, u64::MAX);
        let mut total = Sent::default();
        while let Some(sent) = block_on(redrive.next_batch(batch)).unwrap() {
            total.sent_count += sent.sent_count;
            total.held_count += sent.held_count;
        }
        (total, redrive.stranded())
    }

    fn in_topic(&self, partition: u32) -> Vec<Record> {
        let topic = self.log.topic(&"in".parse().unwrap()).unwrap();
        let partition = topic.partition(partition).unwrap();
        let records = stored_records(self.directory.store(), partition);
        records.into_iter().map(|(_, record)| record).collect()
    }

    /// Input, offset and value of the records that a task of `p` finds parked, in the order of each group.
    fn parked(&self, task: u32) -> BTreeMap<u64, Vec<(u32, u64, String)>> {
        self.parked_in(0, task)
    }

    /// As [`parked`](Self::parked), of the pipeline with this number.
    fn parked_in(&self, pipeline: u32, task: u32) -> BTreeMap<u64, Vec<(u32, u64, String)>> {
        let mut parked = Parked::open(self.directory.store().clone(), pipeline, task).unwrap();
        let mut groups: BTreeMap<u64, Vec<(u32, u64, String)>> = BTreeMap::new();
        while !parked.is_empty() {
            let due = parked.take_due(START_MS, 7, 1 << 20, |_| false).unwrap();
            assert!(!due.is_empty());
            let mut commit = Commit::new();
            for waiting in due {
                let records = waiting.parked.record.records().unwrap();
                let record = records.iter().next().unwrap().unwrap();
                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                let found = (waiting.parked.input, record.offset, value);
                groups.entry(waiting.group).or_default().push(found);
                parked.remove(&waiting, &mut commit);
            }
            self.directory.commit(commit);
        }
        groups
    }
}

#[test]
fn a_record_of_a_pipeline_comes_back_to_it_as_it_was() {
    let scene = Scene::new(RetryOrder::Key);
    let origin = [(ORIGIN, "topic:in/1/137"), (PIPELINE, "p"), ("h", "1")];
    scene.letter("k", "v", &origin);
    let (sent, stranded) = scene.redrive(RedriveTo::Pipeline, 500);
    assert_eq!((sent.sent_count, stranded), (1, Vec::new()));
    let mut parked = Parked::open(scene.directory.store().clone(), 0, 1).unwrap();
    let due = parked.take_due(START_MS, 10, 1 << 20, |_| false).unwrap();
    let [waiting] = due.as_slice() else {
        panic!("{due:?}");
    };
    assert_eq!((waiting.parked.input, waiting.parked.attempt_count), (1, 0));
    let records = waiting.parked.record.records().unwrap();
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!((record.offset, record.timestamp_ms), (137, START_MS - 5));
    assert_eq!(
        (record.key, record.value),
        (Some(&b"k"[..]), Some(&b"v"[..]))
    );
    let headers: Vec<_> = record.headers.iter().collect();
    let expected: [(&str, Option<&[u8]>); 3] = [
        ("h", Some(b"1")),
        (REDRIVEN_FROM, Some(b"queue:dead/0")),
        (REDRIVE_COUNT, Some(b"1")),
    ];
    assert_eq!(headers, expected);
    assert!(scene.in_topic(1).is_empty());
    assert_eq!(block_on(scene.dead.message_count()).unwrap(), 0);
}

/// What was a message once has its group's header yet, which says nothing about a topic's order.
#[test]
fn a_record_of_a_topic_is_of_its_keys_group_and_a_message_of_the_one_it_names() {
    let scene = Scene::new(RetryOrder::Key);
    let store = scene.directory.store();
    let (_, stored) = registry::stored(store).unwrap().remove(0);
    let of_messages = StoredPipeline {
        inputs: vec!["queue:work".parse().unwrap()],
        numbered_inputs: Vec::new(),
        ..stored
    };
    block_on(registry::register(
        store,
        &"z".parse().unwrap(),
        of_messages,
    ))
    .unwrap();
    let named = |origin, pipeline| [(ORIGIN, origin), (PIPELINE, pipeline), (GROUP, "g")];
    scene.letter("k", "record", &named("topic:in/0/1", "p"));
    scene.letter("k", "message", &named("queue:work/2", "z"));
    let (sent, _) = scene.redrive(RedriveTo::Pipeline, 500);
    assert_eq!(sent.sent_count, 2);
    for (pipeline, group) in [(0, "k"), (1, "g")] {
        let groups: Vec<_> = scene.parked_in(pipeline, 0).into_keys().collect();
        assert_eq!(groups, [key_hash(group.as_bytes())]);
    }
}

/// Whatever order they were given up on in, timers come back in the order of their times, to their
/// pipeline and nobody else.
#[test]
fn timers_come_back_to_their_pipeline_in_order() {
    let scene = Scene::new(RetryOrder::Key);
    for due_ms in [1_700, 900, 1_200] {
        let origin = format!("timer:p/1/k%2F@{due_ms}");
        scene.letter("k/", &due_ms.to_string(), &[(ORIGIN, &origin)]);
    }
    scene.letter("k/", "lost", &[(ORIGIN, "timer:gone/1/k@5")]);
    let (sent, stranded) = scene.redrive(RedriveTo::Topic, 500);
    assert_eq!((sent.sent_count, stranded.len()), (0, 1));
    assert!(stranded[0].reason.contains("it was a timer"));
    let planned = scene.plan(RedriveTo::Pipeline, u64::MAX);
    assert_eq!(planned.destinations(), [("pipeline:p".to_owned(), 3)]);
    let (sent, stranded) = scene.redrive(RedriveTo::Pipeline, 2);
    assert_eq!((sent.sent_count, stranded.len()), (3, 1));
    assert!(stranded[0].reason.contains("the pipeline `gone`"));
    let groups: Vec<_> = scene.parked(1).into_values().collect();
    let values: Vec<Vec<&str>> = groups
        .iter()
        .map(|group| group.iter().map(|(.., value)| value.as_str()).collect())
        .collect();
    assert_eq!(values, [["900", "1200", "1700"]]);
    assert!(groups[0].iter().all(|(input, ..)| *input == TIMERS_INPUT));
}

#[test]
fn what_cannot_go_back_stays_and_the_rest_goes() {
    let scene = Scene::new(RetryOrder::Key);
    for origin in [
        "topic:gone/0/1",
        "topic:in/7/1",
        "queue:gone/3",
        "nowhere",
        "queue:work/3",
        "topic:in/0/9",
    ] {
        scene.letter("k", origin, &[(ORIGIN, origin)]);
    }
    let planned = scene.plan(RedriveTo::Pipeline, u64::MAX);
    assert_eq!(planned.left_count(), 2);
    let (sent, stranded) = scene.redrive(RedriveTo::Pipeline, 500);
    assert_eq!(sent.sent_count, 2);
    let reasons: Vec<_> = stranded
        .iter()
        .map(|it| (it.reason.as_str(), it.count))
        .collect();
    let expected = [
        ("it does not say where it comes from", 1),
        (
            "its origin, partition 7 of the topic `in`, does not exist",
            1,
        ),
        ("its origin, the queue `gone`, does not exist", 1),
        ("its origin, the topic `gone`, does not exist", 1),
    ];
    assert_eq!(reasons, expected);
    assert_eq!(block_on(scene.dead.message_count()).unwrap(), 4);
    let work = scene.queues.queue(&queue_name("work")).unwrap();
    assert_eq!(block_on(work.message_count()).unwrap(), 1);
    // No pipeline says that it gave up on it.
    assert_eq!(scene.in_topic(0).len(), 1);
}

#[test]
fn a_queue_that_is_full_keeps_its_letters_out_and_no_others() {
    let scene = Scene::new(RetryOrder::Key);
    let small = QueueConfig {
        max_length: Some(2),
        ..QueueConfig::default()
    };
    block_on(scene.queues.create_queue(&queue_name("small"), small)).unwrap();
    for offset in 0..5 {
        scene.letter("k", "v", &[(ORIGIN, &format!("queue:small/{offset}"))]);
        scene.letter("k", "v", &[(ORIGIN, &format!("queue:work/{offset}"))]);
    }
    let (sent, stranded) = scene.redrive(RedriveTo::Pipeline, 2);
    assert_eq!(sent.sent_count, 7);
    assert_eq!((stranded.len(), stranded[0].count), (1, 3));
    assert!(stranded[0].reason.contains("the queue `small` is full"));
    assert_eq!(block_on(scene.dead.message_count()).unwrap(), 3);
}

/// Fails when a redrive ends, or never does, where a queue has to give up on much to make room for letters.
#[test]
fn a_queue_of_large_messages_makes_room_for_its_letters() {
    const LENGTH: u64 = 40;
    let scene = Scene::new(RetryOrder::Key);
    let full = QueueConfig {
        max_length: Some(LENGTH),
        max_length_policy: MaxLengthPolicy::DropOldest,
        dead_letter: Some(queue_name("work")),
        ..QueueConfig::default()
    };
    let full = block_on(scene.queues.create_queue(&queue_name("full"), full)).unwrap();
    let large = Record {
        key: None,
        value: Some(Bytes::from(vec![b'x'; 1_000_000])),
        headers: Vec::new(),
        timestamp_ms: START_MS,
    };
    for offset in 0..LENGTH {
        block_on(full.enqueue(std::slice::from_ref(&large))).unwrap();
        scene.letter("k", "v", &[(ORIGIN, &format!("queue:full/{offset}"))]);
    }
    let (sent, stranded) = scene.redrive(RedriveTo::Pipeline, 1_000);
    assert_eq!((sent.sent_count, stranded), (LENGTH, Vec::new()));
    let dropped = scene.queues.queue(&queue_name("work")).unwrap();
    for (queue, expected) in [(&full, LENGTH), (&dropped, LENGTH), (&scene.dead, 0)] {
        assert_eq!(block_on(queue.message_count()).unwrap(), expected);
    }
}

/// One letter: which key, partition and offset it comes from, and whether somebody holds it.
type Given = (u8, u32, u64, bool);

fn given() -> impl Strategy<Value = Vec<Given>> {
    proptest::collection::vec(
        (
            0..4u8,
            0..PARTITIONS,
            0..1_000u64,
            prop::bool::weighted(0.1),
        ),
        1..120,
    )
}

proptest! {
    #![proptest_config(cases(24))]

    /// Whatever order they were given up on in, records of a key are there again in the order of their
    /// offsets, each once, whatever the size of the batches; what is leased stays.
    #[test]
    fn everything_goes_back_once_and_in_order(
        letters in given(),
        batch in 1usize..40,
        to_topic: bool,
        order in prop::sample::select(vec![RetryOrder::Key, RetryOrder::Partition, RetryOrder::None]),
    ) {
        let scene = Scene::new(order);
        // Leasing takes the oldest.
        let held = letters.iter().filter(|letter| letter.3).count();
        let (first, last): (Vec<&Given>, Vec<&Given>) = letters.iter().partition(|letter| letter.3);
        for (key, partition, offset, _) in first.iter().chain(&last) {
            let origin = format!("topic:in/{partition}/{offset}");
            let headers = [(ORIGIN, origin.as_str()), (PIPELINE, "p"), (REASON, "trap")];
            scene.letter(&format!("k{key}"), &format!("{key} {offset}"), &headers);
        }
        if held > 0 {
            let request = LeaseRequest { max_messages: held, ..LeaseRequest::default() };
            prop_assert_eq!(block_on(scene.dead.lease(&request)).unwrap().len(), held);
        }
        let to = if to_topic { RedriveTo::Topic } else { RedriveTo::Pipeline };
        let (sent, stranded) = scene.redrive(to, batch);
        prop_assert_eq!(sent, Sent { sent_count: last.len() as u64, held_count: held as u64 });
        prop_assert!(stranded.is_empty());
        prop_assert_eq!(block_on(scene.dead.message_count()).unwrap(), held as u64);
        for partition in 0..PARTITIONS {
            let mut expected: Vec<(u64, u8)> = last
                .iter()
                .filter(|letter| letter.1 == partition)
                .map(|letter| (letter.2, letter.0))
                .collect();
            expected.sort_by_key(|(offset, _)| *offset);
            let mut found: Vec<u64> = Vec::new();
            if to_topic {
                for record in scene.in_topic(partition) {
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    found.push(value.split(' ').nth(1).unwrap().parse().unwrap());
                }
                prop_assert!(found.is_sorted(), "{:?}", found);
            } else {
                prop_assert!(scene.in_topic(partition).is_empty());
                for (_, records) in scene.parked(partition) {
                    prop_assert!(records.iter().all(|(input, ..)| *input == 1));
                    prop_assert!(records.iter().is_sorted_by_key(|(_, offset, _)| *offset));
                    if order == RetryOrder::Key {
                        let keys = records.iter().map(|(.., value)| value.split(' ').next());
                        prop_assert!(keys.clone().all(|key| key == keys.clone().next().unwrap()));
                    }
                    found.extend(records.iter().map(|(_, offset, _)| *offset));
                }
                found.sort_unstable();
            }
            let expected: Vec<u64> = expected.iter().map(|(offset, _)| *offset).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_maximum_takes_those_that_were_there_first() {
    let scene = Scene::new(RetryOrder::Key);
    for offset in [9, 5, 7] {
        let origin = format!("topic:in/0/{offset}");
        scene.letter("k", &offset.to_string(), &[(ORIGIN, &origin)]);
    }
    let mut redrive = scene.plan(RedriveTo::Pipeline, 2);
    assert_eq!(redrive.destinations(), [("topic:in".to_owned(), 2)]);
    assert_eq!(block_on(scene.dead.message_count()).unwrap(), 3);
    while block_on(redrive.next_batch(1)).unwrap().is_some() {}
    let values: Vec<_> = scene
        .in_topic(0)
        .into_iter()
        .map(|record| record.value.unwrap())
        .collect();
    assert_eq!(values, ["5", "7"]);
}

/// The pipeline is deleted with its data between two turns, and its id is given to another one, or to one of its name.
///
/// Fails when nobody looks whether it is still there, or by its name alone.
#[test]
fn letters_of_a_pipeline_that_is_deleted_meanwhile_stay() {
    for (name, inputs) in [
        (None, ["topic:other", "topic:in"]),
        (Some("q"), ["topic:other", "topic:in"]),
        (Some("p"), ["topic:in", "topic:other"]),
    ] {
        let scene = Scene::new(RetryOrder::Key);
        for offset in 0..3 {
            let origin = format!("topic:in/1/{offset}");
            scene.letter("k", "v", &[(ORIGIN, &origin), (PIPELINE, "p")]);
        }
        let store = scene.directory.store();
        let p: PipelineName = "p".parse().unwrap();
        let (_, stored) = registry::stored(store).unwrap().remove(0);
        let mut redrive = scene.plan(RedriveTo::Pipeline, u64::MAX);
        let sent = block_on(redrive.next_batch(1)).unwrap().unwrap();
        assert_eq!(sent.sent_count, 1);
        block_on(registry::delete(store, &p)).unwrap();
        if let Some(name) = name {
            let again = StoredPipeline {
                inputs: inputs.map(|input| input.parse().unwrap()).to_vec(),
                numbered_inputs: Vec::new(),
                ..stored
            };
            let name = name.parse().unwrap();
            let registered = registry::register(store, &name, again);
            assert_eq!(block_on(registered).unwrap().id, 0);
        }
        redrive.look_again();
        while let Some(sent) = block_on(redrive.next_batch(1)).unwrap() {
            assert_eq!(sent, Sent::default());
        }
        let [stranded] = redrive.stranded().try_into().unwrap();
        assert_eq!(stranded.count, 2);
        assert!(
            stranded.reason.contains("the pipeline `p`, was deleted"),
            "{stranded:?}"
        );
        assert_eq!(block_on(scene.dead.message_count()).unwrap(), 2);
        assert!(scene.parked(1).is_empty());
    }
}
