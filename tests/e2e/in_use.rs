//! Topics and queues that applied pipelines use are not deleted.

use std::time::Duration;

use crate::server::Server;
use crate::server_pipelines::wait_until;
use crate::support::Sandbox;

const APPLY: [&str; 2] = ["apply", "millstream.toml"];

const MANIFEST: &str = r#"
name = "in-use"

[topics.in]
[topics.out]
[topics.spare]

[queues.jobs]
[queues.done]
[queues.spare]

[plugins.passthrough]
path = "{passthrough}"

[pipelines.copy]
from = "topic:in"
plugin = "passthrough"
to = "topic:out"
limits = { deadline = "30s" }

[pipelines.work]
from = ["topic:in", "queue:jobs"]
plugin = "passthrough"
to = "queue:done"
dead-letter = "queue:failed"
limits = { deadline = "30s" }
"#;

/// What pipelines use of it, and what is said of that.
const USED: [(&str, &str, &str); 6] = [
    (
        "topic",
        "in",
        "pipeline `copy` (input) and pipeline `work` (input)",
    ),
    ("topic", "out", "pipeline `copy` (output `default`)"),
    ("queue", "jobs", "pipeline `work` (input)"),
    ("queue", "done", "pipeline `work` (output `default`)"),
    ("queue", "failed", "pipeline `work` (dead letters)"),
    (
        "queue",
        "copy.dead-letters",
        "pipeline `copy` (dead letters)",
    ),
];

/// How long whatever is to be decided at the same time lies in between.
const IN_BETWEEN: Duration = Duration::from_secs(8);

/// Asserts that nothing is deleted which pipelines use.
#[track_caller]
fn assert_kept(server: &Server) {
    for (kind, name, users) in USED {
        let path = format!("/v1/{kind}s/{name}");
        let refused = server.send("DELETE", &path, "application/json", "");
        let problem = refused.expect_problem(409, "conflict");
        let detail = problem["detail"].as_str().unwrap();
        let expected = format!("{kind} `{name}` is used by {users};");
        assert!(detail.starts_with(&expected), "{detail}");
        server.get(&path).expect(200);
    }
}

fn state_of(server: &Server, pipeline: &str) -> serde_json::Value {
    let described = server.get(&format!("/v1/pipelines/{pipeline}"));
    match described.status {
        200 => described.json()["running"]["state"].clone(),
        _ => serde_json::Value::Null,
    }
}

/// Fails when only those pipelines count that run, when none counts, or when a place of one is forgotten.
#[test]
fn a_server_deletes_nothing_that_a_pipeline_uses() {
    let sandbox = Sandbox::new();
    sandbox.manifest(MANIFEST);
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&APPLY);
    assert_kept(&server);
    for pipeline in ["copy", "work"] {
        sandbox.succeed(&["pipeline", "pause", pipeline]);
    }
    assert_kept(&server);
    server.stop();
    let server = Server::start(&sandbox, &[]);
    assert_kept(&server);
    for (kind, name) in [("topic", "spare"), ("queue", "spare")] {
        sandbox.succeed(&[kind, "delete", name, "--yes"]);
    }
    for pipeline in ["copy", "work"] {
        sandbox.succeed(&["pipeline", "resume", pipeline]);
    }
    let sent = server.post_lines("/v1/topics/in/records", "{\"value\":\"x\"}\n");
    sent.expect(200);
    wait_until("the record is copied", || {
        let out = server.get("/v1/topics/out").expect(200).json();
        let done = server.get("/v1/queues/done").expect(200).json();
        out["records"] == 1 && done["waiting"] == 1
    });

    // What the problem says is the way: delete the pipeline, or apply a manifest in which it does not use it.
    sandbox.succeed(&["pipeline", "delete", "copy", "--yes"]);
    sandbox.succeed(&["topic", "delete", "out", "--yes"]);
    sandbox
        .run(&["topic", "delete", "in", "--yes"])
        .expect_code(1)
        .expect_error(&[
            "topic `in` is used by pipeline `work` (input);",
            "`millstream pipeline delete work`",
        ]);
    let manifest = std::fs::read_to_string(sandbox.path("millstream.toml")).unwrap();
    sandbox.write("millstream.toml", manifest.replace(", \"queue:jobs\"", ""));
    sandbox.succeed(&APPLY);
    sandbox.succeed(&["queue", "delete", "jobs", "--yes"]);
    server.stop();
}

/// Fails when nobody looks at what was applied where no server runs.
#[test]
fn nothing_that_a_pipeline_uses_is_deleted_where_no_server_runs() {
    let sandbox = Sandbox::new();
    sandbox.manifest(MANIFEST);
    sandbox.succeed(&APPLY);
    sandbox.succeed(&["pipeline", "pause", "work"]);
    for (kind, name, users) in USED {
        sandbox
            .run(&[kind, "delete", name, "--yes"])
            .expect_code(1)
            .expect_error(&[
                &format!("{kind} `{name}` is used by {users};"),
                "`millstream pipeline delete ",
            ]);
        sandbox.succeed(&[kind, "describe", name]);
    }
    sandbox.succeed(&["topic", "delete", "spare", "--yes"]);
    for pipeline in ["copy", "work"] {
        sandbox.succeed(&["pipeline", "delete", pipeline, "--yes"]);
    }
    for (kind, name, _) in USED {
        sandbox.succeed(&[kind, "delete", name, "--yes"]);
    }
}

/// What a pipeline uses that is just being applied is in use when the manifest is stored.
///
/// Fails when the deletion does not wait for that.
#[test]
fn what_is_applied_meanwhile_is_in_use() {
    let sandbox = Sandbox::new();
    sandbox.manifest(MANIFEST);
    let mut command = sandbox.command(&["serve", "--listen", "127.0.0.1:0"]);
    let sleep = format!(
        "deploy::before-manifest-record=sleep({})",
        IN_BETWEEN.as_millis()
    );
    command.env("FAILPOINTS", sleep);
    let server = Server::of(sandbox.start_command(command));
    let apply = sandbox.start(&APPLY);
    wait_until("the pipelines run", || {
        state_of(&server, "work") == "running"
    });
    // Nothing is stored of the manifest.
    assert_eq!(server.get("/v1/manifests").expect(200).body, "[]");
    assert_kept(&server);
    apply.wait().expect_code(0);
    assert_eq!(state_of(&server, "work"), "running");
    server.stop();
}
