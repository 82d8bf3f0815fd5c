//! What the API does to pipelines that run.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytes::Bytes;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::access::{Entrance, Tokens};
use super::router::router;
use super::state::{State, Stopping};
use super::{Data, Limits, api};
use crate::deploy::Mode;
use crate::deploy::tests::{Server, manifest, p, passthrough_too};
use crate::model::{Header, PipelineName, Record};
use crate::pipeline::{PipelineState, PipelineStatus, TaskState};
use crate::plugin::Digest;
use crate::plugin::tests::guest::Guest;
use crate::queue::letter::{ORIGIN, PIPELINE};
use crate::storage::Commit;
use crate::storage::schema::{KeyKind, parked};

const TIMEOUT: Duration = Duration::from_secs(60);

fn a() -> PipelineName {
    "a".parse().unwrap()
}

fn status(server: &Server) -> PipelineStatus {
    server.deployments.pipelines().status_of(&a()).unwrap()
}

fn data(server: &Server) -> Data {
    Data {
        log: server.log.clone(),
        queues: server.queues.clone(),
        groups: server.groups.clone(),
    }
}

async fn send(server: &Server, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()));
    let api = api(data(server), Some(server.deployments.clone())).unwrap();
    let answer = api.oneshot(request.unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn deploy(server: &Server, version: &Digest, mode: Mode) -> u64 {
    let deploy = server.deployments.deploy(&p(), version, mode, None).await;
    deploy.unwrap().id
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect(what);
}

/// A server whose pipeline `a` has failed on partition 0, while a call on partition 1 takes six seconds, fails, and is
/// committed with the position behind it.
async fn failing_beside_a_long_call() -> Server {
    let server = Server::start().await;
    let guest = Guest::new(
        "(if (i32.eqz (i32.load offset=4 (local.get $batch))) (then unreachable))
        (if (i32.ne (i32.load offset=4 (local.get $batch)) (i32.const 1))
          (then (return (call $pass (local.get $batch)))))
        (loop $for-ever (br $for-ever)) (unreachable)",
    );
    server.upload("p", &guest).await;
    let settings = "dead-letter = \"stop\"
        retry = { max-attempts = 2, initial = \"1ms\", jitter = \"none\" }
        limits = { deadline = \"6s\" }";
    let text = manifest("m", "a", settings).replace("max-records = 16", "max-records = 1");
    server.deployments.apply(&text, None).await.unwrap();
    server.send_to(1, 0..1).await;
    wait_until("called", || {
        status(&server).tasks[1].state == TaskState::Busy
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.send_to(0, 1..40).await;
    wait_until("failed", || status(&server).state == PipelineState::Failed).await;
    assert!(status(&server).has_running_tasks);
    server
}

/// What is committed behind a reset would undo it.
///
/// Fails when a pipeline that has failed counts as one of which no task runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_position_moves_while_a_task_of_a_failed_pipeline_runs() {
    let server = failing_beside_a_long_call().await;
    let reset = json!({"topic": "in", "to": "latest"});
    let (code, problem) = send(&server, "POST", "/v1/groups/a/reset", &reset).await;
    assert_eq!((code, &problem["code"]), (409, &json!("conflict")));
    let (code, _) = send(&server, "DELETE", "/v1/groups/a", &Value::Null).await;
    assert_eq!(code, 409);
    wait_until("stopped", || !status(&server).has_running_tasks).await;
    let (code, moved) = send(&server, "POST", "/v1/groups/a/reset", &reset).await;
    assert_eq!(code, 200, "{moved}");
    // The long call had come to an end, and its position was committed before.
    assert_eq!(moved["partitions"][1]["from_offset"], 1, "{moved}");
    let (_, group) = send(&server, "GET", "/v1/groups/a", &Value::Null).await;
    for position in group["positions"].as_array().unwrap() {
        assert_eq!(position["lag_records"], 0, "{group}");
    }
}

/// An answer that says no has moved nothing.
///
/// Fails when what the answer tells besides is read after the position has moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_cannot_be_answered_moves_nothing() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    server.send(0..20).await;
    server.wait_until_idle().await;
    server.deployments.pause(&a()).await.unwrap();
    let mut damage = Commit::new();
    let key = [&parked::pipeline_prefix(0)[..], b"damaged"].concat();
    damage.put(KeyKind::Parked, key, Bytes::from_static(b"v"));
    server.log.store().commit(damage).await.unwrap();
    let reset = json!({"topic": "in", "to": "earliest"});
    let (code, problem) = send(&server, "POST", "/v1/groups/a/reset", &reset).await;
    assert_eq!(code, 500, "{problem}");
    let (_, group) = send(&server, "GET", "/v1/groups/a", &Value::Null).await;
    for position in group["positions"].as_array().unwrap() {
        assert_eq!(position["lag_records"], 0, "{group}");
    }
}

/// A task that parks records, and a redrive, would give them the same places.
///
/// Fails when only what counts as running is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_waits_for_the_tasks_of_a_failed_pipeline() {
    let server = failing_beside_a_long_call().await;
    let tokens = Tokens::open(server.log.store().clone()).unwrap();
    let deployments = Some(server.deployments.clone());
    let (limits, stopping) = (Limits::default(), Stopping::new());
    let state = State::new(data(&server), tokens, deployments, limits, stopping);
    let suspended = state.suspend(&[a()]).await.unwrap();
    assert!(!status(&server).has_running_tasks);
    // What did not run before does not run afterwards.
    assert!(suspended.is_empty());
    suspended.resume().await.unwrap();
    assert_eq!(status(&server).state, PipelineState::Failed);
}

/// Whoever asks for the end of a deploy waits for as long as a canary takes, as consumers wait for records.
///
/// Fails when it takes no place of those who may wait, takes one though there is nothing to wait for, or waits longer than
/// any may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_deploy_is_one_of_those_who_wait() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    let new = server.upload("p", &passthrough_too()).await.version.digest;
    let duration_ms = TIMEOUT.as_millis().try_into().unwrap();
    let id = deploy(&server, &new, Mode::Shadow { duration_ms }).await;
    let tokens = Tokens::open(server.log.store().clone()).unwrap();
    let limits = Limits {
        waiting_consumers: 0,
        ..Limits::default()
    };
    let deployments = Some(server.deployments.clone());
    let state = State::new(data(&server), tokens, deployments, limits, Stopping::new());
    let api = router(state, Entrance::Owner);
    let ask = async |wait_ms: u64| {
        let path = format!("/v1/deploys/{id}?wait_ms={wait_ms}");
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = api.clone().oneshot(request).await.unwrap();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    assert_eq!(ask(0).await["outcome"], "running");
    assert_eq!(ask(1).await["code"], "busy");
    assert_eq!(ask(60_001).await["code"], "invalid-request");
    server.deployments.stop_deploy(id).await.unwrap();
    assert_eq!(ask(60_000).await["outcome"], "observed");
}

/// Fails when the answer says that there is no such plugin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_of_the_first_version_says_that_there_is_none_before_it() {
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    for with_state in [false, true] {
        let request = json!({"with_state": with_state});
        let (code, problem) = send(&server, "POST", "/v1/plugins/p/rollback", &request).await;
        assert_eq!(code, 409, "{problem}");
        assert_eq!(problem["code"], "no-earlier-version");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("no earlier version"), "{detail}");
    }
    let (code, problem) = send(&server, "POST", "/v1/plugins/q/rollback", &json!({})).await;
    assert_eq!((code, &problem["code"]), (404, &json!("unknown-plugin")));
}

/// Standing still for a redrive would end a canary, and let a shadow see a part only.
///
/// Fails when nobody looks for them before the redrive, or when it has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_waits_until_a_trial_is_over() {
    // More than go back until a slow machine has begun a trial.
    const LETTERS: u64 = 60;
    let server = Server::start().await;
    server.upload("p", &Guest::passthrough()).await;
    let text = manifest("m", "a", "");
    server.deployments.apply(&text, None).await.unwrap();
    let new = server.upload("p", &passthrough_too()).await.version.digest;
    let letters = "a.dead-letters".parse().unwrap();
    let letters = server.queues.queue(&letters).unwrap();
    let header = |name, value: String| Header::new(name, Some(Bytes::from(value)));
    for offset in 0..LETTERS {
        let origin = format!("topic:in/1/{offset}");
        let record = Record {
            key: None,
            value: Some(Bytes::from_static(b"v")),
            headers: vec![header(ORIGIN, origin), header(PIPELINE, "a".to_owned())],
            timestamp_ms: 1,
        };
        letters.enqueue(&[record]).await.unwrap();
    }
    let duration_ms = TIMEOUT.as_millis().try_into().unwrap();
    let shadow = Mode::Shadow { duration_ms };
    let canary = Mode::Canary {
        partitions: vec![1],
        duration_ms,
    };
    let redrive = json!({"source": "a"});
    for mode in [shadow, canary] {
        let id = deploy(&server, &new, mode.clone()).await;
        let (code, problem) = send(&server, "POST", "/v1/redrives", &redrive).await;
        assert_eq!((code, &problem["code"]), (409, &json!("conflict")));
        let stop = format!("millstream plugin stop-deploy {id}");
        assert!(problem["detail"].as_str().unwrap().contains(&stop));
        let dry = json!({"source": "a", "dry_run": true});
        assert_eq!(send(&server, "POST", "/v1/redrives", &dry).await.0, 202);
        assert!(
            server.deployments.pipelines().is_trying(&a()) || matches!(mode, Mode::Shadow { .. })
        );
        server.deployments.stop_deploy(id).await.unwrap();
    }
    // One that has begun before ends, and leaves the rest.
    let slowly = json!({"source": "a", "rate": 1});
    let api = api(data(&server), Some(server.deployments.clone())).unwrap();
    let ask = async |request: Request<Body>| {
        let answer = api.clone().oneshot(request).await.unwrap();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()
    };
    let request = Request::post("/v1/redrives").header("content-type", "application/json");
    let begun = ask(request.body(Body::from(slowly.to_string())).unwrap()).await;
    let path = format!("/v1/redrives/{}", begun["id"]);
    let look = || ask(Request::get(&path).body(Body::empty()).unwrap());
    loop {
        let view = look().await;
        assert_eq!(view["running"], true, "{view}");
        if view["redriven"] != 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let shadow = Mode::Shadow { duration_ms };
    let id = deploy(&server, &new, shadow).await;
    let ended = loop {
        let view = look().await;
        if view["running"] == false {
            break view;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let count = |name: &str| ended[name].as_u64().unwrap();
    let (redriven, left) = (count("redriven"), count("left"));
    assert!(redriven > 0 && left > 0, "{ended}");
    assert_eq!(redriven + left, LETTERS);
    let error = ended["error"].as_str().unwrap();
    assert!(error.contains("takes part in deploy"), "{error}");
    server.deployments.stop_deploy(id).await.unwrap();
    assert_eq!(letters.message_count().await.unwrap(), left);
    server.wait_until_idle().await;
    assert_eq!(server.values("out").concat().len() as u64, redriven);
}
