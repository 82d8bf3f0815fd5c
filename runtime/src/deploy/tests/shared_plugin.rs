//! Plugins that pipelines of several manifests use.

use super::*;

/// A server on which the pipeline of manifest `m`, and that of `n` if it is asked for, use plugin `p`. Returns the current
/// version, and another one.
async fn shared_by(manifests: &[(&str, &str)]) -> (Server, Digest, Digest) {
    let server = Server::start().await;
    let old = server.upload("p", &Guest::passthrough()).await;
    for (name, pipeline) in manifests {
        let text = manifest(name, pipeline, "");
        server.deployments.apply(&text, None).await.unwrap();
    }
    let new = server.upload("p", &passthrough_too()).await;
    (server, old.version.digest, new.version.digest)
}

/// What is said where it is refused for `of`.
#[track_caller]
fn assert_refused(server: &Server, of: &str, digest: &Digest, expected: &[&str]) {
    let error = server.deployments.check_for_manifest(of, &p(), digest);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::PluginOfOthers { .. }), "{error}");
    let text = error.to_string();
    for part in expected {
        assert!(text.contains(part), "{text}");
    }
}

/// Fails when the pipelines of others do not count, and when those count that are not applied any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_deployed_for_a_manifest_if_no_other_one_gets_it() {
    let (server, old, new) = shared_by(&[("m", "a"), ("n", "b")]).await;
    let p = p();
    let free = |server: &Server, of: &str, digest: &Digest| {
        let checked = server.deployments.check_for_manifest(of, &p, digest);
        checked.unwrap();
    };
    let expected = [
        "manifest `n` has another version of plugin `p`",
        "pipeline `a` of manifest `m`",
        "another name",
        "`millstream plugin upload p FILE.wasm --deploy`",
    ];
    assert_refused(&server, "n", &new, &expected);
    assert_refused(&server, "m", &new, &["pipeline `b` of manifest `n`"]);
    let both = "pipeline `a` of manifest `m` and pipeline `b` of manifest `n`";
    assert_refused(&server, "new", &new, &[both]);
    // The same bytes are no other version.
    free(&server, "n", &old);
    let unknown = "q".parse().unwrap();
    let checked = server.deployments.check_for_manifest("n", &unknown, &new);
    checked.unwrap();

    let deploying = server
        .deployments
        .deploy_for_manifest("n", &p, &new, Mode::All, None);
    let error = deploying.await.unwrap_err();
    assert!(matches!(error, Error::PluginOfOthers { .. }), "{error}");
    assert_eq!(server.task_digests("a"), vec![old.clone(); 4]);
    assert_eq!(server.deployments.deploys().unwrap().len(), 1);

    // Nothing runs yet.
    let server = server.restart().await;
    assert_refused(&server, "n", &new, &["pipeline `a` of manifest `m`"]);
    server.deployments.restore().await.unwrap();
    let a = pipeline("a");
    server.deployments.pause(&a).await.unwrap();
    assert_refused(&server, "n", &new, &["pipeline `a` of manifest `m`"]);
    let deleted = server.deployments.delete_pipeline(&a, false);
    deleted.await.unwrap();
    free(&server, "n", &new);
    let deploying = server
        .deployments
        .deploy_for_manifest("n", &p, &new, Mode::All, None);
    assert_eq!(deploying.await.unwrap().outcome, Outcome::Succeeded);
    assert_eq!(server.task_digests("b"), vec![new.clone(); 4]);
    // Whoever means all of them says so.
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    let deploying = server.deployments.deploy(&p, &old, Mode::All, None);
    deploying.await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(server.task_digests(name), vec![old.clone(); 4]);
    }
}
