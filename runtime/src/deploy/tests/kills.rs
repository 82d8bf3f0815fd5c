//! A server that is killed while plugins are uploaded and deployed.

use std::path::Path;

use super::*;
use crate::storage::tests::support::{alone, alone_argument};

const ROUNDS: usize = 8;

/// Uploads, applies, deploys and rolls back, while records flow, until it is killed.
async fn deploy_for_ever(path: &Path) {
    let server = Server::open_at(path).await;
    server.deployments.restore().await.unwrap();
    let guests = [Guest::passthrough(), passthrough_too()];
    server.upload("p", &guests[0]).await;
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    let sends = async {
        for number in 0u64.. {
            server.send(number * 50..number * 50 + 50).await;
        }
    };
    let deploys = async {
        for turn in 0.. {
            let plugin = p();
            // Others may have pushed it out.
            let to = server.upload("p", &guests[turn % 2]).await.version.digest;
            let deployed = server.deployments.deploy(&plugin, &to, Mode::All, None);
            deployed.await.unwrap();
            // Another one each time, so that files come and go.
            let nops = "(nop)".repeat(2 + turn % 40);
            let guest = Guest::new(&format!("{nops} (call $pass (local.get $batch))"));
            let again = server.upload("p", &guest).await.version.digest;
            if turn % 5 == 4 {
                let deployed = server.deployments.deploy(&plugin, &again, Mode::All, None);
                deployed.await.unwrap();
                server.deployments.rollback(&plugin, None).await.unwrap();
            }
        }
    };
    tokio::join!(sends, deploys);
}

/// What must be so after a kill.
async fn check(path: &Path) {
    let server = Server::open_at(path).await;
    let not_restored = server.deployments.restore().await.unwrap();
    assert!(not_restored.is_empty(), "{not_restored:?}");
    let deploys = server.deployments.deploys().unwrap();
    assert!(deploys.iter().all(|it| it.outcome != Outcome::Running));
    if let Ok(plugin) = server.deployments.plugin(&p()) {
        // The record says which version runs, on all tasks.
        let last = deploys.iter().find(|it| it.outcome == Outcome::Succeeded);
        assert_eq!(last.unwrap().to, plugin.current);
        for version in &plugin.versions {
            let (plugin, digest) = (p(), &version.digest);
            let version = server.deployments.version(&plugin, Some(digest));
            version.await.unwrap();
        }
        if !server.deployments.manifests().unwrap().is_empty() {
            assert_eq!(server.task_digests("a"), vec![plugin.current; 4]);
            server.wait_until_idle().await;
            assert_eq!(server.values("out"), server.values("in"));
        }
    }
    server.deployments.stop().await;
    block_in_place(|| drop(server));
}

#[test]
fn a_kill_leaves_one_version_and_a_record_that_says_which() {
    let threads = || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap()
    };
    if let Some(path) = alone_argument() {
        threads().block_on(async {
            let path = path.clone();
            tokio::spawn(async move { deploy_for_ever(Path::new(&path)).await })
                .await
                .unwrap();
        });
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let test = "a_kill_leaves_one_version_and_a_record_that_says_which";
    for _ in 0..ROUNDS {
        let argument = folder.path().to_str().unwrap();
        let mut child = alone(module_path!(), test, argument).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(fastrand::u64(200..2_500)));
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{:?}", child.wait_with_output());
        child.kill().unwrap();
        child.wait().unwrap();
        let path = folder.path().to_owned();
        threads().block_on(async move {
            tokio::spawn(async move { check(&path).await })
                .await
                .unwrap();
        });
    }
}
