//! A failure in production shows again elsewhere: `dead-letter replay` runs a record with what the plugin saw
//! when it failed on it.
//!
//! What these checks catch was tried by breaking the code by hand, one break at a time; see the comment of
//! each test.

use serde_json::{Value, json};

use crate::support::Sandbox;
use crate::support::plugins::component;

const FAILED: i32 = 4;

/// The settings of a pipeline with `testing-circumstances`.
fn settings(more: &str) -> String {
    format!(
        "config = {{ threshold = 3 }}\nallow = {{ clocks = true, random = true }}\n\
         retry = {{ max-attempts = 2, initial = \"1ms\", jitter = \"none\" }}\n{more}"
    )
}

/// Runs a pipeline over these records, each a key and a value, a batch for each list.
fn run(sandbox: &Sandbox, plugin: &str, settings: &str, batches: &[&[(&str, &str)]]) {
    sandbox.wire_suspect(plugin, 1, settings);
    for batch in batches {
        let records = batch.iter().map(|(key, value)| {
            json!({ "key": key, "value": value, "headers": [["own", key]] }).to_string()
        });
        let file = sandbox.write_lines("records.jsonl", records);
        sandbox.produce_records("in", &file);
        sandbox.run_until_idle();
    }
}

/// Exports all letters, and returns a folder that holds nothing but the export.
fn laptop(sandbox: &Sandbox) -> Sandbox {
    let lines = sandbox.succeed(&["dead-letter", "export", "suspect"]);
    let laptop = Sandbox::new();
    laptop.write("letters.jsonl", lines);
    laptop
}

/// Replays a letter of the export in a component.
#[track_caller]
fn replay(laptop: &Sandbox, id: &str, plugin: &str, code: i32) -> Value {
    let path = component(plugin);
    let path = path.to_str().unwrap();
    let replay = ["dead-letter", "replay", "--from-export", "letters.jsonl"];
    let arguments = [&replay[..], &[id, "--plugin", path, "--output", "json"]].concat();
    let command = laptop.bare_command(&arguments);
    let finished = laptop.start_command(command).wait().expect_code(code);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// The whole story: a record fails for what is in the state, when it is, and what number it draws. In an
/// empty folder, with nothing but the export and the component, it fails with the same words, which tell all
/// three; with a component that is mended it goes through.
///
/// Fails when the state is not what the plugin read, when a clock says something else, when the random
/// numbers are others, and when the configuration is missing.
#[test]
fn a_failure_in_production_shows_again_elsewhere() {
    let sandbox = Sandbox::new();
    let counted = [("a", "x"), ("a", "x"), ("b", "x"), ("a", "x"), ("c", "x")];
    for word in ["retry", "trap"] {
        let value = format!("{word} now");
        let batches = [&counted[..], &[("a", "y"), ("a", &value), ("b", "x")]];
        run(&sandbox, "testing-circumstances", &settings(""), &batches);
    }
    let laptop = laptop(&sandbox);
    for (id, word, outcome) in [("0", "retry", "max-attempts"), ("1", "trap", "trap")] {
        let shown = sandbox.json(&["dead-letter", "show", "suspect", id]);
        assert_eq!(shown["replay"], "kept", "{shown}");
        let replayed = replay(&laptop, id, "testing-circumstances", FAILED);
        assert_eq!(replayed["then"]["outcome"], outcome);
        assert_eq!(replayed["now"]["outcome"], word);
        let error = replayed["now"]["error"].as_str().unwrap();
        assert_eq!(error, shown["error"]);
        let count = if word == "retry" { 4 } else { 8 };
        let known = format!("count {count} of 3 keys at 1");
        assert!(error.contains(&known), "{error}");
        assert_eq!(replayed["same"], true, "{replayed}");
        assert_eq!(replayed["kept"], true);
        assert_eq!(replayed["component"]["same"], true);
        assert_eq!(replayed["unknown_state_reads"], 0);
        assert_eq!(replayed["saw"]["config"], json!([["threshold", "3"]]));
        assert_eq!(replayed["saw"]["state_values"], 3);
        assert_eq!(replayed["saw"]["delivery_count"], 2);
        assert_eq!(replayed["outputs"], json!([]));
        assert_eq!(replayed["state_changes"], json!([]));
        assert_eq!(replayed["backtrace"].is_null(), word == "retry");
        // Again and again.
        let again = replay(&laptop, id, "testing-circumstances", FAILED);
        assert_eq!(again, replayed);
    }

    let mended = replay(&laptop, "0", "passthrough", 0);
    assert_eq!(mended["now"]["outcome"], "success");
    assert_eq!(
        (&mended["same"], &mended["same_kind"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(mended["component"]["same"], false);
    let output = &mended["outputs"][0];
    assert_eq!(
        (
            &output["port"],
            &output["key"],
            &output["value"],
            &output["headers"]
        ),
        (
            &json!("default"),
            &json!("a"),
            &json!("retry now"),
            &json!([["own", "a"]])
        )
    );
    assert_eq!(mended["outputs"].as_array().unwrap().len(), 1);
}

/// A record is rejected for what a record before it in the same batch has put into the state, and the letter
/// tells it: what was committed alone would not do.
///
/// Fails when the records before it do not run first.
#[test]
fn what_the_same_batch_changed_was_seen_too() {
    let sandbox = Sandbox::new();
    let batch = [
        ("a", "x"),
        ("b", "x"),
        ("a", "x"),
        ("a", "reject 1"),
        ("a", "reject 2"),
        ("b", "reject 3"),
    ];
    run(&sandbox, "testing-circumstances", &settings(""), &[&batch]);
    let laptop = laptop(&sandbox);
    // The first `reject` is counted as the third; the last one is that of another key.
    let letters = sandbox.json(&["dead-letter", "list", "suspect"]);
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    assert_eq!(letters[0]["replay"], "kept");
    let replayed = replay(&laptop, "0", "testing-circumstances", FAILED);
    assert_eq!(replayed["now"]["error"], "count 3 of 2 keys");
    assert_eq!(replayed["same"], true, "{replayed}");
}

/// The plugin of the manifest is the one to run if none is named, another component is told, and what cannot
/// be replayed is said.
#[test]
fn replay_says_what_it_runs_and_what_it_cannot() {
    let sandbox = Sandbox::new();
    run(&sandbox, "testing-rejects", "", &[&[("k", "poison")]]);
    let replay = ["dead-letter", "replay", "suspect", "0"];
    let finished = sandbox.run(&replay).expect_code(FAILED);
    for line in [
        "then\trejected: the record is poison\n",
        "now\trejected: the record is poison\n",
        "same-outcome\tyes\n",
        "saw\t0 keys of the state",
    ] {
        assert!(finished.stdout.contains(line), "{}", finished.stdout);
    }
    assert!(!finished.stderr.contains("warning"), "{}", finished.stderr);
    let other = component("passthrough");
    let other = ["--plugin", other.to_str().unwrap()];
    let finished = sandbox.run(&[&replay[..], &other].concat()).expect_code(0);
    assert!(
        finished.stdout.contains("output\tdefault: k=poison\n"),
        "{}",
        finished.stdout
    );
    finished.expect_error(&["is not the component that failed"]);

    let file = sandbox.write("other.toml", "name = \"other\"\n");
    let file = file.to_str().unwrap();
    for (arguments, code, error) in [
        (&["suspect", "1"][..], 1, "holds no message 1"),
        (&["0"], 2, "required"),
        (
            &["suspect", "0", "--from-export", "f"],
            2,
            "cannot be used with",
        ),
        (
            &["suspect", "0", "--manifest", file],
            2,
            "has no pipeline `suspect`",
        ),
        (&["0", "--from-export", "nowhere.jsonl"], 1, "nowhere.jsonl"),
    ] {
        let arguments = [&["dead-letter", "replay"], arguments].concat();
        sandbox
            .run(&arguments)
            .expect_code(code)
            .expect_error(&[error]);
    }
    std::fs::remove_file(sandbox.path("millstream.toml")).unwrap();
    sandbox
        .run(&replay)
        .expect_code(2)
        .expect_error(&["name the component with --plugin"]);
}

/// Under a stream of records that all fail, the first letters say what the plugin saw and others why they do
/// not; those can be run again, too.
///
/// Fails when every record is run again, and when a letter without it cannot be replayed.
#[test]
fn a_stream_of_failures_is_not_all_recorded() {
    const RECORDS: usize = 20_000;
    let sandbox = Sandbox::new();
    run(
        &sandbox,
        "testing-rejects",
        "config = { a = 1 }",
        &[&[("k", "poison"); RECORDS]],
    );
    let all = RECORDS.to_string();
    let letters = sandbox.json(&["dead-letter", "list", "suspect", "--max", &all]);
    let letters = letters.as_array().unwrap();
    assert_eq!(letters.len(), RECORDS);
    assert_eq!(letters[0]["replay"], "kept");
    let not_kept = "not kept: too many records failed at the time";
    let without = letters.iter().find(|letter| letter["replay"] == not_kept);
    let id = without.unwrap()["id"].to_string();
    let laptop = laptop(&sandbox);
    let replayed = replay(&laptop, &id, "testing-rejects", FAILED);
    assert_eq!(
        (&replayed["kept"], &replayed["same"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(replayed["saw"]["config"], json!([["a", "1"]]));
}

/// A message that a pipeline takes out of a queue is replayed as a record is, with the attributes that the
/// plugin saw and the letter does not have any more.
#[test]
fn a_message_is_replayed_with_its_attributes() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "suspect"

[queues.work]

[topics.out]

[plugins.suspect]
path = "{testing-rejects}"

[pipelines.suspect]
from = "queue:work"
plugin = "suspect"
to = "topic:out"
"#,
    );
    let attributes = json!([["own", "1"], ["millstream-time-to-live", "3600000"]]);
    let message = json!({ "value": "poison", "headers": attributes }).to_string();
    let file = sandbox.write_lines("m.jsonl", [message]);
    let file = file.to_str().unwrap();
    let produce = [
        "produce",
        "queue:work",
        "--format",
        "record",
        "--file",
        file,
    ];
    sandbox.succeed(&[&produce[..], &["--manifest", "millstream.toml"]].concat());
    sandbox.run_until_idle();
    let laptop = laptop(&sandbox);
    let replayed = replay(&laptop, "0", "testing-rejects", FAILED);
    assert_eq!(replayed["origin"], "queue:work/0");
    assert_eq!(replayed["same"], true, "{replayed}");
    let mended = replay(&laptop, "0", "passthrough", 0);
    let headers = mended["outputs"][0]["headers"].as_array().unwrap();
    let names: Vec<_> = headers
        .iter()
        .map(|header| header[0].as_str().unwrap())
        .collect();
    assert_eq!(names, ["own", "millstream-expires-at"]);
}

/// A letter of a queue has no plugin to run, and says so; redriven records do not carry what was seen.
#[test]
fn only_what_a_plugin_failed_on_can_be_replayed() {
    let sandbox = Sandbox::new();
    sandbox.succeed(&[
        "queue",
        "create",
        "work",
        "--dead-letter",
        "dead",
        "--max-length",
        "1",
        "--max-length-policy",
        "drop-oldest",
    ]);
    for word in ["first", "second"] {
        let file = sandbox.write_lines("m.jsonl", [format!("\"{word}\"")]);
        sandbox.succeed(&["produce", "queue:work", "--file", file.to_str().unwrap()]);
    }
    sandbox
        .run(&["dead-letter", "replay", "queue:dead", "0"])
        .expect_code(1)
        .expect_error(&["cannot replay dead letter 0", "no plugin has failed on it"]);

    run(&sandbox, "testing-rejects", "", &[&[("k", "poison")]]);
    sandbox.succeed(&["dead-letter", "redrive", "suspect", "--to", "topic"]);
    let back = sandbox.consume("in").pop().unwrap();
    let headers = back.headers.iter().map(|(name, _)| name.as_str());
    let expected = [
        "own",
        "millstream-redriven-from",
        "millstream-redrive-count",
    ];
    assert_eq!(headers.collect::<Vec<_>>(), expected);
}
