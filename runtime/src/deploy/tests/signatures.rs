//! Servers that run signed plugins only.

use super::*;
use crate::plugin::{PublicKey, Signature, SigningKey, TrustedKeys};

struct Key {
    signing: SigningKey,
    public: PublicKey,
}

fn key() -> Key {
    let (pem, public) = SigningKey::generate().unwrap();
    Key {
        signing: SigningKey::from_pem(&pem).unwrap(),
        public,
    }
}

fn required(keys: &[&Key]) -> SignatureRules {
    let keys = keys.iter().map(|key| key.public.clone());
    SignatureRules {
        trusted: TrustedKeys::new(keys.collect()),
        required: true,
    }
}

async fn upload(
    server: &Server,
    wasm: &Bytes,
    signature: Option<Signature>,
) -> Result<Uploaded, Error> {
    let deployments = &server.deployments;
    deployments
        .upload(&p(), wasm.clone(), signature, None)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_trusted_key_has_signed_is_not_taken() {
    let (ours, others) = (key(), key());
    let server = Server::start().await.restart_with(required(&[&ours])).await;
    let wasm = Guest::passthrough().build();
    let unsigned = upload(&server, &wasm, None).await;
    assert!(
        matches!(unsigned, Err(Error::UnsignedPlugin { .. })),
        "{unsigned:?}"
    );
    let of_other_bytes = ours.signing.sign(&passthrough_too().build());
    for signature in [others.signing.sign(&wasm), of_other_bytes] {
        let refused = upload(&server, &wasm, Some(signature)).await;
        assert!(
            matches!(refused, Err(Error::UntrustedSignature { .. })),
            "{refused:?}"
        );
    }
    assert!(server.deployments.plugins().unwrap().is_empty());
    let signature = ours.signing.sign(&wasm);
    let uploaded = upload(&server, &wasm, Some(signature)).await.unwrap();
    let signer = Some(ours.public.id().to_string());
    assert_eq!(uploaded.version.signer(), signer);
    let first = server.deployments.deploys().unwrap().remove(0);
    assert_eq!(first.signer, signer);
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_uploaded_before_does_not_run_either() {
    let server = Server::start().await;
    let (old, new) = (Guest::passthrough().build(), passthrough_too().build());
    let first = upload(&server, &old, None).await.unwrap();
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    let second = upload(&server, &new, None).await.unwrap().version.digest;

    // Nothing that is there is signed.
    let ours = key();
    let server = server.restart_with(required(&[&ours])).await;
    server.deployments.restore().await.unwrap();
    let state = |server: &Server| {
        let status = server.deployments.pipelines().status_of(&pipeline("a"));
        status.unwrap().state
    };
    assert_eq!(state(&server), PipelineState::Refused);
    let modes = [
        Mode::All,
        Mode::Shadow { duration_ms: 1 },
        Mode::Canary {
            partitions: vec![0],
            duration_ms: 1,
        },
    ];
    for mode in modes {
        let refused = server.deployments.deploy(&p(), &second, mode, None).await;
        assert!(
            matches!(refused, Err(Error::UnsignedPlugin { .. })),
            "{refused:?}"
        );
    }
    let applied = server.deployments.apply(&text, None).await;
    assert!(
        matches!(applied, Err(Error::UnsignedPlugin { .. })),
        "{applied:?}"
    );

    // Signing what is there is enough.
    let signature = ours.signing.sign(&new);
    let signed = upload(&server, &new, Some(signature)).await.unwrap();
    assert!(!signed.is_new && signed.version.signer().is_some());
    let deploys = &server.deployments;
    let deployed = deploys.deploy(&p(), &second, Mode::All, None).await;
    let deployed = deployed.unwrap();
    assert_eq!(deployed.outcome, Outcome::Succeeded);
    assert_eq!(deployed.signer, signed.version.signer());
    deploys.apply(&text, None).await.unwrap();
    assert_eq!(state(&server), PipelineState::Running);
    // The version before is unsigned still.
    let back = deploys.rollback(&p(), None).await;
    assert!(
        matches!(&back, Err(Error::UnsignedPlugin { digest, .. }) if *digest == first.version.digest),
        "{back:?}"
    );
    let back = deploys.rollback_with_state(&p(), None).await;
    assert!(
        matches!(
            back,
            Err(Error::UnsignedPlugin { .. } | Error::NoCheckpoint { .. })
        ),
        "{back:?}"
    );

    // A key that is not trusted any more.
    let server = server.restart_with(required(&[&key()])).await;
    server.deployments.restore().await.unwrap();
    assert_eq!(state(&server), PipelineState::Refused);
    let server = server.restart_with(required(&[&key(), &ours])).await;
    server.deployments.restore().await.unwrap();
    assert_eq!(state(&server), PipelineState::Running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_fails_does_not_leave_a_pipeline_running_without_a_version_to_go_back_to() {
    let server = Server::start().await;
    upload(&server, &Guest::passthrough().build(), None)
        .await
        .unwrap();
    for (name, settings) in [("a", "allow = { clocks = true }"), ("b", "")] {
        let text = manifest(name, name, settings);
        server.deployments.apply(&text, None).await.unwrap();
    }
    let ours = key();
    let server = server.restart_with(required(&[&ours])).await;
    server.deployments.restore().await.unwrap();

    // It runs in one of the two only.
    let clock = "wasi:clocks/monotonic-clock@0.2.6";
    let reads = Guest::passthrough().import(clock, "now", "(result u64)", "(result i64)");
    let wasm = reads.build();
    let signed = upload(&server, &wasm, Some(ours.signing.sign(&wasm))).await;
    let digest = signed.unwrap().version.digest;
    let deploys = &server.deployments;
    let failed = deploys.deploy(&p(), &digest, Mode::All, None).await;
    assert!(
        matches!(failed, Err(Error::DeployFailed { .. })),
        "{failed:?}"
    );
    for name in ["a", "b"] {
        let status = deploys.pipelines().status_of(&pipeline(name)).unwrap();
        assert_eq!(status.state, PipelineState::Refused, "{name}");
    }
}

/// What ran before a deploy that fails runs after it, also if its signature cannot be looked at meanwhile.
///
/// Fails when any reason for not being the version to go back to stops the pipelines that it is given to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_fails_leaves_a_version_running_whose_component_is_lost() {
    let ours = key();
    let server = Server::start().await.restart_with(required(&[&ours])).await;
    let wasm = Guest::passthrough().build();
    let old = upload(&server, &wasm, Some(ours.signing.sign(&wasm))).await;
    let old = old.unwrap().version.digest;
    for (name, settings) in [("a", "allow = { clocks = true }"), ("b", "")] {
        let text = manifest(name, name, settings);
        server.deployments.apply(&text, None).await.unwrap();
    }
    let clock = "wasi:clocks/monotonic-clock@0.2.6";
    let reads = Guest::passthrough().import(clock, "now", "(result u64)", "(result i64)");
    let wasm = reads.build();
    let signed = upload(&server, &wasm, Some(ours.signing.sign(&wasm))).await;
    let new = signed.unwrap().version.digest;
    let components = server.log.store().path().join("plugins");
    std::fs::remove_file(components.join(format!("{old}.wasm"))).unwrap();
    let deploys = &server.deployments;
    let failed = deploys.deploy(&p(), &new, Mode::All, None).await;
    assert!(
        matches!(failed, Err(Error::DeployFailed { .. })),
        "{failed:?}"
    );
    for name in ["a", "b"] {
        let status = deploys.pipelines().status_of(&pipeline(name)).unwrap();
        assert_eq!(status.state, PipelineState::Running, "{name}");
        assert_eq!(server.task_digests(name), vec![old.clone(); 4], "{name}");
    }
}
