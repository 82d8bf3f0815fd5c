//! Going back with state and positions.

use super::*;
use crate::storage::schema::{KeyKind, state as state_key};
use crate::storage::{Commit, ReadOnlyStore, layout};

/// What the pipeline `a` has of keyed state, written past its plugin, which keeps none.
async fn put_state(server: &Server, value: &'static str) {
    let mut commit = Commit::new();
    for task in 0..4 {
        let value = Bytes::from_static(value.as_bytes());
        commit.write_state(0, task, b"key", Some(&value));
    }
    commit.set_timer(0, 1, u64::MAX - 1, value.as_bytes(), b"payload");
    server.log.store().commit(commit).await.unwrap();
}

fn state(server: &Server) -> Vec<Option<Bytes>> {
    let store = server.log.store();
    let get = |task| {
        let key = state_key::key(0, task, b"key");
        store.get(KeyKind::State, &key).unwrap()
    };
    (0..4).map(get).collect()
}

fn timer_count(server: &Server) -> u64 {
    let name = pipeline("a");
    let described =
        crate::pipeline::describe(&server.log, &server.queues, &server.groups, &name).unwrap();
    described.timers.count
}

fn of(value: &'static str) -> Vec<Option<Bytes>> {
    vec![Some(Bytes::from_static(value.as_bytes())); 4]
}

/// A server with 100 records processed before a deploy, 60 after it, and state that has changed with it.
async fn deployed() -> (Server, Digest, u64) {
    deployed_at(Clock::system()).await
}

async fn deployed_at(clock: Clock) -> (Server, Digest, u64) {
    let server = Server::start_at(clock).await;
    let old = server
        .upload("p", &Guest::passthrough())
        .await
        .version
        .digest;
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    server.send(0..100).await;
    server.wait_until_idle().await;
    put_state(&server, "before").await;
    let new = server.upload("p", &passthrough_too()).await.version.digest;
    let plugin = p();
    let deploy = server.deployments.deploy(&plugin, &new, Mode::All, None);
    let id = deploy.await.unwrap().id;
    put_state(&server, "after").await;
    server.send(100..160).await;
    server.wait_until_idle().await;
    assert_eq!((state(&server), timer_count(&server)), (of("after"), 2));
    (server, old, id)
}

async fn is_as_before(server: &Server, old: &Digest) {
    server.wait_until_idle().await;
    assert_eq!((state(server), timer_count(server)), (of("before"), 1));
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    assert_eq!(server.deployments.plugin(&p()).unwrap().current, *old);
    // What came since the deploy was processed again, once.
    let count: usize = server.values("out").iter().map(Vec::len).sum();
    assert_eq!(count, 160 + 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_and_positions_are_those_of_the_deploy() {
    let (server, old, id) = deployed().await;
    let deploy = server.deployments.rollback_with_state(&p(), None).await;
    let deploy = deploy.unwrap();
    assert_eq!(deploy.mode, Mode::Rollback { restores: Some(id) });
    let Some(Report::Unsent { outputs, missing }) = &deploy.report else {
        panic!("{deploy:?}");
    };
    assert!(missing.is_empty(), "{missing:?}");
    let unsent: Vec<_> = outputs
        .iter()
        .map(|it| (it.target.to_string(), it.records))
        .collect();
    assert_eq!(unsent, [("topic:out".to_owned(), 60)]);
    is_as_before(&server, &old).await;
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    is_as_before(&server, &old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_that_was_cut_off_is_made_whole_at_the_next_start() {
    let (server, old, id) = deployed().await;
    // As far as a process comes that is killed between two commits.
    server.deployments.pipelines().suspend(&pipeline("a")).await;
    let mode = Mode::Rollback { restores: Some(id) };
    let begun = server
        .deployments
        .begin(&p(), old.clone(), mode, None)
        .await;
    let mut deploy = begun.unwrap();
    deploy.is_restoring = true;
    let mut commit = Commit::new();
    commit.forget_pipeline(0);
    records::put_deploy(&mut commit, &deploy).unwrap();
    server.log.store().commit(commit).await.unwrap();
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    is_as_before(&server, &old).await;
    let ended = server.deployments.deploy_of(deploy.id).unwrap();
    assert_eq!(ended.outcome, Outcome::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_checkpoint_a_deploy_is_not_undone() {
    let (server, _, _) = deployed().await;
    // Others push it out.
    for turn in 0..3 {
        let guest = Guest::new(&format!(
            "{} (call $pass (local.get $batch))",
            "(nop)".repeat(turn + 2)
        ));
        let digest = server.upload("p", &guest).await.version.digest;
        let plugin = p();
        let deploy = server.deployments.deploy(&plugin, &digest, Mode::All, None);
        deploy.await.unwrap();
    }
    let folder = server.log.store().path().join("checkpoints");
    let kept = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(kept, 3);
    std::fs::remove_dir_all(folder).unwrap();
    let error = server.deployments.rollback_with_state(&p(), None).await;
    assert!(
        matches!(error, Err(Error::NoCheckpoint { .. })),
        "{error:?}"
    );
    // Without state it is.
    server.deployments.rollback(&p(), None).await.unwrap();
    assert_eq!(state(&server), of("after"));
}

/// Nothing lets the pipeline run on state that is half put back.
async fn is_held_back(server: &Server, new: &Digest, id: u64) {
    let unfinished = |result: Result<(), Error>| match result {
        Err(Error::RollbackUnfinished { id: found, .. }) => assert_eq!(found, id),
        other => panic!("{other:?}"),
    };
    let deployments = &server.deployments;
    unfinished(deployments.resume(&pipeline("a")).await);
    let applied = deployments.apply(&manifest("m", "a", ""), None).await;
    unfinished(applied.map(drop));
    let deployed = deployments.deploy(&p(), new, Mode::All, None).await;
    unfinished(deployed.map(drop));
    unfinished(deployments.rollback(&p(), None).await.map(drop));
    let status = deployments.pipelines().status_of(&pipeline("a")).unwrap();
    assert_ne!(status.state, PipelineState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_that_fails_midway_has_to_be_run_again() {
    let (server, old, id) = deployed().await;
    let new = server.deployments.plugin(&p()).unwrap().current;
    // As far as a process comes that is killed between two commits; and then the checkpoint cannot be read.
    server.deployments.pipelines().suspend(&pipeline("a")).await;
    let mode = Mode::Rollback { restores: Some(id) };
    let plugin = p();
    let begun = server.deployments.begin(&plugin, old.clone(), mode, None);
    let mut deploy = begun.await.unwrap();
    deploy.is_restoring = true;
    let mut commit = Commit::new();
    commit.forget_pipeline(0);
    records::put_deploy(&mut commit, &deploy).unwrap();
    server.log.store().commit(commit).await.unwrap();
    let checkpoint = server
        .log
        .store()
        .path()
        .join("checkpoints")
        .join(id.to_string());
    let aside = server.log.store().path().join("aside");
    std::fs::rename(&checkpoint, &aside).unwrap();
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    is_held_back(&server, &new, deploy.id).await;
    let failed = server.deployments.deploy_of(deploy.id).unwrap();
    assert_eq!(failed.outcome, Outcome::Failed);
    let again = server.deployments.rollback_with_state(&p(), None).await;
    assert!(
        matches!(again, Err(Error::NoCheckpoint { .. })),
        "{again:?}"
    );

    // Also after another restart.
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    is_held_back(&server, &new, deploy.id).await;
    std::fs::rename(&aside, &checkpoint).unwrap();
    let again = server.deployments.rollback_with_state(&p(), None).await;
    assert_eq!(again.unwrap().outcome, Outcome::Succeeded);
    is_as_before(&server, &old).await;
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    is_as_before(&server, &old).await;
    server.deployments.resume(&pipeline("a")).await.unwrap();
}

/// A rollback of plugin `p` that has begun to put the state of a deploy back, and has got no further.
pub(super) async fn half_restored(server: &Server, old: &Digest, id: u64) -> u64 {
    let mode = Mode::Rollback { restores: Some(id) };
    let plugin = p();
    let begun = server.deployments.begin(&plugin, old.clone(), mode, None);
    let mut deploy = begun.await.unwrap();
    deploy.is_restoring = true;
    let mut commit = Commit::new();
    records::put_deploy(&mut commit, &deploy).unwrap();
    server.log.store().commit(commit).await.unwrap();
    deploy.id
}

/// As long as a rollback is not done, deploys of other plugins push neither its checkpoint out nor its record.
///
/// Fails when either of them goes by its age alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_unfinished_rollback_needs_is_kept() {
    let (server, old, id) = deployed().await;
    let unfinished = half_restored(&server, &old, id).await;
    let other: PluginName = "q".parse().unwrap();
    server.upload("q", &Guest::passthrough()).await;
    let text = manifest("n", "b", "");
    let text = text
        .replace("plugins.p", "plugins.q")
        .replace("\"p\"", "\"q\"");
    server.deployments.apply(&text, None).await.unwrap();
    for turn in 0..5 {
        let nops = "(nop)".repeat(turn + 2);
        let guest = Guest::new(&format!("{nops} (call $pass (local.get $batch))"));
        let digest = server.upload("q", &guest).await.version.digest;
        let deploy = server.deployments.deploy(&other, &digest, Mode::All, None);
        deploy.await.unwrap();
    }
    let folder = server.log.store().path().join("checkpoints");
    let kept = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!((kept, folder.join(id.to_string()).is_dir()), (4, true));

    let store = server.log.store();
    let old_deploy_goes = async |deploy: u64| {
        let mut commit = Commit::new();
        records::drop_old_deploys(store, &mut commit, deploy + 1_000).unwrap();
        store.commit(commit).await.unwrap();
        records::deploy(store, deploy).unwrap().is_none()
    };
    let others = server.deployments.deploys().unwrap().into_iter();
    let of_other = others.map(|it| it.id).find(|other| *other > unfinished);
    assert!(old_deploy_goes(of_other.unwrap()).await);
    assert!(!old_deploy_goes(unfinished).await && !old_deploy_goes(id).await);
    let again = server.deployments.rollback_with_state(&p(), None).await;
    assert_eq!(again.unwrap().outcome, Outcome::Succeeded);
    assert_eq!(state(&server), of("before"));
    assert!(old_deploy_goes(unfinished).await && old_deploy_goes(id).await);
}

/// A backup would be of half of the state, and without the checkpoint that has the other half.
///
/// Fails when nobody looks at what was copied, and when it is the store that is looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_taken_during_a_rollback_is_not_whole() {
    let (server, old, id) = deployed().await;
    let store = server.log.store();
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let path = folder.path().join(name);
        store.checkpoint(&path).unwrap();
        ReadOnlyStore::open_checkpoint(&path).unwrap()
    };
    let before = copy("before");
    let unfinished = half_restored(&server, &old, id).await;
    let during = copy("during");
    let check = |copied: &ReadOnlyStore| check_copy_whole(store, copied, store.path());
    for checked in [check_whole(store), check(&during)] {
        assert!(
            matches!(checked, Err(Error::RollbackUnderWay { id, .. }) if id == unfinished),
            "{checked:?}"
        );
    }
    check(&before).unwrap();
    let again = server.deployments.rollback_with_state(&p(), None).await;
    assert_eq!(again.unwrap().outcome, Outcome::Succeeded);
    check_whole(store).unwrap();
    check(&copy("after")).unwrap();
    check(&during).unwrap_err();
}

/// A version that is deleted while a backup is taken may be in the copied store alone.
///
/// Fails when components are not looked for, and when those are missed that the data directory has lost itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_a_component_that_was_deleted_meanwhile_is_not_whole() {
    let (server, ..) = deployed().await;
    let store = server.log.store();
    let folder = tempfile::tempdir().unwrap();
    let copy_of_components = tempfile::tempdir().unwrap();
    let (from, to) = [store.path(), copy_of_components.path()]
        .map(|folder| folder.join(layout::PLUGINS))
        .into();
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("checkpoint");
    store.checkpoint(&path).unwrap();
    let copied = ReadOnlyStore::open_checkpoint(&path).unwrap();
    check_copy_whole(store, &copied, store.path()).unwrap();
    // The copy has no component, and the store still names them: they may be lost.
    check_copy_whole(store, &copied, folder.path()).unwrap();
    server.deployments.delete_manifest("m").await.unwrap();
    server.deployments.delete_plugin(&p()).await.unwrap();
    let error = check_copy_whole(store, &copied, folder.path()).unwrap_err();
    assert!(
        matches!(&error, Error::DeletedMeanwhile { name, .. } if *name == p()),
        "{error}"
    );
    // With its components it would be whole.
    check_copy_whole(store, &copied, copy_of_components.path()).unwrap();
}

/// What a plugin needs that reads the clock.
const CLOCK: &str = "allow = { clocks = true }";

/// Two pipelines go back to a version that one of them does not allow any more: the other one runs, and the error says
/// which does not.
///
/// Fails when the first one that does not start keeps the others from it, and when the error does not name it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelines_that_a_rollback_cannot_start_again_are_named() {
    let server = Server::start().await;
    let clock = "wasi:clocks/monotonic-clock@0.2.6";
    let reads = Guest::passthrough().import(clock, "now", "(result u64)", "(result i64)");
    let old = server.upload("p", &reads).await.version.digest;
    for name in ["a", "b", "c"] {
        let text = manifest(name, name, CLOCK);
        server.deployments.apply(&text, None).await.unwrap();
    }
    server.send(0..100).await;
    server.wait_until_idle().await;
    let new = server.upload("p", &Guest::passthrough()).await;
    let digest = new.version.digest;
    let (deployments, plugin) = (&server.deployments, p());
    let deploy = deployments.deploy(&plugin, &digest, Mode::All, None);
    deploy.await.unwrap();
    for name in ["a", "c"] {
        let text = manifest(name, name, "");
        deployments.apply(&text, None).await.unwrap();
    }
    let error = deployments.rollback_with_state(&plugin, None).await;
    let Err(Error::NotStartedAgain { pipelines, .. }) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(pipelines, &[pipeline("a"), pipeline("c")]);
    let text = error.unwrap_err().to_string();
    assert!(text.contains("the pipelines `a`, `c`"), "{text}");
    assert!(text.contains("clocks = true"), "{text}");
    let state = |name| {
        let status = deployments.pipelines().status_of(&pipeline(name));
        status.unwrap().state
    };
    assert_eq!(state("b"), PipelineState::Running);
    assert_eq!(server.task_digests("b"), vec![old; 4]);
    assert_ne!(state("a"), PipelineState::Running);
    assert_ne!(state("c"), PipelineState::Running);
    // Allowed again, they go on.
    let text = manifest("a", "a", CLOCK);
    deployments.apply(&text, None).await.unwrap();
    deployments.resume(&pipeline("a")).await.unwrap();
    server.wait_until_idle().await;
    assert_eq!(state("a"), PipelineState::Running);
}

/// Fails when only the outputs are looked at that a pipeline has now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_that_a_pipeline_has_no_more_is_reported() {
    let (server, ..) = deployed().await;
    let text = manifest("m", "a", "");
    let text = text.replace("topics.out]", "topics.other]");
    let text = text.replace("topic:out", "topic:other");
    server.deployments.apply(&text, None).await.unwrap();
    let deploy = server.deployments.rollback_with_state(&p(), None).await;
    let Some(Report::Unsent { outputs, .. }) = deploy.unwrap().report else {
        panic!("no report");
    };
    let out = Unsent {
        target: "topic:out".parse().unwrap(),
        records: 60,
    };
    assert_eq!(outputs, [out]);
}

/// Records that a return would process again may have been deleted since.
///
/// Fails when nobody looks where the topic starts by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_has_deleted_since_is_reported() {
    let (server, ..) = deployed().await;
    let topic = server.log.topic(&"in".parse().unwrap()).unwrap();
    let partition = topic.partition(2).unwrap();
    let end = partition.high_watermark();
    let mut commit = Commit::new();
    commit.trim_partition(partition, end, partition.size_bytes());
    server.log.store().commit(commit).await.unwrap();
    let deploy = server.deployments.rollback_with_state(&p(), None).await;
    let deploy = deploy.unwrap();
    let Some(Report::Unsent { missing, .. }) = &deploy.report else {
        panic!("{deploy:?}");
    };
    let [missing] = missing.as_slice() else {
        panic!("{missing:?}");
    };
    let place = (missing.pipeline.as_str(), missing.topic.as_str());
    assert_eq!((place, missing.partition), (("a", "in"), 2));
    assert!(
        missing.from_offset > 0 && missing.from_offset < end && missing.to_offset == end,
        "{missing:?}"
    );
}

/// The numbers of the deploys of which there is a checkpoint.
fn checkpoints(server: &Server) -> Vec<u64> {
    let folder = server.log.store().path().join(layout::CHECKPOINTS);
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    // One that is being deleted has another name already.
    let ids = names.filter_map(|name| name.to_str()?.parse().ok());
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    ids
}

/// Nobody goes back to a deploy of which nothing has come.
///
/// Fails when its checkpoint stays, and when it has pushed out another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_has_failed_leaves_no_checkpoint_and_pushes_none_out() {
    let (server, _, id) = deployed().await;
    let (deployments, plugin) = (&server.deployments, p());
    for turn in 0..2 {
        let nops = "(nop)".repeat(turn + 2);
        let guest = Guest::new(&format!("{nops} (call $pass (local.get $batch))"));
        let digest = server.upload("p", &guest).await.version.digest;
        let deploy = deployments.deploy(&plugin, &digest, Mode::All, None);
        deploy.await.unwrap();
    }
    let good = [id, id + 1, id + 2];
    assert_eq!(checkpoints(&server), good);
    // The same again changes nothing.
    let current = deployments.plugin(&plugin).unwrap().current;
    for _ in 0..3 {
        let again = deployments.deploy(&plugin, &current, Mode::All, None);
        assert_eq!(again.await.unwrap().outcome, Outcome::Succeeded);
    }
    assert_eq!(checkpoints(&server), good);
    let canary = Mode::Canary {
        partitions: vec![0],
        duration_ms: 1,
    };
    let nothing_to_try = deployments.deploy(&plugin, &current, canary, None).await;
    assert!(
        matches!(nothing_to_try, Err(Error::IsCurrent { .. })),
        "{nothing_to_try:?}"
    );
    let refuses = passthrough_too().open("(call $error)");
    let refuses = server.upload("p", &refuses).await.version.digest;
    let deploy = deployments.deploy(&plugin, &refuses, Mode::All, None);
    deploy.await.unwrap_err();
    assert_eq!(checkpoints(&server), good);

    let nops = Guest::new("(nop) (nop) (nop) (nop) (nop) (call $pass (local.get $batch))");
    let digest = server.upload("p", &nops).await.version.digest;
    let canary = Mode::Canary {
        partitions: vec![0],
        duration_ms: TIMEOUT.as_millis().try_into().unwrap(),
    };
    let deploy = deployments.deploy(&plugin, &digest, canary, None);
    let canary = deploy.await.unwrap().id;
    assert_eq!(checkpoints(&server), [&good[..], &[canary]].concat());
    deployments.stop_deploy(canary).await.unwrap();
    // It goes a moment after it is known how the deploy has ended.
    let started = std::time::Instant::now();
    while checkpoints(&server) != good && started.elapsed() < TIMEOUT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(checkpoints(&server), good);
}

/// A checkpoint holds on to disk space whether or not there is another deploy.
///
/// Fails when nobody looks how old it is, and when that of a deploy goes that has not ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checkpoint_of_an_old_deploy_goes() {
    const DAY: Duration = Duration::from_secs(86_400);
    let clock = Clock::manual(1_700_000_000_000);
    let (server, _, id) = deployed_at(clock.clone()).await;
    let deployments = &server.deployments;
    let pass_days = |days: u32| clock.advance_ms((DAY * days).as_millis() as u64);
    pass_days(6);
    let dropped = deployments.drop_old_checkpoints(DAY * 7).await;
    assert_eq!(dropped.unwrap(), Vec::<u64>::new());
    assert_eq!(checkpoints(&server), [id]);
    let nops = Guest::new("(nop) (nop) (call $pass (local.get $batch))");
    let digest = server.upload("p", &nops).await.version.digest;
    let canary = Mode::Canary {
        partitions: vec![0],
        duration_ms: TIMEOUT.as_millis().try_into().unwrap(),
    };
    let canary = deployments.deploy(&p(), &digest, canary, None).await;
    let canary = canary.unwrap().id;
    pass_days(8);
    let dropped = deployments.drop_old_checkpoints(DAY * 7).await;
    assert_eq!(dropped.unwrap(), [id]);
    assert_eq!(checkpoints(&server), [canary]);
    deployments.stop_deploy(canary).await.unwrap();
    let error = deployments.rollback_with_state(&p(), None).await;
    assert!(
        matches!(error, Err(Error::NoCheckpoint { .. })),
        "{error:?}"
    );
}
