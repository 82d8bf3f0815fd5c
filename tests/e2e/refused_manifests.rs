//! A manifest that does not go with what exists changes nothing, whoever is given it: no topic and no queue appears, and
//! none gets other settings, which could delete what it holds.

use serde_json::{Value, json};

use crate::server::Server;
use crate::support::counting::{self, Workload};
use crate::support::{Consumed, Sandbox};

/// How a topic that exists is contradicted: what the manifest says of it, and what is answered.
const CONTRADICTIONS: [(&str, &str); 2] = [
    (
        "[topics.other]\npartitions = 9\n",
        "the topic `other` has 2 partitions, 9 are asked for",
    ),
    (
        "[topics.latest]\nretention = \"1h\"\n",
        "`retention` has no effect on it, since it exists with cleanup `compact`",
    ),
];

/// The line of the contradiction in [`manifest`].
const LINE: &str = ":9:9: error: ";

/// What it says before the contradiction is fine, and would delete records.
fn manifest(contradiction: &str) -> String {
    format!(
        r#"name = "refused"

[topics.events]
retention = "1s"
max-batch-bytes = 2048

[topics.new]

{contradiction}
[queues.work]
delay = "1s"

[queues.waiting]

[plugins.plugin]
path = "{{passthrough}}"

[pipelines.pass]
from = "topic:new"
plugin = "plugin"
dead-letter = "queue:given-up"
"#
    )
}

/// A data directory with an old record that only `retention = "forever"` keeps.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.succeed(&["topic", "create", "events", "--retention", "forever"]);
    sandbox.succeed(&["topic", "create", "other", "--partitions", "2"]);
    sandbox.succeed(&["topic", "create", "latest", "--cleanup", "compact"]);
    sandbox.succeed(&["queue", "create", "work"]);
    let old = json!({ "timestamp": 1, "value": "old" }).to_string();
    let file = sandbox.write_lines("old.jsonl", [old]);
    let file = file.to_str().unwrap();
    sandbox.succeed(&[
        "produce",
        "topic:events",
        "--format",
        "record",
        "--file",
        file,
    ]);
    sandbox
}

/// All topics and queues with their settings.
fn state(sandbox: &Sandbox) -> [Value; 2] {
    [["topic", "list"], ["queue", "list"]].map(|list| {
        let listed = sandbox.json(&list);
        let names = listed.as_array().unwrap().iter();
        let names = names.map(|listed| listed["name"].as_str().unwrap());
        let described = names.map(|name| sandbox.json(&[list[0], "describe", name]));
        described.collect()
    })
}

/// Runs a command with each of the contradictions, and asserts that nothing has changed.
#[track_caller]
fn assert_changes_nothing(sandbox: &Sandbox, command: &[&str]) {
    let before = state(sandbox);
    for (contradiction, message) in CONTRADICTIONS {
        sandbox.manifest(&manifest(contradiction));
        sandbox
            .run(command)
            .expect_code(2)
            .expect_error(&[LINE, message]);
        assert_eq!(state(sandbox), before, "{command:?} with {contradiction}");
    }
    let records = sandbox.consume("events");
    let values: Vec<_> = records.iter().map(Consumed::value_text).collect();
    assert_eq!(values, ["old"]);
}

#[test]
fn a_run_is_refused_before_anything_is_changed() {
    let sandbox = sandbox();
    assert_changes_nothing(&sandbox, &["run", "millstream.toml", "--until-idle"]);
}

#[test]
fn what_produce_declares_is_refused_before_anything_is_changed() {
    let sandbox = sandbox();
    let produce = ["produce", "topic:new", "--manifest", "millstream.toml"];
    assert_changes_nothing(&sandbox, &produce);
}

#[test]
fn applying_is_refused_before_anything_is_changed() {
    let sandbox = sandbox();
    let apply = ["apply", "millstream.toml"];
    assert_changes_nothing(&sandbox, &apply);
    let server = Server::start(&sandbox, &[]);
    assert_changes_nothing(&sandbox, &apply);
    assert_eq!(sandbox.json(&["pipeline", "list"]), json!([]));
    server.stop();
}

#[test]
fn a_circle_of_dead_letters_through_what_exists_is_refused_before_anything_is_changed() {
    let sandbox = sandbox();
    sandbox.succeed(&["queue", "create", "failed", "--dead-letter", "work"]);
    let before = state(&sandbox);
    let text = manifest("").replace("delay = \"1s\"", "dead-letter = \"failed\"");
    sandbox.manifest(&text);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(2)
        .expect_error(&[":10:9: error: queue `work`: ", "circle"]);
    assert_eq!(state(&sandbox), before);
}

#[test]
fn a_pipeline_that_does_not_go_with_its_state_is_refused_before_anything_is_changed() {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut workload = Workload::new(1);
    workload.produce(&sandbox, 100);
    sandbox.run_until_idle();
    let described = || sandbox.json(&["pipeline", "describe", "copy"]);
    let before = (state(&sandbox), described());
    // `copy` comes first by its place and is registered with its new output, if anything is.
    let (head, copy) = counting::MANIFEST.split_once("[pipelines.copy]").unwrap();
    let (head, count) = head.split_once("[pipelines.count]").unwrap();
    let copy = copy.replace("topic:copies", "topic:new");
    sandbox.manifest(&format!(
        "{head}[topics.new]\n[pipelines.copy]{copy}[pipelines.count]{count}concurrency = 2\n"
    ));
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(1)
        .expect_error(&["put `concurrency = 1` back"]);
    assert_eq!((state(&sandbox), described()), before);
}

#[test]
fn a_run_in_which_no_plugin_fits_changes_nothing() {
    let sandbox = sandbox();
    let before = state(&sandbox);
    sandbox.manifest(&manifest("").replace("{passthrough}", "{testing-reads-clock}"));
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(1)
        .expect_error(&["error: pipeline `pass`, stopped: its plugin `plugin` cannot run: "]);
    assert_eq!(state(&sandbox), before);
}

/// Fails when a plugin is uploaded before its manifest has been read.
#[test]
fn what_a_manifest_with_a_mistake_names_is_not_uploaded() {
    let sandbox = sandbox();
    sandbox.manifest(&manifest("").replace("dead-letter =", "dead-leter ="));
    sandbox
        .run(&["apply", "millstream.toml"])
        .expect_code(2)
        .expect_error(&["dead-letter"]);
    assert_eq!(sandbox.json(&["plugin", "list"]), json!([]));
}
