//! Going back with state and positions.

use super::*;
use crate::storage::Commit;
use crate::storage::schema::{KeyKind, state as state_key};

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
    let server = Server::start().await;
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
    let Some(Report::Unsent { outputs }) = &deploy.report else {
        panic!("{deploy:?}");
    };
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
