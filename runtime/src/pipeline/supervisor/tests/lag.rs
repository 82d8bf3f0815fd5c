//! What waits for a pipeline, whatever keeps it from running.

use super::*;
use crate::model::Record;
use crate::pipeline::describe;

/// Records are dated 1970.
const OLD_MS: u64 = 1_000_000_000_000;

/// Asserts how many records wait, that all who tell that agree, and that the oldest is old if any waits.
#[track_caller]
fn assert_waiting(scene: &Scene, expected: u64) {
    let status = scene.status("a");
    let of_tasks = status.tasks.iter().map(|task| task.totals.lag_records);
    assert_eq!(status.totals.lag_records, expected);
    assert!(status.tasks.is_empty() || of_tasks.sum::<u64>() == expected);
    assert_eq!(status.lag_ms > OLD_MS, expected > 0, "{}", status.lag_ms);
    let oldest_of_task = status.tasks.iter().map(|task| task.lag_ms).max();
    assert!(oldest_of_task.is_none_or(|it| (it > OLD_MS) == (expected > 0)));
    let described = describe(&scene.log, &scene.queues, &scene.groups, &name("a"));
    let Ok(described) = described else {
        // It has never been opened.
        assert_eq!(status.state, PipelineState::Refused);
        return;
    };
    let records = described.positions.iter().map(|it| it.lag_records);
    let messages = described.queues.iter().map(|it| it.messages);
    assert_eq!(records.chain(messages).sum::<u64>(), expected);
}

/// Moves the position of `a` to the end of its topic, or to its beginning.
async fn reset(scene: &Scene, to_end: bool) {
    let topic = scene.log.topic(&"in".parse().unwrap()).unwrap();
    let offsets = topic.partitions().iter().map(|partition| {
        let offset = if to_end {
            partition.high_watermark()
        } else {
            0
        };
        (&**partition, offset)
    });
    let group = "a".parse().unwrap();
    scene.groups.commit(&group, offsets).await.unwrap();
}

/// Fails when the lag is what tasks had in memory when they stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_does_not_run_lags_behind_the_position_that_it_was_given() {
    let scene = Scene::new();
    let stops = "dead-letter = \"stop\"\nretry = { max-attempts = 1 }";
    let (passes, traps) = (scene.plugin(&passthrough()), scene.plugin(&traps()));
    let text = manifest("m", "a", stops);
    scene.apply(&text, &passes).await.unwrap();
    scene.send(0..20).await;
    scene.wait_until_idle().await;
    assert_waiting(&scene, 0);
    scene.pipelines.pause(&name("a")).await.unwrap();
    scene.send(20..36).await;
    assert_waiting(&scene, 16);
    reset(&scene, true).await;
    assert_waiting(&scene, 0);
    scene.send(36..44).await;
    assert_waiting(&scene, 8);
    reset(&scene, false).await;
    assert_waiting(&scene, 44);
    scene.pipelines.resume(&name("a")).await.unwrap();
    scene.wait_until_idle().await;
    assert_waiting(&scene, 0);

    scene.apply(&text, &traps).await.unwrap();
    scene.send(44..60).await;
    scene.wait_until_idle().await;
    assert_eq!(scene.status("a").state, PipelineState::Failed);
    assert_waiting(&scene, 16);
    reset(&scene, true).await;
    assert_waiting(&scene, 0);
    reset(&scene, false).await;
    assert_waiting(&scene, 60);
}

/// Fails when only tasks tell what waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_without_tasks_lags_behind_where_it_would_start() {
    let clock = "wasi:clocks/monotonic-clock@0.2.6";
    let reads = passthrough().import(clock, "now", "(result u64)", "(result i64)");
    for (start, expected) in [("earliest", 10), ("latest", 0)] {
        let scene = Scene::new();
        let misfit = scene.plugin(&reads);
        let text = manifest("m", "a", &format!("start = \"{start}\""));
        let applied = scene.apply(&text, &misfit).await.unwrap();
        assert_eq!(changes(&applied), [("a", Change::Refused)]);
        scene.send(0..10).await;
        assert!(scene.status("a").tasks.is_empty());
        assert_waiting(&scene, expected);
        // It has run meanwhile.
        let fits = scene.plugin(&passthrough());
        scene.apply(&text, &fits).await.unwrap();
        scene.wait_until_idle().await;
        assert_waiting(&scene, 0);
        scene.apply(&text, &misfit).await.unwrap();
        scene.send(10..14).await;
        assert_eq!(scene.status("a").state, PipelineState::Refused);
        assert_waiting(&scene, 4);
    }
}

/// What is not applied through here, as where no server runs, and messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_is_only_known_lags_as_one_that_stands_still() {
    let scene = Scene::new();
    let plugin = scene.plugin(&passthrough());
    let text = manifest("m", "a", "") + "[queues.jobs]\n";
    let text = text.replace("\"topic:in\"", "[\"topic:in\", \"queue:jobs\"]");
    scene.apply(&text, &plugin).await.unwrap();
    scene.send(0..10).await;
    scene.wait_until_idle().await;
    scene.pipelines.pause(&name("a")).await.unwrap();
    scene.send(10..15).await;
    let message = Record {
        key: None,
        value: Some(Bytes::from_static(b"v")),
        headers: Vec::new(),
        timestamp_ms: 7,
    };
    let jobs = scene.queues.queue(&"jobs".parse().unwrap()).unwrap();
    jobs.enqueue(&[message.clone(), message]).await.unwrap();
    assert_waiting(&scene, 7);
    assert_eq!(scene.status("a").tasks[0].totals.lag_records, {
        let described = describe(&scene.log, &scene.queues, &scene.groups, &name("a"));
        described.unwrap().positions[0].lag_records + 2
    });

    let Scene {
        log,
        queues,
        groups,
        ..
    } = &scene;
    let offline = Pipelines::offline(log, queues, groups);
    let manifest = manifest::resolve_uploaded(Path::new("m"), &text).unwrap();
    let plugins = Plugins::loaded(&scene.engine, [("p".parse().unwrap(), Ok(plugin))]);
    offline.make_known(&manifest, &plugins, &[]).await;
    let status = offline.status_of(&name("a")).unwrap();
    assert_eq!(
        (status.state, status.totals.lag_records),
        (PipelineState::Stopped, 7)
    );
    assert!(status.lag_ms > OLD_MS);
}
