//! What waits to be tried again in pipelines that go back.

use super::state::half_restored;
use super::*;
use crate::model::{BatchBuilder, HeadersBuf, TIMERS_INPUT};
use crate::queue::QueueConfig;
use crate::queue::letter::REDRIVEN_FROM;
use crate::storage::Scan;
use crate::storage::schema::parked::{self, ParkedRecord};
use crate::storage::schema::pipeline_prefix;

const TASK: u32 = 1;
const GROUP: u64 = 7;
/// An input of which nothing says that its records come again, as those of a queue.
const QUEUE: u32 = 7;

/// A record that has failed, and is not tried again while a test runs.
fn failed(input: u32, offset: u64, attempt_count: u32, letter: Option<&str>) -> ParkedRecord {
    let mut headers = HeadersBuf::new();
    if let Some(letter) = letter {
        headers
            .push(REDRIVEN_FROM, Some(letter.as_bytes()))
            .unwrap();
    }
    let batch = BatchBuilder::single(1, Some(b"key"), Some(b"value"), headers.as_headers());
    ParkedRecord {
        attempt_count,
        due_ms: u64::MAX / 2,
        first_failed_ms: 1,
        last_failed_ms: 1,
        reason: "it fails".to_owned(),
        ..ParkedRecord::new(input, batch.unwrap().assign(offset))
    }
}

/// Parks records past the pipeline, which learns of it when it starts the next time.
async fn park(server: &Server, records: &[ParkedRecord]) {
    let mut commit = Commit::new();
    for (sequence, record) in (0..).zip(records) {
        commit.park(0, TASK, GROUP, sequence, record);
    }
    server.log.store().commit(commit).await.unwrap();
}

/// Input, offset and attempts of what is parked, in its order.
fn parked(server: &Server) -> Vec<(u32, u64, u32)> {
    let mut records = Vec::new();
    let from = pipeline_prefix(KeyKind::Parked, 0);
    let scan = server
        .log
        .store()
        .scan(KeyKind::Parked, &from, None, |_, value| {
            let parked = parked::parse_value(&Bytes::copy_from_slice(value)).unwrap();
            let offset = parked.record.base_offset();
            records.push((parked.input, offset, parked.attempt_count));
            Ok(Scan::Continue)
        });
    scan.unwrap();
    records
}

/// What is left when a return has begun, and begun again, and got no further either time.
async fn keep_twice(server: &Server, old: &Digest, id: u64) -> Vec<(u32, u64, u32)> {
    let unfinished = half_restored(server, old, id).await;
    let deployments = &server.deployments;
    let deploy = records::deploy(server.log.store(), unfinished).unwrap();
    let checkpoint = block_in_place(|| deployments.shared.checkpoints.open(id)).unwrap();
    let returning = deployments
        .returning(&deploy.unwrap(), &checkpoint)
        .unwrap();
    for pipeline in returning.iter().chain(&returning) {
        let kept = deployments.keep_parked(&checkpoint, pipeline).await;
        assert_eq!(kept.unwrap(), 3);
        // As a process leaves it that ends between two commits.
        let moves = deployments.moves(&checkpoint, pipeline).await.unwrap();
        let begun = moves.into_iter().take(2).collect();
        deployments.move_parked(begun).await.unwrap();
    }
    parked(server)
}

/// Fails when what a dead letter or a message has become is forgotten, when what comes again is tried twice, and when a
/// return that is run again leaves other records than the first one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_does_not_come_again_goes_on_waiting() {
    let server = Server::start().await;
    let dead = "dead".parse().unwrap();
    let dead = server.queues.create_queue(&dead, QueueConfig::default());
    let letter = Record {
        key: None,
        value: Some(Bytes::from_static(b"letter")),
        headers: Vec::new(),
        timestamp_ms: 1,
    };
    let letters = [letter.clone(), letter];
    dead.await.unwrap().enqueue(&letters).await.unwrap();
    let old = server.upload("p", &Guest::passthrough()).await;
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    server.send(0..100).await;
    server.wait_until_idle().await;
    let topic = server.log.topic(&"in".parse().unwrap()).unwrap();
    let next = topic.partition(TASK).unwrap().high_watermark();
    park(&server, &[failed(0, 0, 2, None)]).await;

    let new = server.upload("p", &passthrough_too()).await.version.digest;
    let deploy = server.deployments.deploy(&p(), &new, Mode::All, None).await;
    let id = deploy.unwrap().id;
    server.send(100..160).await;
    park(
        &server,
        &[
            failed(0, 0, 9, None),
            failed(0, 1, 3, Some("queue:dead/0")),
            failed(0, next, 3, None),
            failed(QUEUE, 5, 3, None),
            failed(TIMERS_INPUT, 11, 3, None),
            failed(TIMERS_INPUT, 12, 3, Some("queue:dead/1")),
            failed(TIMERS_INPUT, 13, 3, Some("queue:dead/2")),
        ],
    )
    .await;
    let kept = [(0, 1, 0), (QUEUE, 5, 0), (TIMERS_INPUT, 12, 0)];
    assert_eq!(keep_twice(&server, &old.version.digest, id).await, kept);
    let back = server.deployments.rollback_with_state(&p(), None).await;
    assert_eq!(back.unwrap().outcome, Outcome::Succeeded);
    assert_eq!(parked(&server), [&[(0, 0, 2)], &kept[..]].concat());
}
