//! Topics: creating, finding, changing, deleting; offsets by time.

use proptest::prelude::*;

use super::support::{
    Fixture, START_MS, append, block_on, consume, encode, record, set, stored_batches,
};
use crate::log::{Cleanup, CompressionName, Error, Log, OffsetSpec, TopicConfig};
use crate::model::{Compression, TopicName, limits};
use crate::storage::schema::group_offset::{self, CommittedOffset};
use crate::storage::schema::{KeyKind, partition_head, topic as topic_key};
use crate::storage::{self, CleanMark, Commit, Store, StoreOptions};

fn name(name: &str) -> TopicName {
    name.parse().unwrap()
}

fn with_partitions(partitions: u32) -> TopicConfig {
    TopicConfig {
        partitions,
        ..TopicConfig::default()
    }
}

#[test]
fn topics_stay_with_their_settings() {
    let mut fixture = Fixture::new();
    let config = TopicConfig {
        partitions: 5,
        cleanup: Cleanup::Compact,
        retention_ms: None,
        retention_bytes: Some(7),
        compression: Some(CompressionName(Compression::Zstd)),
        tombstone_delay_ms: 9,
        min_cleanable_dirty_ratio: 0.25,
        max_batch_bytes: 4096,
    };
    let topic = fixture.topic(config.clone());
    assert_eq!(topic.partition_count(), 5);
    fixture.reopen();
    let topic = fixture.log().topic(&name("t")).unwrap();
    assert_eq!(topic.config(), config);
    assert_eq!(topic.partitions().len(), 5);
    let error = topic.partition(5).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the topic `t` has partitions 0 to 4, there is no partition 5"
    );
}

#[test]
fn a_name_is_taken_once() {
    let fixture = Fixture::new();
    fixture.topic(with_partitions(1));
    let again = block_on(fixture.log().create_topic(&name("t"), with_partitions(1)));
    assert!(matches!(again, Err(Error::TopicExists { .. })));
    let ensured = block_on(
        fixture
            .log()
            .ensure_topic(&name("t"), |_| Ok(with_partitions(1))),
    );
    assert_eq!(ensured.unwrap().id(), 0);
    let ensured = block_on(
        fixture
            .log()
            .ensure_topic(&name("u"), |_| Ok(with_partitions(1))),
    );
    assert_eq!(ensured.unwrap().id(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_create_a_topic_one_does() {
    let mut fixture = Fixture::new();
    let create = |_| {
        let log = fixture.log().clone();
        tokio::spawn(async move { log.create_topic(&name("t"), with_partitions(2)).await })
    };
    let creating: Vec<_> = (0..16).map(create).collect();
    let mut ids = Vec::new();
    for created in creating {
        match created.await.unwrap() {
            Ok(topic) => ids.push(topic.id()),
            Err(error) => assert!(matches!(error, Error::TopicExists { .. }), "{error}"),
        }
    }
    assert_eq!(ids.len(), 1);
    fixture.reopen();
    assert_eq!(fixture.log().topic(&name("t")).unwrap().id(), ids[0]);
    assert_eq!(stored_topics(fixture.log()), 1);
}

fn stored_topics(log: &Log) -> usize {
    let mut count = 0;
    log.store()
        .scan_kind(KeyKind::Topic, |_, _| {
            count += 1;
            Ok(storage::Scan::Continue)
        })
        .unwrap();
    count
}

#[test]
fn unknown_topics_come_with_a_hint() {
    let fixture = Fixture::new();
    block_on(
        fixture
            .log()
            .create_topic(&name("flights"), with_partitions(1)),
    )
    .unwrap();
    let error = fixture.log().topic(&name("flihgts")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no topic `flihgts`; did you mean `flights`?"
    );
    let error = fixture.log().topic(&name("orders")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no topic `orders`; create it with `millstream topic create orders`"
    );
}

#[test]
fn settings_have_limits() {
    let fixture = Fixture::new();
    let bad = [
        (with_partitions(0), "0 partitions; expected 1 to 4096"),
        (
            with_partitions(limits::MAX_PARTITIONS + 1),
            "4097 partitions; expected 1 to 4096",
        ),
        (
            TopicConfig {
                max_batch_bytes: 1023,
                ..TopicConfig::default()
            },
            "max-batch-bytes is 1023; expected 1024 to 16777216",
        ),
        (
            TopicConfig {
                min_cleanable_dirty_ratio: f64::NAN,
                ..TopicConfig::default()
            },
            "min-cleanable-dirty-ratio is NaN; expected a number from 0 to 1",
        ),
    ];
    for (config, reason) in bad {
        let error = block_on(fixture.log().create_topic(&name("t"), config)).unwrap_err();
        assert_eq!(error.to_string(), format!("topic `t`: {reason}"));
    }
    assert!(fixture.log().topics().is_empty());
    let most = with_partitions(limits::MAX_PARTITIONS);
    block_on(fixture.log().create_topic(&name("t"), most)).unwrap();
    for bad in ["", ".", "..", "a b", "a/b", &"x".repeat(250)] {
        assert!(bad.parse::<TopicName>().is_err(), "{bad}");
    }
}

#[test]
fn settings_change_but_partitions_stay() {
    let mut fixture = Fixture::new();
    let topic = fixture.topic(with_partitions(3));
    let changed = TopicConfig {
        retention_ms: Some(1),
        ..with_partitions(3)
    };
    let ensured = block_on(
        fixture
            .log()
            .ensure_topic(&name("t"), |_| Ok(changed.clone())),
    )
    .unwrap();
    assert_eq!(ensured.config(), changed);
    assert_eq!(topic.config(), changed);
    for wanted in [2, 4] {
        let changed = with_partitions(wanted);
        let error = block_on(fixture.log().alter_topic(&topic, set(changed))).unwrap_err();
        assert!(
            matches!(error, Error::PartitionCount { existing: 3, wanted: w, .. } if w == wanted),
            "{error}"
        );
    }
    fixture.reopen();
    assert_eq!(fixture.log().topic(&name("t")).unwrap().config(), changed);
}

#[test]
fn a_deleted_topic_leaves_nothing_and_its_id_is_not_given_again() {
    let mut fixture = Fixture::new();
    let topic = fixture.topic(with_partitions(2));
    let other = block_on(
        fixture
            .log()
            .create_topic(&name("other"), with_partitions(1)),
    );
    let other = other.unwrap();
    let mut commit = Commit::new();
    for topic in [&topic, &other] {
        let at = CommittedOffset {
            offset: 1,
            committed_at_ms: 0,
        };
        commit.commit_offset("g", topic.id(), 0, at);
    }
    block_on(fixture.store().commit(commit)).unwrap();
    for partition in topic.partitions().iter().chain(other.partitions()) {
        append(fixture.log(), partition, &[record("a", Some("x"), 0)]);
    }
    block_on(fixture.log().delete_topic(&name("t"))).unwrap();
    let again = block_on(fixture.log().delete_topic(&name("t")));
    assert!(matches!(again, Err(Error::UnknownTopic { .. })));
    // Whoever still holds the topic leaves no offset in it.
    let mut commit = Commit::new();
    let at = CommittedOffset {
        offset: 1,
        committed_at_ms: 0,
    };
    commit.commit_offset("late", topic.id(), 1, at);
    let late = block_on(fixture.store().commit(commit));
    assert!(matches!(late, Err(storage::Error::PartitionDeleted { .. })));

    let check = |fixture: &Fixture| {
        assert!(fixture.log().topic(&name("t")).is_err());
        assert!(stored_batches(fixture.log(), topic.partition(0).unwrap()).is_empty());
        let key = partition_head::key(topic.id(), 0);
        let head = fixture.store().get(KeyKind::PartitionHead, &key).unwrap();
        assert!(head.is_none());
        let committed = |topic_id| {
            let key = group_offset::key("g", topic_id, 0);
            fixture.store().get(KeyKind::GroupOffset, &key).unwrap()
        };
        assert!(committed(topic.id()).is_none());
        assert!(committed(other.id()).is_some());
        let other = fixture.log().topic(&name("other")).unwrap();
        let kept = consume(fixture.log(), other.partition(0).unwrap(), 0);
        assert_eq!(kept.len(), 1);
    };
    check(&fixture);
    fixture.reopen();
    check(&fixture);

    let created = block_on(fixture.log().create_topic(&name("t"), with_partitions(1)));
    let created = created.unwrap();
    assert!(created.id() > other.id());
    assert_eq!(created.partition(0).unwrap().high_watermark(), 0);
    // Whoever still holds the deleted topic cannot bring it back.
    let changed = TopicConfig {
        retention_ms: None,
        ..with_partitions(2)
    };
    let altered = block_on(fixture.log().alter_topic(&topic, set(changed))).unwrap_err();
    assert_eq!(
        altered.to_string(),
        "there is no topic `t`: it has been deleted and created anew"
    );
    fixture.reopen();
    assert_eq!(fixture.log().topic(&name("t")).unwrap().id(), created.id());
}

#[test]
fn the_last_topic_may_be_deleted_and_ids_go_on() {
    let mut fixture = Fixture::new();
    let topic = fixture.topic(with_partitions(1));
    block_on(fixture.log().delete_topic(&name("t"))).unwrap();
    fixture.reopen();
    assert_ne!(fixture.topic(with_partitions(1)).id(), topic.id());
}

/// Retention or the cleaner may have looked at a topic just before it was deleted.
#[test]
fn a_deleted_partition_takes_no_commit() {
    let mut fixture = Fixture::new();
    let topic = fixture.topic(with_partitions(2));
    let partition = topic.partition(0).unwrap();
    append(fixture.log(), partition, &[record("a", Some("x"), 0)]);
    let stored = stored_batches(fixture.log(), partition).remove(0);
    block_on(fixture.log().delete_topic(&name("t"))).unwrap();

    let mut commits = Vec::new();
    let mut commit = Commit::new();
    let records = [record("a", None, 0)];
    commit.append(partition.clone(), encode(Compression::None, &records));
    commits.push(commit);
    let mut commit = Commit::new();
    commit.replace_batch(partition, &stored);
    commit.resize_partition(partition, -1);
    commits.push(commit);
    let mut commit = Commit::new();
    commit.trim_partition(partition, 1, 1);
    commits.push(commit);
    let mut commit = Commit::new();
    commit.mark_cleaned(partition, CleanMark::default());
    commits.push(commit);
    for commit in commits {
        let error = block_on(fixture.store().commit(commit)).unwrap_err();
        assert!(
            matches!(error, storage::Error::PartitionDeleted { .. }),
            "{error}"
        );
    }
    fixture.reopen();
    assert!(stored_batches(fixture.log(), partition).is_empty());
    let mut heads = 0;
    let count = |_: &[u8], _: &[u8]| {
        heads += 1;
        Ok(storage::Scan::Continue)
    };
    fixture
        .store()
        .scan_kind(KeyKind::PartitionHead, count)
        .unwrap();
    assert_eq!(heads, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_of_a_topic_that_is_deleted_meanwhile_is_no_error() {
    let fixture = Fixture::new();
    let config = TopicConfig {
        cleanup: Cleanup::Compact,
        ..with_partitions(1)
    };
    for round in 0..10 {
        let log = fixture.log().clone();
        let topic = log.create_topic(&name("t"), config.clone()).await.unwrap();
        let partition = topic.partition(0).unwrap().clone();
        for _ in 0..20 {
            let mut commit = Commit::new();
            let records = [record("a", Some("x"), 0), record("b", Some("x"), 0)];
            commit.append(partition.clone(), encode(Compression::None, &records));
            log.store().commit(commit).await.unwrap();
        }
        let cleaning = tokio::spawn({
            let (log, topic) = (log.clone(), topic.clone());
            async move { log.clean(&topic).await }
        });
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        log.delete_topic(&name("t")).await.unwrap();
        cleaning.await.unwrap().unwrap();
        let key = partition_head::key(topic.id(), 0);
        let head = log.store().get(KeyKind::PartitionHead, &key).unwrap();
        assert!(head.is_none());
    }
}

#[test]
fn places_resolve_to_offsets() {
    let fixture = Fixture::with_tail_bytes(0);
    let topic = fixture.topic(with_partitions(1));
    let partition = topic.partition(0).unwrap();
    let resolve = |spec| fixture.log().resolve_offset(partition, spec).unwrap();
    for spec in [
        OffsetSpec::Earliest,
        OffsetSpec::Latest,
        OffsetSpec::Offset(5),
        OffsetSpec::TimeMs(5),
    ] {
        assert_eq!(resolve(spec), 0, "{spec:?} of an empty partition");
    }
    for step in 0..4 {
        let at_ms = START_MS + step * 10;
        append(
            fixture.log(),
            partition,
            &[record("a", None, at_ms), record("b", None, at_ms + 5)],
        );
    }
    let mut commit = Commit::new();
    commit.trim_partition(partition, 2, 0);
    block_on(fixture.store().commit(commit)).unwrap();
    assert_eq!(resolve(OffsetSpec::Earliest), 2);
    assert_eq!(resolve(OffsetSpec::Latest), 8);
    assert_eq!(resolve(OffsetSpec::Offset(0)), 2);
    assert_eq!(resolve(OffsetSpec::Offset(5)), 5);
    assert_eq!(resolve(OffsetSpec::Offset(u64::MAX)), 8);
    assert_eq!(resolve(OffsetSpec::TimeMs(0)), 2);
    assert_eq!(resolve(OffsetSpec::TimeMs(START_MS + 15)), 3);
    assert_eq!(resolve(OffsetSpec::TimeMs(START_MS + 16)), 4);
    assert_eq!(resolve(OffsetSpec::TimeMs(START_MS + 35)), 7);
    assert_eq!(resolve(OffsetSpec::TimeMs(START_MS + 36)), 8);
    assert_eq!(resolve(OffsetSpec::TimeMs(u64::MAX)), 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Batches of any timestamps; `rises` makes each batch's greatest one at least that of the batch
    /// before it.
    #[test]
    fn the_offset_at_a_time_is_what_is_promised(
        mut batches in prop::collection::vec(prop::collection::vec(0u64..40, 1..5), 0..12),
        rises: bool,
        trimmed in 0usize..4,
    ) {
        if rises {
            let mut greatest = 0;
            for batch in &mut batches {
                let of_batch = batch.iter().copied().max().unwrap();
                if of_batch < greatest {
                    batch[0] = greatest;
                }
                greatest = greatest.max(of_batch);
            }
        }
        let fixture = Fixture::with_tail_bytes(0);
        let topic = fixture.topic(with_partitions(1));
        let partition = topic.partition(0).unwrap();
        for batch in &batches {
            let records: Vec<_> = batch.iter().map(|at_ms| record("k", None, *at_ms)).collect();
            append(fixture.log(), partition, &records);
        }
        let trimmed = trimmed.min(batches.len());
        let start: usize = batches[..trimmed].iter().map(Vec::len).sum();
        let mut commit = Commit::new();
        commit.trim_partition(partition, start as u64, 0);
        block_on(fixture.store().commit(commit)).unwrap();

        let mut base = start;
        let placed: Vec<_> = batches[trimmed..]
            .iter()
            .map(|batch| {
                base += batch.len();
                (base - batch.len(), batch)
            })
            .collect();
        for time_ms in 0..41 {
            let found = fixture.log().offset_at_time(partition, time_ms).unwrap() as usize;
            let first_of = |(base, batch): &(usize, &Vec<u64>)| {
                let index = batch.iter().position(|at_ms| *at_ms >= time_ms)?;
                Some(base + index)
            };
            if rises {
                prop_assert_eq!(found, placed.iter().find_map(first_of).unwrap_or(base));
                continue;
            }
            let at = placed.iter().position(|(base, batch)| (*base..base + batch.len()).contains(&found));
            prop_assert!(at.is_some() || found == base);
            if let Some(at) = at {
                prop_assert_eq!(first_of(&placed[at]), Some(found));
            }
            let before = at.unwrap_or(placed.len()).checked_sub(1);
            prop_assert_eq!(before.and_then(|before| first_of(&placed[before])), None);
        }
    }
}

#[test]
fn a_damaged_entry_is_an_error_when_the_log_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), StoreOptions::default()).unwrap();
    let mut commit = Commit::new();
    commit.put(KeyKind::Topic, topic_key::key(0), "{".into());
    block_on(store.commit(commit)).unwrap();
    let Err(error) = Log::open(store) else {
        panic!("opened");
    };
    assert!(
        error
            .to_string()
            .starts_with("stored data is damaged: topic id 0: "),
        "{error}"
    );
}
