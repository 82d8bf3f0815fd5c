//! Topics and queues that applied pipelines use.

use super::*;
use crate::deploy::records::{self, AppliedManifest};
use crate::model::Target;

fn used_by(server: &Server, target: &str) -> Result<(), Error> {
    let target: Target = target.parse().unwrap();
    check_unused(server.log.store(), &target)
}

#[track_caller]
fn assert_in_use(server: &Server, target: &str, expected: &str) {
    let error = used_by(server, target).unwrap_err();
    assert!(matches!(error, Error::TargetInUse { .. }), "{error}");
    let (kind, name) = target.split_once(':').unwrap();
    let expected = format!("{kind} `{name}` is used by {expected}");
    assert!(error.to_string().starts_with(&expected), "{error}");
}

/// Fails when only those count that run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_applied_is_in_use_until_its_pipeline_is_deleted() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    used_by(&server, "topic:in").unwrap();
    for (name, pipeline) in [("m", "a"), ("n", "b")] {
        let text = manifest(name, pipeline, "");
        server.deployments.apply(&text, None).await.unwrap();
    }
    let both = "pipeline `a` (input) and pipeline `b` (input); delete these pipelines first (`millstream pipeline delete a`, `millstream pipeline delete b`)";
    assert_in_use(&server, "topic:in", both);
    assert_in_use(
        &server,
        "queue:a.dead-letters",
        "pipeline `a` (dead letters)",
    );
    used_by(&server, "topic:a.dead-letters").unwrap();
    server.deployments.pause(&pipeline("a")).await.unwrap();
    assert_in_use(&server, "topic:in", both);
    // Nothing is started yet.
    let server = server.restart().await;
    assert_in_use(&server, "topic:in", both);
    server.deployments.restore().await.unwrap();
    let a = pipeline("a");
    let deleted = server.deployments.delete_pipeline(&a, false);
    deleted.await.unwrap();
    used_by(&server, "queue:a.dead-letters").unwrap();
    let output = "pipeline `b` (output `default`);";
    assert_in_use(&server, "topic:out", output);
    server.deployments.delete_manifest("n").await.unwrap();
    used_by(&server, "topic:out").unwrap();
}

/// Fails when a pipeline counts that was taken out of its manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_was_deleted_uses_nothing_while_its_manifest_is_kept() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    let two = manifest("m", "a", "") + "[pipelines.b]\nfrom = \"topic:in\"\nplugin = \"p\"\n";
    server.deployments.apply(&two, None).await.unwrap();
    let a = pipeline("a");
    let deleted = server.deployments.delete_pipeline(&a, true);
    deleted.await.unwrap();
    used_by(&server, "topic:out").unwrap();
    assert_in_use(&server, "topic:in", "pipeline `b` (input);");
}

/// Fails when such a manifest counts as one that uses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_cannot_be_read_may_use_anything() {
    let server = Server::start().await;
    let mut commit = Commit::new();
    let applied = AppliedManifest {
        text: "name = \"old\"\nno-longer-known = 1\n".to_owned(),
        applied_at_ms: 0,
        applied_by: None,
        paused: Vec::new(),
        removed: Vec::new(),
    };
    records::put_manifest(&mut commit, "old", &applied).unwrap();
    server.log.store().commit(commit).await.unwrap();
    let error = used_by(&server, "topic:in").unwrap_err();
    assert!(matches!(error, Error::UnknownUse { .. }), "{error}");
    let text = error.to_string();
    for part in ["topic `in` may be in use", "`old`", "no-longer-known"] {
        assert!(text.contains(part), "{text}");
    }
    server.deployments.delete_manifest("old").await.unwrap();
    used_by(&server, "topic:in").unwrap();
}
