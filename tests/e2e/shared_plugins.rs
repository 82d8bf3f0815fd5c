//! Manifests whose plugins have the same name: what is applied of one changes nothing of another.

use serde_json::json;

use crate::server::Server;
use crate::server_pipelines::{pipeline, wait_until};
use crate::support::Sandbox;

/// A manifest of a team with a pipeline `p-TEAM` from topic `TEAM` to topic `TEAM-out`, with this plugin under the name `filter`.
fn write_manifest(sandbox: &Sandbox, team: &str, plugin: &str) -> String {
    let text = format!(
        r#"
name = "team-{team}"
[topics.{team}]
[topics.{team}-out]
[plugins.own-{team}]
path = "{{passthrough}}"
[plugins.filter]
path = "{{{plugin}}}"
[pipelines.p-{team}]
from = "topic:{team}"
to = "topic:{team}-out"
plugin = "filter"
[pipelines.own-{team}]
from = "topic:{team}"
plugin = "own-{team}"
"#
    );
    let written = sandbox.manifest(&text);
    let name = format!("{team}.toml");
    std::fs::rename(written, sandbox.path(&name)).unwrap();
    name
}

/// Applies the manifest of team a, and then that of team b, which is refused and changes nothing.
#[track_caller]
fn assert_refused(sandbox: &Sandbox) {
    let a = write_manifest(sandbox, "a", "passthrough");
    sandbox.succeed(&["apply", &a]);
    let b = write_manifest(sandbox, "b", "testing-rejects");
    let versions = || sandbox.json(&["plugin", "list"]);
    let before = versions();
    let refused = sandbox.run(&["apply", &b]).expect_code(1).expect_error(&[
        "manifest `team-b` has another version of plugin `filter`",
        "pipeline `p-a` of manifest `team-a`",
        "another name in this manifest",
        "`millstream plugin upload filter FILE.wasm --deploy`",
    ]);
    assert!(refused.stdout.is_empty(), "{}", refused.stdout);
    // Nor was the plugin uploaded that comes before it and is nobody else's.
    assert_eq!(versions(), before);
    sandbox.run(&["topic", "describe", "b"]).expect_code(1);
    // The same bytes are the same version.
    let same = write_manifest(sandbox, "b", "passthrough");
    sandbox.succeed(&["apply", &same]);
    assert_eq!(versions()[0]["used_by"], json!(["p-a", "p-b"]));
}

/// Fails when a manifest replaces the plugin of another one's pipelines.
#[test]
fn a_manifest_does_not_replace_the_plugin_of_another_ones_pipelines() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    assert_refused(&sandbox);
    server
        .post_lines("/v1/topics/a/records", "{\"value\":\"x\"}\n")
        .expect(200);
    wait_until("the record has passed", || {
        server.get("/v1/topics/a-out").expect(200).json()["records"] == 1
    });
    // Who means all of them says so first, and then the manifest has what is current.
    let rejects = crate::support::plugins::component("testing-rejects");
    let upload = ["plugin", "upload", "filter", rejects.to_str().unwrap()];
    sandbox.succeed(&[&upload[..], &["--deploy"]].concat());
    let b = write_manifest(&sandbox, "b", "testing-rejects");
    sandbox.succeed(&["apply", &b]);
    let digest = |name: &str| pipeline(&sandbox, name)["plugin_digest"].clone();
    assert_eq!(digest("p-a"), digest("p-b"));
    server.stop();
}

#[test]
fn nor_does_one_that_is_applied_where_no_server_runs() {
    let sandbox = Sandbox::new();
    assert_refused(&sandbox);
    // One that nobody else uses is deployed.
    sandbox.succeed(&["pipeline", "delete", "p-a", "--yes"]);
    let b = write_manifest(&sandbox, "b", "testing-rejects");
    sandbox.succeed(&["apply", &b]);
}

/// The role that applies is enough to find out.
#[test]
fn who_may_deploy_may_apply() {
    let sandbox = Sandbox::new();
    let created = sandbox.json(&["token", "create", "ci", "--role", "deploy"]);
    let token = created["token"].as_str().unwrap();
    let server = Server::start(&sandbox, &[]);
    let apply = |manifest: &str| {
        let mut command = sandbox.bare_command(&["apply", manifest, "--server", server.url()]);
        command.env("MILLSTREAM_TOKEN", token);
        sandbox.start_command(command).wait()
    };
    apply(&write_manifest(&sandbox, "a", "passthrough")).expect_code(0);
    apply(&write_manifest(&sandbox, "b", "testing-rejects"))
        .expect_code(1)
        .expect_error(&["pipeline `p-a` of manifest `team-a`"]);
    server.stop();
    // A look is no change.
    let audit = std::fs::read_to_string(sandbox.data_dir().join("audit.jsonl")).unwrap();
    assert!(!audit.contains("/check"), "{audit}");
}
