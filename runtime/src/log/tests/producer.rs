//! Producers: partitions, order, acknowledgements, limits.

use super::support::{Fixture, block_on, consume, stored_batches};
use crate::log::{Acknowledged, Cleanup, CompressionName, Error, Producer, TopicConfig};
use crate::model::{Compression, HeadersRef, partition_for_key};

fn producer(fixture: &Fixture, config: TopicConfig) -> Producer {
    let topic = fixture.topic(config);
    Producer::new(fixture.log().clone(), topic)
}

fn with_partitions(partitions: u32) -> TopicConfig {
    TopicConfig {
        partitions,
        ..TopicConfig::default()
    }
}

async fn send(producer: &mut Producer, key: Option<&str>, value: &[u8]) -> Result<(), Error> {
    let key = key.map(str::as_bytes);
    producer
        .send(None, 1, key, Some(value), HeadersRef::EMPTY)
        .await
}

/// Records in each partition.
fn counts(fixture: &Fixture) -> Vec<usize> {
    let (topic, _) = fixture.reopened_topic();
    let partitions = topic.partitions().iter();
    partitions
        .map(|partition| consume(fixture.log(), partition, 0).len())
        .collect()
}

#[test]
fn records_of_a_key_go_to_kafkas_partition_in_order() {
    for compression in [None, Some(CompressionName(Compression::Lz4))] {
        let fixture = Fixture::new();
        let mut producer = producer(
            &fixture,
            TopicConfig {
                compression,
                ..with_partitions(4)
            },
        );
        let count = 5000u32;
        block_on(async {
            for number in 0..count {
                let key = format!("key-{}", number % 23);
                let value = format!("{number:0>100}");
                send(&mut producer, Some(&key), value.as_bytes())
                    .await
                    .unwrap();
            }
            let acknowledged = producer.flush().await.unwrap();
            assert_eq!(acknowledged.records, u64::from(count));
            assert!(acknowledged.commits >= 1);
        });
        let (topic, _) = fixture.reopened_topic();
        let mut total = 0;
        for partition in topic.partitions() {
            let mut last = [0; 23];
            for (_, record) in consume(fixture.log(), partition, 0) {
                let key = record.key.unwrap();
                assert_eq!(partition_for_key(&key, 4), partition.index());
                let number = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                let number = number.parse::<u32>().unwrap();
                let last = &mut last[number as usize % 23];
                assert!(number >= *last);
                *last = number + 1;
                total += 1;
            }
            for batch in stored_batches(fixture.log(), partition) {
                assert_eq!(
                    batch.compression(),
                    compression.map_or(Compression::None, |name| name.0)
                );
            }
        }
        assert_eq!(total, count);
    }
}

#[test]
fn records_without_a_key_are_spread() {
    let fixture = Fixture::new();
    let mut producer = producer(&fixture, with_partitions(3));
    block_on(async {
        for _ in 0..3 * 2 * 4096 {
            send(&mut producer, None, b"").await.unwrap();
        }
        producer.flush().await.unwrap();
    });
    assert_eq!(counts(&fixture), [8192; 3]);
}

#[test]
fn flushed_one_by_one_they_are_spread_too() {
    let fixture = Fixture::new();
    let mut producer = producer(&fixture, with_partitions(3));
    block_on(async {
        for number in 1..=9 {
            send(&mut producer, None, b"x").await.unwrap();
            assert_eq!(producer.acknowledged().records, number - 1);
            let acknowledged = producer.flush().await.unwrap();
            assert_eq!(
                acknowledged,
                Acknowledged {
                    records: number,
                    commits: number
                }
            );
        }
        assert_eq!(producer.flush().await.unwrap(), producer.acknowledged());
    });
    assert_eq!(counts(&fixture), [3; 3]);
}

#[test]
fn a_partition_can_be_chosen() {
    let fixture = Fixture::new();
    let mut producer = producer(&fixture, with_partitions(3));
    block_on(async {
        for _ in 0..5 {
            producer
                .send(Some(2), 1, Some(b"k"), None, HeadersRef::EMPTY)
                .await
                .unwrap();
        }
        let error = producer
            .send(Some(3), 1, Some(b"k"), None, HeadersRef::EMPTY)
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::UnknownPartition { partition: 3, .. }),
            "{error}"
        );
        producer.flush().await.unwrap();
    });
    assert_eq!(counts(&fixture), [0, 0, 5]);
}

#[test]
fn a_record_that_is_too_large_is_refused_alone() {
    let fixture = Fixture::new();
    let config = TopicConfig {
        max_batch_bytes: 2000,
        ..with_partitions(1)
    };
    let mut producer = producer(&fixture, config);
    block_on(async {
        for _ in 0..3 {
            send(&mut producer, Some("a"), &[b'x'; 100]).await.unwrap();
            let error = send(&mut producer, Some("a"), &[b'x'; 2000])
                .await
                .unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with("topic `t` takes batches of at most 2000 bytes (max-batch-bytes)"),
                "{text}"
            );
            // Too large for a batch that has something, not for one of its own.
            send(&mut producer, Some("a"), &[b'x'; 1900]).await.unwrap();
        }
        let error = send(&mut producer, Some("a"), &vec![0; (8 << 20) + 1])
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "a record has at most 8388608 bytes, this one has 8388610"
        );
        assert_eq!(producer.flush().await.unwrap().records, 6);
    });
    let (_, partition) = fixture.reopened_topic();
    let records = consume(fixture.log(), &partition, 0);
    let sizes: Vec<_> = records
        .iter()
        .map(|(_, record)| record.value.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [100, 1900, 100, 1900, 100, 1900]);
}

#[test]
fn what_compresses_well_may_be_larger() {
    let fixture = Fixture::new();
    let config = TopicConfig {
        max_batch_bytes: 2000,
        compression: Some(CompressionName(Compression::Zstd)),
        ..with_partitions(1)
    };
    let mut producer = producer(&fixture, config);
    block_on(async {
        send(&mut producer, Some("a"), &[b'x'; 5000]).await.unwrap();
        assert_eq!(producer.flush().await.unwrap().records, 1);
    });
}

#[test]
fn compacted_topics_need_keys() {
    let fixture = Fixture::new();
    let config = TopicConfig {
        cleanup: Cleanup::Compact,
        ..with_partitions(2)
    };
    let mut producer = producer(&fixture, config);
    block_on(async {
        let error = send(&mut producer, None, b"x").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "topic `t` is compacted: every record needs a key"
        );
        send(&mut producer, Some("a"), b"x").await.unwrap();
        assert_eq!(producer.flush().await.unwrap().records, 1);
    });
}

#[test]
fn many_open_batches_do_not_make_one_huge_commit() {
    let fixture = Fixture::new();
    let mut producer = producer(&fixture, with_partitions(1000));
    let value = vec![b'x'; 55 << 10];
    block_on(async {
        for partition in 0..1000 {
            producer
                .send(Some(partition), 1, None, Some(&value), HeadersRef::EMPTY)
                .await
                .unwrap();
        }
        let acknowledged = producer.flush().await.unwrap();
        assert_eq!(acknowledged.records, 1000);
        assert!(acknowledged.commits > 1);
    });
}

#[test]
fn a_producer_to_a_deleted_topic_fails() {
    let fixture = Fixture::new();
    let mut producer = producer(&fixture, with_partitions(2));
    block_on(async {
        send(&mut producer, Some("a"), b"x").await.unwrap();
        fixture
            .log()
            .delete_topic(&"t".parse().unwrap())
            .await
            .unwrap();
        let error = producer.flush().await.unwrap_err();
        let expected = "the topic `t` has been deleted, of which partition ";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(producer.acknowledged().records, 0);
    });
}
