//! Pipelines that come and go, and plugins that change under them.

mod deleted;
mod hints;
mod lag;
mod lag_looks;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::log::Producer;
use crate::manifest;
use crate::model::HeadersRef;
use crate::plugin::tests::guest::Guest;
use crate::plugin::{Digest, EngineOptions, Plugin, PluginEngine};
use crate::storage::tests::support::stored_records;
use crate::storage::{Durability, Store, StoreOptions};

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A data directory and an engine.
struct Scene {
    log: Log,
    queues: Queues,
    groups: Groups,
    engine: PluginEngine,
    pipelines: Pipelines,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with_instances(64)
    }

    fn with_instances(max_instances: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            durability: Durability::Os,
            // Without it RocksDB does not count what it reads.
            statistics: true,
            ..StoreOptions::default()
        };
        let store = Store::open(folder.path(), options).unwrap();
        let (log, queues) = (
            Log::open(store.clone()).unwrap(),
            Queues::open(store.clone()).unwrap(),
        );
        let groups = Groups::new(store);
        let engine = PluginEngine::new(EngineOptions {
            cache_dir: None,
            max_instances,
        })
        .unwrap();
        Self {
            pipelines: Pipelines::new(&log, &queues, &groups, max_instances),
            log,
            queues,
            groups,
            engine,
            _folder: folder,
        }
    }

    fn plugin(&self, guest: &Guest) -> Plugin {
        self.engine.load(guest.build(), "test").unwrap()
    }

    async fn apply(&self, text: &str, plugin: &Plugin) -> Result<Applied, Error> {
        let manifest = manifest::resolve_uploaded(Path::new("m"), text).unwrap();
        let names = manifest.plugins.iter().map(|spec| spec.name.clone());
        let plugins = Plugins::loaded(&self.engine, names.map(|name| (name, Ok(plugin.clone()))));
        self.pipelines.apply(&manifest, &plugins).await
    }

    /// Sends numbered records, 17 keys in turn.
    async fn send(&self, numbers: std::ops::Range<u64>) {
        let topic = self.log.topic(&"in".parse().unwrap()).unwrap();
        let mut producer = Producer::new(self.log.clone(), topic);
        for number in numbers {
            let (key, value) = (format!("k{}", number % 17), number.to_string());
            let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
            producer
                .send(None, 7, key, value, HeadersRef::EMPTY)
                .await
                .unwrap();
        }
        producer.flush().await.unwrap();
    }

    /// Keys and values of a topic's partitions, in order.
    fn records(&self, topic: &str) -> Vec<Vec<(Option<Bytes>, Option<Bytes>)>> {
        let topic = self.log.topic(&topic.parse().unwrap()).unwrap();
        let partitions = topic.partitions().iter();
        partitions
            .map(|partition| {
                let records = stored_records(self.log.store(), partition).into_iter();
                records
                    .map(|(_, record)| (record.key, record.value))
                    .collect()
            })
            .collect()
    }

    async fn wait_until_idle(&self) {
        tokio::time::timeout(TIMEOUT, self.pipelines.wait_until_idle())
            .await
            .unwrap();
    }

    fn status(&self, name: &str) -> PipelineStatus {
        self.pipelines.status_of(&name.parse().unwrap()).unwrap()
    }

    fn task_digests(&self, name: &str) -> Vec<Digest> {
        let tasks = self.status(name).tasks.into_iter();
        tasks.map(|task| task.digest).collect()
    }
}

fn passthrough() -> Guest {
    Guest::passthrough()
}

/// As [`passthrough`], another component.
fn passthrough_too() -> Guest {
    Guest::new("(nop) (call $pass (local.get $batch))")
}

fn traps() -> Guest {
    Guest::new("unreachable")
}

fn manifest(name: &str, pipeline: &str, settings: &str) -> String {
    format!(
        r#"
name = "{name}"
[topics.in]
partitions = 4
[topics.out]
partitions = 4
[plugins.p]
[pipelines.{pipeline}]
from = "topic:in"
to = "topic:out"
plugin = "p"
batch = {{ max-records = 16, max-wait = "0s" }}
{settings}
"#
    )
}

fn name(name: &str) -> PipelineName {
    name.parse().unwrap()
}

fn changes(applied: &Applied) -> Vec<(&str, Change)> {
    let pipelines = applied.pipelines.iter();
    pipelines
        .map(|(name, change)| (name.as_str(), *change))
        .collect()
}

/// Fails when the process may end before the last lines are written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_plugins_have_logged_is_stored_before_the_end() {
    let scene = Scene::new();
    let name = "a".parse().unwrap();
    scene.pipelines.shared.logs.log(&name, "last words");
    scene.pipelines.stop().await;
    let file = scene.log.store().path().join("logs/a.jsonl");
    let stored = std::fs::read_to_string(file).unwrap_or_default();
    assert!(stored.contains("last words"), "{stored}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_changed_is_left_alone() {
    let scene = Scene::new();
    let plugin = scene.plugin(&passthrough());
    let text = manifest("m", "a", "");
    let applied = scene.apply(&text, &plugin).await.unwrap();
    assert_eq!(changes(&applied), [("a", Change::Started)]);
    scene.send(0..100).await;
    scene.wait_until_idle().await;
    // Only moved in its file.
    let applied = scene.apply(&format!("\n\n{text}"), &plugin).await.unwrap();
    assert_eq!(changes(&applied), [("a", Change::Unchanged)]);
    let applied = scene
        .apply(
            &manifest("m", "a", "limits = { deadline = \"3s\" }"),
            &plugin,
        )
        .await
        .unwrap();
    assert_eq!(changes(&applied), [("a", Change::Restarted)]);
    scene.send(100..200).await;
    scene.wait_until_idle().await;
    // It went on where it was, and counted on.
    assert_eq!(scene.records("out"), scene.records("in"));
    assert_eq!(scene.status("a").totals.records_in, 200);
    let applied = scene.apply(&manifest("m", "b", ""), &plugin).await.unwrap();
    assert_eq!(
        changes(&applied),
        [("b", Change::Started), ("a", Change::Stopped)]
    );
    assert!(scene.pipelines.status_of(&name("a")).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_do_not_get_into_each_others_way() {
    let scene = Scene::new();
    let plugin = scene.plugin(&passthrough());
    scene.apply(&manifest("m", "a", ""), &plugin).await.unwrap();
    let error = scene
        .apply(&manifest("other", "a", ""), &plugin)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::PipelineOfAnotherManifest { manifest, .. } if manifest == "m"),
        "{error}"
    );
    let same_group = manifest("other", "b", "group = \"a\"");
    let error = scene.apply(&same_group, &plugin).await.unwrap_err();
    assert!(matches!(&error, Error::GroupInUse { .. }), "{error}");
    scene
        .apply(&manifest("other", "b", ""), &plugin)
        .await
        .unwrap();
    let all: Vec<String> = scene
        .pipelines
        .status()
        .iter()
        .map(|it| it.name.to_string())
        .collect();
    assert_eq!(all, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_all_pipelines_are_counted() {
    let scene = Scene::with_instances(10);
    let plugin = scene.plugin(&passthrough());
    scene.apply(&manifest("m", "a", ""), &plugin).await.unwrap();
    scene.apply(&manifest("n", "b", ""), &plugin).await.unwrap();
    let error = scene.apply(&manifest("o", "c", ""), &plugin).await;
    assert!(
        matches!(
            error,
            Err(Error::TooManyInstances {
                needed: 12,
                limit: 10
            })
        ),
        "{error:?}"
    );
    // The same again takes no more.
    scene.apply(&manifest("n", "b", ""), &plugin).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_pipeline_goes_on_where_it_was() {
    let scene = Scene::new();
    let plugin = scene.plugin(&passthrough());
    scene.apply(&manifest("m", "a", ""), &plugin).await.unwrap();
    scene.send(0..50).await;
    scene.wait_until_idle().await;
    scene.pipelines.pause(&name("a")).await.unwrap();
    scene.send(50..100).await;
    let status = scene.status("a");
    assert_eq!(
        (status.state, status.totals.lag_records),
        (PipelineState::Paused, 50)
    );
    assert!(status.lag_ms > 1_000_000, "{}", status.lag_ms);
    assert!(
        status
            .tasks
            .iter()
            .all(|task| task.state == TaskState::Stopped)
    );
    // A change while it is paused does not start it.
    let changed = manifest("m", "a", "limits = { deadline = \"3s\" }");
    let applied = scene.apply(&changed, &plugin).await.unwrap();
    assert_eq!(changes(&applied), [("a", Change::Paused)]);
    scene.pipelines.resume(&name("a")).await.unwrap();
    scene.wait_until_idle().await;
    let status = scene.status("a");
    assert_eq!((status.state, status.lag_ms), (PipelineState::Running, 0));
    assert_eq!(status.totals.records_in, 100);
    assert_eq!(scene.records("out"), scene.records("in"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_pipeline_can_be_resumed() {
    let scene = Scene::new();
    let stops = "dead-letter = \"stop\"\nretry = { max-attempts = 1 }";
    let plugin = scene.plugin(&traps());
    scene
        .apply(&manifest("m", "a", stops), &plugin)
        .await
        .unwrap();
    scene.send(0..10).await;
    scene.wait_until_idle().await;
    let status = scene.status("a");
    assert_eq!(status.state, PipelineState::Failed);
    assert!(status.failure.unwrap().partition.is_some());
    assert!(
        status
            .tasks
            .iter()
            .any(|task| task.state == TaskState::Failed)
    );
    scene.pipelines.resume(&name("a")).await.unwrap();
    scene.wait_until_idle().await;
    assert_eq!(scene.status("a").state, PipelineState::Failed);
    // A version that works makes it run.
    let mended = scene.plugin(&passthrough());
    scene
        .pipelines
        .swap(&name("a"), None, &mended)
        .await
        .unwrap();
    scene.wait_until_idle().await;
    assert_eq!(scene.status("a").state, PipelineState::Running);
    assert_eq!(scene.records("out"), scene.records("in"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_keeps_or_deletes_what_there_is() {
    let scene = Scene::new();
    let plugin = scene.plugin(&passthrough());
    let text = manifest("m", "a", "");
    scene.apply(&text, &plugin).await.unwrap();
    scene.send(0..20).await;
    scene.wait_until_idle().await;
    scene.pipelines.remove(&name("a"), false).await.unwrap();
    scene.apply(&text, &plugin).await.unwrap();
    scene.wait_until_idle().await;
    assert_eq!(scene.records("out"), scene.records("in"));
    scene.pipelines.remove(&name("a"), true).await.unwrap();
    assert!(scene.groups.positions(&"a".parse().unwrap()).is_err());
    let described = crate::pipeline::list(&scene.log, &scene.queues, &scene.groups).unwrap();
    assert_eq!(described, []);
    let error = scene.pipelines.remove(&name("a"), true).await.unwrap_err();
    assert!(matches!(error, Error::NotApplied { .. }), "{error}");
    // It begins anew.
    scene.apply(&text, &plugin).await.unwrap();
    scene.wait_until_idle().await;
    let count: usize = scene.records("out").iter().map(Vec::len).sum();
    assert_eq!(count, 40);
}

/// Swaps two versions in turn while records flow.
async fn swap_under_load(settings: &str) {
    const RECORDS: u64 = 20_000;
    const SWAPS: usize = 50;
    let scene = Scene::new();
    let versions = [
        scene.plugin(&passthrough()),
        scene.plugin(&passthrough_too()),
    ];
    scene
        .apply(&manifest("m", "a", settings), &versions[0])
        .await
        .unwrap();
    let swaps = async {
        for turn in 1..=SWAPS {
            let to = &versions[turn % 2];
            let swapped = scene.pipelines.swap(&name("a"), None, to).await.unwrap();
            assert_eq!(swapped.partitions, [0, 1, 2, 3]);
            assert_eq!(scene.task_digests("a"), vec![to.digest().clone(); 4]);
        }
    };
    let sends = async {
        for number in 0..RECORDS / 100 {
            scene.send(number * 100..(number + 1) * 100).await;
        }
    };
    tokio::join!(swaps, sends);
    scene.wait_until_idle().await;
    assert_eq!(scene.pipelines.failures().len(), 0);
    let status = scene.status("a");
    assert_eq!(
        (status.totals.records_in, status.totals.records_out),
        (RECORDS, RECORDS)
    );
    let (sent, came) = (scene.records("in"), scene.records("out"));
    for (sent, came) in sent.iter().zip(&came) {
        assert_eq!(by_key(sent), by_key(came));
    }
}

type Records = [(Option<Bytes>, Option<Bytes>)];

/// The values of each key, in order.
fn by_key(records: &Records) -> BTreeMap<Option<Bytes>, Vec<Option<Bytes>>> {
    let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (key, value) in records {
        by_key.entry(key.clone()).or_default().push(value.clone());
    }
    by_key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_lose_double_and_reorder_nothing() {
    swap_under_load("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_of_many_instances_lose_double_and_reorder_nothing() {
    swap_under_load("concurrency = 3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_partitions_can_run_another_version() {
    let scene = Scene::new();
    let [old, new] = [
        scene.plugin(&passthrough()),
        scene.plugin(&passthrough_too()),
    ];
    scene.apply(&manifest("m", "a", ""), &old).await.unwrap();
    let swapped = scene
        .pipelines
        .swap(&name("a"), Some(&[1, 3]), &new)
        .await
        .unwrap();
    assert_eq!(swapped.partitions, [1, 3]);
    let [o, n] = [old.digest().clone(), new.digest().clone()];
    assert_eq!(
        scene.task_digests("a"),
        [o.clone(), n.clone(), o.clone(), n]
    );
    assert_eq!(scene.status("a").digest, Some(o.clone()));
    let error = scene
        .pipelines
        .swap(&name("a"), Some(&[4]), &new)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::UnknownPartition { count: 4, .. }),
        "{error}"
    );
    // A restart brings the old version back.
    scene.pipelines.pause(&name("a")).await.unwrap();
    scene.pipelines.resume(&name("a")).await.unwrap();
    assert_eq!(scene.task_digests("a"), vec![o; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_does_not_open_changes_nothing() {
    let scene = Scene::new();
    let old = scene.plugin(&passthrough());
    scene.apply(&manifest("m", "a", ""), &old).await.unwrap();
    let refuses = scene.plugin(&passthrough_too().open("(call $error)"));
    let error = scene
        .pipelines
        .swap(&name("a"), None, &refuses)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::CannotOpen { .. }), "{error}");
    let clock = ("wasi:clocks/monotonic-clock@0.2.6", "now");
    let ungranted = passthrough().import(clock.0, clock.1, "(result u64)", "(result i64)");
    let ungranted = scene.plugin(&ungranted);
    let error = scene
        .pipelines
        .swap(&name("a"), None, &ungranted)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(scene.task_digests("a"), vec![old.digest().clone(); 4]);
    scene.send(0..40).await;
    scene.wait_until_idle().await;
    assert_eq!(scene.records("out"), scene.records("in"));
}

/// A version stops a pipeline, and is taken back: when some tasks have it already and another one cannot be given it, or
/// when all have it, and another pipeline cannot.
///
/// Fails when what has failed with it keeps the pipeline from running with the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_taken_back_leaves_no_failure() {
    let scene = Scene::new();
    let [old, new] = [scene.plugin(&passthrough()), scene.plugin(&traps())];
    let settings = "dead-letter = \"stop\"\nretry = { max-attempts = 1 }";
    let text = manifest("m", "a", settings);
    scene.apply(&text, &old).await.unwrap();
    let (pipelines, a) = (&scene.pipelines, name("a"));
    for (at, is_midway) in [(0, true), (1, false)] {
        let mut swapped = Vec::new();
        if is_midway {
            let (to, targets) = {
                let managed = pipelines.shared.managed.lock();
                swap::targets(&managed[&a], None, &new, None).unwrap()
            };
            for target in &targets {
                pipelines.swap_task(&a, target, &to).await.unwrap();
            }
            swapped = targets;
        } else {
            pipelines.swap(&a, None, &new).await.unwrap();
        }
        scene.send(at * 40..(at + 1) * 40).await;
        while scene.status("a").state != PipelineState::Failed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match is_midway {
            true => {
                let targets: Vec<_> = swapped.iter().collect();
                pipelines.swap_back(&a, &targets).await;
            }
            false => pipelines.restart(&a, &old).await.unwrap(),
        }
        scene.wait_until_idle().await;
        assert_eq!(scene.status("a").state, PipelineState::Running, "{at}");
        assert_eq!(scene.task_digests("a"), vec![old.digest().clone(); 4]);
        assert_eq!(scene.records("out"), scene.records("in"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_pipeline_starts_with_what_was_swapped_in() {
    let scene = Scene::new();
    let [old, new] = [
        scene.plugin(&passthrough()),
        scene.plugin(&passthrough_too()),
    ];
    scene.apply(&manifest("m", "a", ""), &old).await.unwrap();
    scene.pipelines.pause(&name("a")).await.unwrap();
    let swapped = scene.pipelines.swap(&name("a"), None, &new).await.unwrap();
    assert!(swapped.partitions.is_empty());
    assert_eq!(scene.status("a").state, PipelineState::Paused);
    scene.pipelines.resume(&name("a")).await.unwrap();
    assert_eq!(scene.task_digests("a"), vec![new.digest().clone(); 4]);
    let described = crate::pipeline::list(&scene.log, &scene.queues, &scene.groups).unwrap();
    assert_eq!(described[0].plugin_digest, new.digest().to_string());
}

/// The instances of a pipeline are those which it has now, as is their memory, whatever became of the ones before.
///
/// Fails when a swap, a new instance after a fault, or a pause leaves the old ones counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instances_of_a_pipeline_and_their_memory_are_those_that_it_has() {
    const PAGE_BYTES: u64 = 64 << 10;
    let scene = Scene::new();
    let plugin = scene.plugin(&passthrough());
    let settings = "retry = { max-attempts = 1 }";
    let text = manifest("m", "a", settings);
    scene.apply(&text, &plugin).await.unwrap();
    scene.send(0..40).await;
    scene.wait_until_idle().await;
    let memory_bytes = || scene.status("a").totals.memory_bytes;
    let instances = || scene.status("a").totals.instances;
    let small = memory_bytes();
    assert!(small >= 4 * PAGE_BYTES, "{small}");
    let grows = |then: &str| format!("(drop (memory.grow (i32.const 9))) {then}");
    let passes = "(call $pass (local.get $batch))";
    for (process, pages) in [
        (grows(passes), 10),
        (grows("unreachable"), 1),
        (passes.to_owned(), 1),
    ] {
        // What it takes when it is opened.
        let next = scene.plugin(&Guest::new(&process));
        scene.pipelines.swap(&name("a"), None, &next).await.unwrap();
        assert_eq!((instances(), memory_bytes()), (4, small), "{process}");
        // And after calls, of which those of the second one fault.
        scene.send(0..40).await;
        scene.wait_until_idle().await;
        if pages == 1 {
            assert_eq!(memory_bytes(), small, "{process}");
        } else {
            assert!(
                memory_bytes() >= pages * small,
                "{process}: {}",
                memory_bytes()
            );
        }
        assert_eq!(instances(), 4, "{process}");
    }
    scene.pipelines.pause(&name("a")).await.unwrap();
    assert_eq!((instances(), memory_bytes()), (0, 0));
    scene.pipelines.resume(&name("a")).await.unwrap();
    // Tasks open their instances by themselves, before they process anything.
    scene.send(0..40).await;
    scene.wait_until_idle().await;
    assert_eq!(instances(), 4);
}
