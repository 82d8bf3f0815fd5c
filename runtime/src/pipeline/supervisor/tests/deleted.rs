//! What a pipeline says when a topic or a queue is deleted under it: the API refuses that, and nothing else may.

use super::*;
use crate::model::{QueueName, TopicName};

/// A pipeline from a topic and a queue to a queue, whose records that fail become dead letters at once.
const QUEUES: &str = r#"
name = "m"
[topics.in]
[queues.jobs]
[queues.done]
[plugins.p]
[pipelines.a]
from = ["topic:in", "queue:jobs"]
to = "queue:done"
plugin = "p"
batch = { max-wait = "0s" }
retry = { max-attempts = 1 }
"#;

/// Why a pipeline has stopped, once it has.
async fn failure(scene: &Scene) -> Failure {
    let stopped = async {
        loop {
            if let Some(failure) = scene.pipelines.failures().into_iter().next() {
                return failure;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, stopped).await.unwrap()
}

async fn delete_topic(scene: &Scene, name: &str) {
    let name: TopicName = name.parse().unwrap();
    scene.log.delete_topic(&name).await.unwrap();
}

async fn delete_queue(scene: &Scene, name: &str) {
    let name: QueueName = name.parse().unwrap();
    scene.queues.delete_queue(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_deleted_is_named_with_the_partition() {
    for deleted in ["in", "out"] {
        let scene = Scene::new();
        let plugin = scene.plugin(&passthrough());
        scene.apply(&manifest("m", "a", ""), &plugin).await.unwrap();
        scene.send(0..100).await;
        scene.wait_until_idle().await;
        delete_topic(&scene, deleted).await;
        if deleted == "out" {
            scene.send(100..120).await;
        }
        let failure = failure(&scene).await;
        // The keys stay in their partitions.
        let partition = failure.partition.unwrap();
        let expected = format!(
            "the topic `{deleted}` has been deleted, of which partition {partition} was to be read or written to"
        );
        assert_eq!(failure.error.to_string(), expected);
        let resumed = scene.pipelines.resume(&name("a")).await.unwrap_err();
        let resumed = resumed.to_string();
        assert!(
            resumed.contains(&format!("no topic `{deleted}`")),
            "{resumed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_deleted_is_named() {
    for (deleted, guest) in [
        ("jobs", passthrough()),
        ("done", passthrough()),
        ("a.dead-letters", traps()),
    ] {
        let scene = Scene::new();
        let plugin = scene.plugin(&guest);
        scene.apply(QUEUES, &plugin).await.unwrap();
        scene.wait_until_idle().await;
        delete_queue(&scene, deleted).await;
        if deleted != "jobs" {
            scene.send(0..1).await;
        }
        let failure = failure(&scene).await;
        let expected = format!("the queue `{deleted}` has been deleted");
        assert_eq!(failure.error.to_string(), expected);
    }
}
