//! Plugins that are uploaded, manifests that are applied, and what a restart makes of them.

mod in_use;
mod kills;
mod parked;
mod shared_plugin;
mod signatures;
mod state;
mod trials;
mod waiting;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::clock::Clock;
use crate::log::Producer;
use crate::model::{HeadersRef, Record};
use crate::pipeline::{Change, PipelineState};
use crate::plugin::tests::guest::Guest;
use crate::plugin::{Effect, EngineOptions};
use crate::storage::schema::{KeyKind, deploy as deploy_key};
use crate::storage::tests::support::{open_again, stored_records};
use crate::storage::{Commit, Durability, StoreOptions};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A server's data directory, which can be closed and opened again.
pub(crate) struct Server {
    pub(crate) log: Log,
    pub(crate) queues: Queues,
    pub(crate) groups: Groups,
    pub(crate) deployments: Deployments,
    engine: PluginEngine,
    clock: Clock,
    folder: Option<tempfile::TempDir>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_at(Clock::system()).await
    }

    /// With a clock of its own.
    async fn start_at(clock: Clock) -> Self {
        let engine = PluginEngine::new(EngineOptions::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let rules = SignatureRules::default();
        let opened = Self::open(folder.path(), engine, rules, clock, None).await;
        Self {
            folder: Some(folder),
            ..opened
        }
    }

    /// In a folder of somebody else's.
    async fn open_at(path: &Path) -> Self {
        let engine = PluginEngine::new(EngineOptions::default()).unwrap();
        let rules = SignatureRules::default();
        Self::open(path, engine, rules, Clock::system(), None).await
    }

    async fn open(
        path: &Path,
        engine: PluginEngine,
        signatures: SignatureRules,
        clock: Clock,
        offline: Option<Offline>,
    ) -> Self {
        let options = StoreOptions {
            durability: Durability::Os,
            clock: clock.clone(),
            ..StoreOptions::default()
        };
        let store = block_in_place(|| open_again(path, &options));
        let log = Log::open(store.clone()).unwrap();
        let queues = Queues::open(store.clone()).unwrap();
        let groups = Groups::new(store);
        let deployments = match offline {
            Some(about) => {
                Deployments::open_offline(&log, &queues, &groups, &engine, signatures, about).await
            }
            None => Deployments::open(&log, &queues, &groups, &engine, signatures).await,
        };
        let deployments = deployments.unwrap();
        Self {
            log,
            queues,
            groups,
            deployments,
            engine,
            clock,
            folder: None,
        }
    }

    /// Stops everything and opens the data directory again; nothing is restored yet.
    pub(super) async fn restart(self) -> Self {
        self.restart_with(SignatureRules::default()).await
    }

    /// As [`restart`](Self::restart), with rules for signatures.
    pub(super) async fn restart_with(self, signatures: SignatureRules) -> Self {
        self.reopen(signatures, None).await
    }

    /// As [`restart`](Self::restart), for a command that changes what was deployed, which it knows.
    pub(super) async fn go_offline(self) -> Self {
        let about = Some(Offline::Changing);
        let offline = self.reopen(SignatureRules::default(), about).await;
        offline.deployments.restore().await.unwrap();
        offline
    }

    async fn reopen(self, signatures: SignatureRules, offline: Option<Offline>) -> Self {
        self.deployments.stop().await;
        let Self {
            log,
            queues,
            groups,
            deployments,
            engine,
            clock,
            folder,
        } = self;
        block_in_place(|| drop((log, queues, groups, deployments)));
        let path = folder.as_ref().unwrap().path().to_owned();
        Self {
            folder,
            ..Self::open(&path, engine, signatures, clock, offline).await
        }
    }

    pub(crate) async fn upload(&self, name: &str, guest: &Guest) -> Uploaded {
        let name = name.parse().unwrap();
        let by = Some("ann".to_owned());
        self.deployments
            .upload(&name, guest.build(), None, by)
            .await
            .unwrap()
    }

    pub(crate) async fn send(&self, numbers: std::ops::Range<u64>) {
        self.send_by(None, numbers).await;
    }

    /// Sends to a partition, whatever the keys.
    pub(crate) async fn send_to(&self, partition: u32, numbers: std::ops::Range<u64>) {
        self.send_by(Some(partition), numbers).await;
    }

    async fn send_by(&self, partition: Option<u32>, numbers: std::ops::Range<u64>) {
        let topic = self.log.topic(&"in".parse().unwrap()).unwrap();
        let mut producer = Producer::new(self.log.clone(), topic);
        for number in numbers {
            let (key, value) = (format!("k{}", number % 17), number.to_string());
            let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
            let sent = producer.send(partition, 7, key, value, HeadersRef::EMPTY);
            sent.await.unwrap();
        }
        producer.flush().await.unwrap();
    }

    /// The records of a topic's partitions, in order.
    pub(crate) fn values(&self, topic: &str) -> Vec<Vec<Option<Bytes>>> {
        let topic = self.log.topic(&topic.parse().unwrap()).unwrap();
        let partitions = topic.partitions().iter();
        partitions
            .map(|partition| {
                let records = stored_records(self.log.store(), partition).into_iter();
                records.map(|(_, record)| record.value).collect()
            })
            .collect()
    }

    /// How many records a topic has been sent.
    fn record_count(&self, topic: &str) -> u64 {
        let topic = self.log.topic(&topic.parse().unwrap()).unwrap();
        let partitions = topic.partitions().iter();
        partitions.map(|it| it.high_watermark()).sum()
    }

    pub(crate) async fn wait_until_idle(&self) {
        let idle = self.deployments.pipelines().wait_until_idle();
        tokio::time::timeout(TIMEOUT, idle).await.unwrap();
    }

    fn task_digests(&self, name: &str) -> Vec<Digest> {
        let status = self
            .deployments
            .pipelines()
            .status_of(&name.parse().unwrap());
        let tasks = status.unwrap().tasks.into_iter();
        tasks.map(|task| task.digest).collect()
    }
}

/// As [`Guest::passthrough`], another component.
pub(crate) fn passthrough_too() -> Guest {
    Guest::new("(nop) (call $pass (local.get $batch))")
}

pub(crate) fn manifest(name: &str, pipeline: &str, settings: &str) -> String {
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

pub(crate) fn p() -> PluginName {
    "p".parse().unwrap()
}

fn pipeline(name: &str) -> PipelineName {
    name.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_applied_runs_again_after_a_restart() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    let applied = server
        .deployments
        .apply(&manifest("m", "a", ""), None)
        .await;
    assert_eq!(
        applied.unwrap().pipelines,
        [(pipeline("a"), Change::Started)]
    );
    server
        .deployments
        .apply(&manifest("n", "b", ""), Some("ann".to_owned()))
        .await
        .unwrap();
    server.deployments.pause(&pipeline("b")).await.unwrap();
    server.send(0..60).await;
    server.wait_until_idle().await;

    let server = server.restart().await;
    assert!(server.deployments.pipelines().status().is_empty());
    assert!(server.deployments.restore().await.unwrap().is_empty());
    server.send(60..100).await;
    server.wait_until_idle().await;
    assert_eq!(server.values("out"), server.values("in"));
    let states = server.deployments.pipelines().status().into_iter();
    let states: Vec<_> = states.map(|it| (it.name.to_string(), it.state)).collect();
    assert_eq!(
        states,
        [
            ("a".to_owned(), PipelineState::Running),
            ("b".to_owned(), PipelineState::Paused)
        ]
    );
    let manifests = server.deployments.manifests().unwrap();
    assert_eq!(manifests[1].applied.applied_by.as_deref(), Some("ann"));
    assert_eq!(manifests[1].pipelines, [pipeline("b")]);
    server.deployments.resume(&pipeline("b")).await.unwrap();

    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    let b = server.deployments.pipelines().status_of(&pipeline("b"));
    assert_eq!(b.unwrap().state, PipelineState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_runs_when_it_is_deployed() {
    let server = Server::start().await;
    let first = server.upload("p", &Guest::passthrough()).await;
    assert!(first.is_new && first.is_current && first.differences.is_empty());
    let again = server.upload("p", &Guest::passthrough()).await;
    assert!(!again.is_new && again.version == first.version);
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    server.send(0..50).await;

    let opens = passthrough_too().open("(i32.store (i32.const 0) (i32.const 0)) (i32.const 0)");
    let second = server.upload("p", &opens).await;
    assert!(second.is_new && !second.is_current);
    assert_eq!(second.differences.len(), 1);
    assert_eq!(second.differences[0].effect, Effect::Harmless);
    let (old, new) = (first.version.digest, second.version.digest);
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);

    let by = Some("bob".to_owned());
    let deploy = server.deployments.deploy(&p(), &new, Mode::All, by).await;
    let deploy = deploy.unwrap();
    assert_eq!(deploy.outcome, Outcome::Succeeded);
    assert_eq!(deploy.from, Some(old.clone()));
    assert_eq!(server.task_digests("a"), vec![new.clone(); 4]);
    server.send(50..100).await;
    server.wait_until_idle().await;

    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    assert_eq!(server.task_digests("a"), vec![new.clone(); 4]);
    server.deployments.rollback(&p(), None).await.unwrap();
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    assert_eq!(server.deployments.plugin(&p()).unwrap().current, old);
    let error = server.deployments.rollback(&p(), None).await.unwrap_err();
    assert!(matches!(error, Error::NoEarlierVersion { .. }), "{error}");
    assert_eq!(server.values("out"), server.values("in"));
    let deploys = server.deployments.deploys().unwrap();
    let outcomes: Vec<_> = deploys.iter().map(|it| (it.id, it.by.as_deref())).collect();
    assert_eq!(outcomes, [(3, None), (2, Some("bob")), (1, Some("ann"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_cannot_run_in_one_pipeline_runs_in_none() {
    let server = Server::start().await;
    let first = server.upload("p", &Guest::passthrough()).await;
    let grants = "allow = { clocks = true }";
    for (name, settings) in [("a", grants), ("b", "")] {
        let text = manifest(name, name, settings);
        server.deployments.apply(&text, None).await.unwrap();
    }
    let clock = "wasi:clocks/monotonic-clock@0.2.6";
    let reads = Guest::passthrough().import(clock, "now", "(result u64)", "(result i64)");
    let second = server.upload("p", &reads).await;
    assert_eq!(second.differences[0].effect, Effect::Breaks);
    let misfits: Vec<_> = second
        .misfits
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(misfits, ["b"]);
    let digest = second.version.digest;
    let error = server
        .deployments
        .deploy(&p(), &digest, Mode::All, None)
        .await;
    assert!(
        matches!(error, Err(Error::DeployFailed { .. })),
        "{error:?}"
    );
    for name in ["a", "b"] {
        let old = first.version.digest.clone();
        assert_eq!(server.task_digests(name), vec![old; 4]);
    }
    let failed = &server.deployments.deploys().unwrap()[0];
    assert_eq!(failed.outcome, Outcome::Failed);
    assert!(failed.reason.as_ref().unwrap().contains("clocks = true"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_is_used_is_not_deleted() {
    let server = Server::start().await;
    let error = server
        .deployments
        .apply(&manifest("m", "a", ""), None)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("manifest:7:10: error: plugin `p` was not uploaded"),
        "{error}"
    );
    assert!(
        error.contains("millstream plugin upload p FILE.wasm"),
        "{error}"
    );
    server.upload("p", &Guest::passthrough()).await;
    server
        .deployments
        .apply(&manifest("m", "a", ""), None)
        .await
        .unwrap();
    let error = server.deployments.delete_plugin(&p()).await.unwrap_err();
    assert!(
        error.to_string().contains("used by pipeline `a`"),
        "{error}"
    );
    server
        .deployments
        .delete_pipeline(&pipeline("a"), false)
        .await
        .unwrap();
    // Its last pipeline is gone, and the manifest with it.
    assert!(server.deployments.manifests().unwrap().is_empty());
    server.deployments.delete_plugin(&p()).await.unwrap();
    assert!(matches!(
        server.deployments.plugin(&p()),
        Err(Error::UnknownPlugin { .. })
    ));
    let folder = server.log.store().path().join("plugins");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    let junk = server
        .deployments
        .upload(&p(), Bytes::from_static(b"junk"), None, None)
        .await;
    assert!(matches!(junk, Err(Error::Plugin(_))), "{junk:?}");
    assert!(server.deployments.plugins().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manifest_that_cannot_be_restored_keeps_no_other_from_it() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    server
        .deployments
        .apply(&manifest("m", "a", ""), None)
        .await
        .unwrap();
    server
        .deployments
        .apply(&manifest("z", "z", ""), None)
        .await
        .unwrap();
    let damaged = AppliedManifest {
        text: "name = ".to_owned(),
        applied_at_ms: 1,
        applied_by: None,
        paused: Vec::new(),
        removed: Vec::new(),
    };
    put_manifest(&server, "n", &damaged).await;
    let server = server.restart().await;
    let not_restored = server.deployments.restore().await.unwrap();
    assert_eq!(not_restored.len(), 1);
    assert_eq!(not_restored[0].manifest, "n");
    assert_eq!(server.deployments.pipelines().status().len(), 2);
}

/// A manifest may be of topics alone.
///
/// Fails when having no pipelines is taken for having lost all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_without_pipelines_outlives_a_restart() {
    let server = Server::start().await;
    let text = "name = \"topics\"\n[topics.t]\n";
    server.deployments.apply(text, None).await.unwrap();
    let server = server.restart().await;
    assert!(server.deployments.restore().await.unwrap().is_empty());
    let manifests = server.deployments.manifests().unwrap();
    assert_eq!(manifests.len(), 1, "{manifests:?}");
    // One whose last pipeline was being deleted when the process was killed goes.
    server.upload("p", &Guest::passthrough()).await;
    let deleted = AppliedManifest {
        text: manifest("m", "a", ""),
        applied_at_ms: 1,
        applied_by: None,
        paused: Vec::new(),
        removed: vec![pipeline("a")],
    };
    put_manifest(&server, "m", &deleted).await;
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    let manifests = server.deployments.manifests().unwrap();
    assert_eq!(manifests.len(), 1, "{manifests:?}");
    assert_eq!(manifests[0].name, "topics");
}

async fn put_manifest(server: &Server, name: &str, applied: &AppliedManifest) {
    let mut commit = Commit::new();
    records::put_manifest(&mut commit, name, applied).unwrap();
    server.log.store().commit(commit).await.unwrap();
}

/// The first attempt had noted the deletion, and then failed.
///
/// Fails when the second one notes it again, and when whatever is wrong with the records of deploys is taken for a state
/// that is half put back, of which nothing has to be there to be deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_failed_midway_is_made_again() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    let two = format!(
        "{}[pipelines.b]\nfrom = \"topic:in\"\nto = \"topic:out\"\nplugin = \"p\"\n",
        manifest("m", "a", "")
    );
    server.deployments.apply(&two, None).await.unwrap();
    let mut noted = server.deployments.manifests().unwrap().remove(0).applied;
    noted.removed.push(pipeline("a"));
    put_manifest(&server, "m", &noted).await;
    let a = pipeline("a");
    server.deployments.delete_pipeline(&a, false).await.unwrap();
    let left = server.deployments.manifests().unwrap().remove(0);
    assert_eq!(left.applied.removed, [a]);
    assert_eq!(left.pipelines, [pipeline("b")]);

    let mut commit = Commit::new();
    let key = deploy_key::key(999);
    commit.put(KeyKind::Deploy, key, Bytes::from_static(b"garbage"));
    server.log.store().commit(commit).await.unwrap();
    let nobody = pipeline("nobody");
    let error = server.deployments.delete_pipeline(&nobody, true).await;
    assert!(
        matches!(
            error,
            Err(Error::Pipeline(crate::pipeline::Error::NotApplied { .. }))
        ),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_was_cut_off_has_not_happened() {
    let server = Server::start().await;
    let first = server.upload("p", &Guest::passthrough()).await;
    let second = server.upload("p", &passthrough_too()).await;
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    let to = second.version.digest;
    let deploy = server.deployments.begin(&p(), to, Mode::All, None).await;
    let id = deploy.unwrap().id;
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    let old = first.version.digest;
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    let deploy = server.deployments.deploy_of(id).unwrap();
    assert_eq!(deploy.outcome, Outcome::Interrupted);
    assert_eq!(server.deployments.plugin(&p()).unwrap().current, old);
}

#[test]
fn records_of_later_versions_are_read() {
    let text = r#"{"current":"D","versions":[{"digest":"D","size-bytes":1,"uploaded-at-ms":2,"new":3}],"newer":{}}"#;
    let text = text.replace('D', Digest::of(b"x").as_str());
    let stored: records::StoredPlugin = serde_json::from_str(&text).unwrap();
    assert_eq!(stored.versions[0].uploaded_by, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_wait_for_their_turn_to_be_compiled() {
    let server = Server::start().await;
    let compiles = &server.deployments.shared.compiles;
    let all = compiles.acquire_many(MAX_COMPILES as u32).await.unwrap();
    let name = p();
    let upload = || {
        let wasm = Guest::passthrough().build();
        server.deployments.upload(&name, wasm, None, None)
    };
    let waiting = tokio::time::timeout(Duration::from_millis(300), upload()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    drop(all);
    // Who asked for it went away while it waited: nothing comes of it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(server.deployments.plugins().unwrap().is_empty());
    upload().await.unwrap();
}
