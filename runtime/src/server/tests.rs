//! What the API does to pipelines that run.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::access::Tokens;
use super::state::{State, Stopping};
use super::{Data, Limits, api};
use crate::deploy::tests::{Server, manifest};
use crate::model::PipelineName;
use crate::pipeline::{PipelineState, PipelineStatus};
use crate::plugin::tests::guest::Guest;

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

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect(what);
}

/// A server whose pipeline `a` has failed on partition 0, while a call on partition 1 takes three seconds, fails, and is
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
        limits = { deadline = \"3s\" }";
    let text = manifest("m", "a", settings).replace("max-records = 16", "max-records = 1");
    server.deployments.apply(&text, None).await.unwrap();
    server.send(0..40).await;
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
