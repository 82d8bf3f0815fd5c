//! What a look at the lag of pipelines reads, and what it tells of what it cannot read.

use std::io;

use super::*;
use crate::pipeline::list;
use crate::storage::Commit;
use crate::storage::schema::{KeyKind, batch};
use crate::storage::tests::support::{engine_reads, stored_records};

/// What one look at all pipelines reads, in bytes.
fn read_by_status(scene: &Scene) -> u64 {
    engine_reads(|| drop(scene.pipelines.status())).bytes
}

/// As [`read_by_status`], of a look at them as they are stored, too.
fn read_by_described(scene: &Scene) -> u64 {
    engine_reads(|| drop(scene.pipelines.described().unwrap())).bytes
}

/// A pipeline `a` that is paused where 20 records end.
async fn paused(settings: &str) -> Scene {
    let scene = Scene::new();
    let plugin = scene.plugin(&passthrough());
    let text = manifest("m", "a", settings);
    scene.apply(&text, &plugin).await.unwrap();
    scene.send(0..20).await;
    scene.wait_until_idle().await;
    scene.pipelines.pause(&name("a")).await.unwrap();
    scene
}

/// Fails when the age of the oldest record is read anew at each look, or what waits is read for the description and
/// again for the status, or whoever does not ask for what waits has it read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_reads_no_batch_until_the_position_moves() {
    let scene = paused("").await;
    let (positions, stored) = (read_by_status(&scene), read_by_described(&scene));
    let listed = engine_reads(|| {
        drop(list(&scene.log, &scene.queues, &scene.groups).unwrap());
    });
    assert_eq!(stored, listed.bytes);
    scene.send(20..60).await;
    assert!(read_by_status(&scene) > positions);
    assert_eq!(read_by_status(&scene), positions);
    assert_eq!(read_by_described(&scene), stored);
    // More records do not change which one is the oldest.
    scene.send(60..80).await;
    assert_eq!(read_by_status(&scene), positions);
    let lag_ms = scene.status("a").lag_ms;
    assert!(lag_ms > 1_000_000_000_000, "{lag_ms}");
    let reads = engine_reads(|| {
        let pipelines = &scene.pipelines;
        let state = pipelines.current_state(&name("a"));
        assert_eq!(state, Some(PipelineState::Paused));
        assert_eq!(pipelines.totals_by_task(&name("a")).unwrap().len(), 4);
        let group = "a".parse().unwrap();
        assert_eq!(pipelines.running_pipeline_of_group(&group), None);
        assert!(pipelines.failure_of(&name("a")).is_none());
    });
    assert_eq!(reads.bytes, 0);

    let topic = scene.log.topic(&"in".parse().unwrap()).unwrap();
    let to_start = topic.partitions().iter().map(|it| (&**it, 0));
    let group = "a".parse().unwrap();
    scene.groups.commit(&group, to_start).await.unwrap();
    assert!(read_by_status(&scene) > positions);
    assert_eq!(read_by_status(&scene), positions);
}

/// Fails when where a pipeline would start is searched for at each look, or where none was found is taken for the place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_pipeline_would_start_by_time_is_searched_for_once() {
    let clock = "wasi:clocks/monotonic-clock@0.2.6";
    let reads = passthrough().import(clock, "now", "(result u64)", "(result i64)");
    let scene = Scene::new();
    let misfit = scene.plugin(&reads);
    let text = manifest("m", "a", "start = \"1970-01-01T00:00:00Z\"");
    let applied = scene.apply(&text, &misfit).await.unwrap();
    assert_eq!(changes(&applied), [("a", Change::Refused)]);
    assert_eq!(scene.status("a").totals.lag_records, 0);
    scene.send(0..20).await;
    assert_eq!(scene.status("a").totals.lag_records, 20);
    // There are no positions, nor anything else that is read.
    assert_eq!(read_by_status(&scene), 0);
    scene.send(20..30).await;
    assert_eq!(scene.status("a").totals.lag_records, 30);
}

/// Fails when what was found of a pipeline stays when it has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_remembered_of_a_pipeline_that_has_gone() {
    let scene = paused("").await;
    scene.send(20..60).await;
    let remembered = || scene.pipelines.shared.lag_memory.pipeline_count();
    scene.pipelines.described().unwrap();
    assert_eq!(remembered(), 1);
    scene.pipelines.remove(&name("a"), false).await.unwrap();
    // It is still stored.
    scene.pipelines.described().unwrap();
    assert_eq!(remembered(), 1);
    scene.pipelines.status();
    assert_eq!(remembered(), 0);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How often it is logged meanwhile that something cannot be read.
fn warning_count(look: impl FnOnce()) -> usize {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, look);
    let lines = String::from_utf8(lines.0.lock().clone()).unwrap();
    lines.matches("cannot be read").count()
}

/// Fails when the list is an error, leaves the pipeline or the partition out, or warns at each look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_leaves_out_its_age_alone() {
    let scene = paused("").await;
    scene.send(20..60).await;
    let topic = scene.log.topic(&"in".parse().unwrap()).unwrap();
    let store = scene.log.store();
    let damage = async |index: u32| {
        let partition = topic.partition(index).unwrap();
        let group = "a".parse().unwrap();
        let at = scene.groups.committed(&group, partition).unwrap();
        let at = at.unwrap().offset;
        assert!(stored_records(store, partition).len() as u64 > at);
        let key = batch::key(partition.topic_id(), index, at);
        let mut commit = Commit::new();
        commit.put(KeyKind::Batch, key, Bytes::from_static(b"damaged"));
        store.commit(commit).await.unwrap();
    };
    damage(1).await;
    let looks_right = |undamaged: &[usize]| {
        let described = list(&scene.log, &scene.queues, &scene.groups).unwrap();
        let positions = &described[0].positions;
        let total: u64 = positions.iter().map(|it| it.lag_records).sum();
        assert_eq!((positions.len(), total), (4, 40));
        for (index, position) in positions.iter().enumerate() {
            assert_eq!(position.lag_ms > 0, undamaged.contains(&index));
        }
        let (described, status) = scene.pipelines.described().unwrap().remove(0);
        assert_eq!(described.positions.len(), 4);
        assert_eq!(status.unwrap().totals.lag_records, 40);
    };
    looks_right(&[0, 2, 3]);
    // It has been told.
    assert_eq!(warning_count(|| drop(scene.pipelines.status())), 0);
    damage(3).await;
    // What is known of the oldest record is not read again.
    assert_eq!(warning_count(|| drop(scene.pipelines.status())), 0);
    scene.pipelines.shared.lag_memory.keep_only(|_| false);
    assert_eq!(warning_count(|| drop(scene.pipelines.status())), 2);
    assert_eq!(warning_count(|| drop(scene.pipelines.status())), 0);
    looks_right(&[0, 2]);
}
