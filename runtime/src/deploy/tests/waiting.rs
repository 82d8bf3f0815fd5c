//! Canaries and shadows that are asked for while no server runs.

use super::trials::{canary, send_few_during, server};
use super::*;
use crate::pipeline;

/// Longer than it takes to see that a trial runs, on a machine that is busy.
const TRIAL: Duration = Duration::from_secs(5);

fn shadow(duration: Duration) -> Mode {
    Mode::Shadow {
        duration_ms: duration.as_millis().try_into().unwrap(),
    }
}

/// Without a server: a pipeline `a`, and a trial that waits. Returns the old version and the new one, too.
async fn waiting(guest: &Guest, mode: Mode) -> (Server, u64, Digest, Digest) {
    let (server, old, new) = server("", guest).await;
    let server = server.go_offline().await;
    let by = Some("ann".to_owned());
    let deploy = server.deployments.deploy(&p(), &new, mode, by).await;
    let deploy = deploy.unwrap();
    assert_eq!(deploy.outcome, Outcome::Waiting, "{deploy:?}");
    assert_eq!(deploy.ended_at_ms, None);
    (server, deploy.id, old, new)
}

fn outcome(server: &Server, id: u64) -> Outcome {
    server.deployments.deploy_of(id).unwrap().outcome
}

/// A server begins what waits.
async fn serve(server: Server) -> Server {
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    server.deployments.begin_waiting().await;
    server
}

async fn assert_is_under_way(server: &Server, old: &Digest, new: &Digest) {
    let deployments = &server.deployments;
    let text = manifest("m", "a", "");
    let refused = [
        deployments.deploy(&p(), new, Mode::All, None).await.err(),
        deployments
            .deploy(&p(), old, shadow(TRIAL), None)
            .await
            .err(),
        deployments.rollback(&p(), None).await.err(),
        deployments.rollback_with_state(&p(), None).await.err(),
        deployments.apply(&text, None).await.err(),
        deployments.delete_plugin(&p()).await.err(),
    ];
    for (at, error) in refused.into_iter().enumerate() {
        let is_expected = match at {
            // There is nothing to go back to, whatever waits.
            2 | 3 => error.is_some(),
            _ => matches!(error, Some(Error::Waiting { .. })),
        };
        assert!(is_expected, "{at}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_waits_begins_with_the_next_server() {
    let mode = canary(&[1], TRIAL);
    let (server, id, old, new) = waiting(&passthrough_too(), mode).await;
    assert_is_under_way(&server, &old, &new).await;
    // Neither another command nor a server that starts ends it.
    let server = server.go_offline().await;
    assert_is_under_way(&server, &old, &new).await;
    let kept = records::versions_under_way(server.log.store(), &p()).unwrap();
    assert_eq!(kept, std::slice::from_ref(&new));
    let asked_at_ms = server.deployments.deploy_of(id).unwrap().started_at_ms;
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    assert_eq!(outcome(&server, id), Outcome::Waiting);
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);

    server.deployments.begin_waiting().await;
    assert_eq!(outcome(&server, id), Outcome::Running);
    assert!(server.deployments.shared.checkpoints.has(id));
    let busy = server.deployments.deploy(&p(), &new, Mode::All, None).await;
    assert!(matches!(busy, Err(Error::UnderWay { .. })), "{busy:?}");
    let deploy = send_few_during(&server, id).await;
    assert_eq!(deploy.outcome, Outcome::Succeeded, "{deploy:?}");
    assert_eq!(deploy.by.as_deref(), Some("ann"));
    assert!(deploy.started_at_ms > asked_at_ms);
    let took_ms = deploy.ended_at_ms.unwrap() - deploy.started_at_ms;
    assert!(u128::from(took_ms) >= TRIAL.as_millis(), "{took_ms} ms");
    assert_eq!(server.task_digests("a"), vec![new.clone(); 4]);
    server.wait_until_idle().await;
    assert_eq!(server.values("out"), server.values("in"));
    server.deployments.rollback(&p(), None).await.unwrap();
    assert_eq!(server.task_digests("a"), vec![old; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_that_waits_begins_with_the_next_server() {
    let (server, id, old, _) = waiting(&passthrough_too(), shadow(TRIAL)).await;
    let server = serve(server).await;
    assert_eq!(outcome(&server, id), Outcome::Running);
    let deploy = send_few_during(&server, id).await;
    assert_eq!(deploy.outcome, Outcome::Observed, "{deploy:?}");
    let Some(Report::Shadow { pipelines }) = deploy.report else {
        panic!("{deploy:?}");
    };
    assert!(pipelines[0].records > 0, "{pipelines:?}");
    assert_eq!(server.task_digests("a"), vec![old; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_withdrawn() {
    let mode = canary(&[1], TIMEOUT);
    let (server, id, old, new) = waiting(&passthrough_too(), mode.clone()).await;
    let withdrawn = server.deployments.stop_deploy(id).await.unwrap();
    assert_eq!(withdrawn.outcome, Outcome::Withdrawn);
    assert!(withdrawn.ended_at_ms.is_some() && withdrawn.reason.is_some());
    // Once more changes nothing.
    let again = server.deployments.stop_deploy(id).await.unwrap();
    assert_eq!(again, withdrawn);
    assert!(matches!(
        server.deployments.stop_deploy(999).await,
        Err(Error::UnknownDeploy { id: 999 })
    ));
    let name = p();
    let again = server.deployments.deploy(&name, &new, mode.clone(), None);
    let second = again.await.unwrap().id;
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    // On a server that has not begun it yet.
    let withdrawn = server.deployments.stop_deploy(second).await.unwrap();
    assert_eq!(withdrawn.outcome, Outcome::Withdrawn);
    server.deployments.begin_waiting().await;
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);

    let server = server.go_offline().await;
    let again = server.deployments.deploy(&name, &new, mode, None);
    let third = again.await.unwrap().id;
    // One that goes down begins nothing.
    let server = server.restart().await;
    server.deployments.restore().await.unwrap();
    let is_stopping = &server.deployments.shared.is_stopping;
    is_stopping.store(true, Ordering::Release);
    server.deployments.begin_waiting().await;
    assert_eq!(outcome(&server, third), Outcome::Waiting);
    // Once it is under way it is stopped as any other.
    let server = serve(server).await;
    let stopped = server.deployments.stop_deploy(third).await.unwrap();
    assert_eq!(stopped.outcome, Outcome::RolledBack);
    assert_eq!(server.task_digests("a"), vec![old; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_begin_is_not_waited_for() {
    let clock = "wasi:clocks/monotonic-clock@0.2.6";
    let reads = Guest::passthrough().import(clock, "now", "(result u64)", "(result i64)");
    let (server, _, new) = server("", &reads).await;
    let server = server.go_offline().await;
    let nowhere = server
        .deployments
        .deploy(&p(), &new, canary(&[4], TRIAL), None)
        .await;
    assert!(
        matches!(nowhere, Err(Error::NoCanaryPartition { .. })),
        "{nowhere:?}"
    );
    for mode in [canary(&[1], TRIAL), shadow(TRIAL)] {
        let misfit = server.deployments.deploy(&p(), &new, mode, None).await;
        assert!(
            matches!(misfit, Err(Error::DeployFailed { .. })),
            "{misfit:?}"
        );
    }
    let deploys = server.deployments.deploys().unwrap();
    let outcomes: Vec<_> = deploys.iter().take(3).map(|it| it.outcome).collect();
    assert_eq!(outcomes, [Outcome::Failed; 3]);
    server
        .deployments
        .delete_pipeline(&super::pipeline("a"), false)
        .await
        .unwrap();
    let unused = server
        .deployments
        .deploy(&p(), &new, shadow(TRIAL), None)
        .await;
    assert!(matches!(unused, Err(Error::NotUsed { .. })), "{unused:?}");
}

/// The server that was to begin it starts normally, and its record says why it could not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_begin_has_failed() {
    let mode = canary(&[1], TRIAL);
    let never_opens = passthrough_too().open("unreachable");
    let (server, id, old, _) = waiting(&never_opens, mode.clone()).await;
    let server = serve(server).await;
    let failed = server.deployments.deploy_of(id).unwrap();
    assert_eq!(failed.outcome, Outcome::Failed, "{failed:?}");
    assert_eq!(server.task_digests("a"), vec![old; 4]);
    server.send(0..50).await;
    server.wait_until_idle().await;
    assert_eq!(server.values("out"), server.values("in"));

    // Its pipeline went away meanwhile.
    for mode in [mode.clone(), shadow(TRIAL)] {
        let (server, id, ..) = waiting(&passthrough_too(), mode).await;
        let a = super::pipeline("a");
        server.deployments.delete_pipeline(&a, false).await.unwrap();
        let server = serve(server).await;
        let failed = server.deployments.deploy_of(id).unwrap();
        assert_eq!(failed.outcome, Outcome::Failed, "{failed:?}");
        let reason = failed.reason.unwrap();
        assert!(reason.contains("no pipeline"), "{reason}");
    }

    // Signatures were not required when it was asked for.
    let (server, id, ..) = waiting(&passthrough_too(), mode).await;
    let rules = SignatureRules {
        required: true,
        ..SignatureRules::default()
    };
    let server = server.restart_with(rules).await;
    server.deployments.restore().await.unwrap();
    server.deployments.begin_waiting().await;
    let failed = server.deployments.deploy_of(id).unwrap();
    assert_eq!(failed.outcome, Outcome::Failed, "{failed:?}");
    let reason = failed.reason.unwrap();
    assert!(reason.contains("is not signed"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_of_what_waits_is_kept() {
    let mode = canary(&[1], TIMEOUT);
    let (server, id, ..) = waiting(&passthrough_too(), mode).await;
    let store = server.log.store();
    let push_out = async || {
        let mut commit = Commit::new();
        records::drop_old_deploys(store, &mut commit, id + 1_000).unwrap();
        store.commit(commit).await.unwrap();
    };
    push_out().await;
    assert_eq!(outcome(&server, id), Outcome::Waiting);
    server.deployments.stop_deploy(id).await.unwrap();
    push_out().await;
    let gone = server.deployments.deploy_of(id);
    assert!(matches!(gone, Err(Error::UnknownDeploy { .. })), "{gone:?}");
}

/// It had begun when the server had ended what was under way, and not yet when it looked for that.
///
/// Fails when the record is left to the next start, which can only say that it was interrupted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_begins_while_the_server_goes_down_is_taken_back() {
    let (server, _, new) = server("", &passthrough_too()).await;
    let deployments = &server.deployments;
    let held = deployments.hold().await;
    let stopping = deployments.clone();
    let stopping = tokio::spawn(async move { stopping.stop().await });
    while !deployments.shared.is_stopping.load(Ordering::Acquire) {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (name, mode) = (p(), canary(&[1], TIMEOUT));
    let begun = deployments.begin(&name, new, mode, None);
    let begun = deployments.carry_out(begun.await.unwrap()).await.unwrap();
    drop(held);
    stopping.await.unwrap();
    assert_eq!(outcome(&server, begun.id), Outcome::RolledBack);
}

/// As the supervisor has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_of_a_pipeline_are_known_where_none_runs() {
    let (server, ..) = server("", &passthrough_too()).await;
    let users = server.deployments.pipelines().plugin_users(&p());
    assert_eq!(pipeline::task_count(&users[0], &server.log), 4);
    assert_eq!(server.task_digests("a").len(), 4);
}
