//! The command line as scripts rely on it: what it prints, how it ends, what it creates.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::server::Server;
use crate::support::{Consumed, Sandbox};

/// A manifest that runs.
const PASSING: &str = r#"
name = "passing"

[topics.in]

[topics.out]

[plugins.passthrough]
path = "{passthrough}"

[pipelines.pass]
from = "topic:in"
plugin = "passthrough"
to = "topic:out"
"#;

/// Produces lines of records to a new topic `t`.
fn with_records(lines: &[&str]) -> Sandbox {
    let sandbox = Sandbox::new();
    let file = sandbox.write_lines("records.jsonl", lines);
    let produce = [
        "produce", "topic:t", "--create", "--format", "record", "--file",
    ];
    sandbox.succeed(&[&produce[..], &[file.to_str().unwrap()]].concat());
    sandbox
}

#[test]
fn consume_prints_one_object_a_line() {
    let sandbox = with_records(&[
        r#"{"timestamp":1,"key":"k","value":"v \"quoted\"\n","headers":[["h","1"],["h",null]]}"#,
        r#"{"timestamp":2,"key":null,"value":null}"#,
        r#"{"timestamp":3,"key":{"base64":"/w=="},"value":{"base64":"AP8="},"headers":[["b",{"base64":"gA=="}]]}"#,
        r#"{"timestamp":4,"key":"","value":"","headers":[["",""]]}"#,
    ]);
    let output = sandbox.succeed(&[
        "consume", "topic:t", "--from", "earliest", "--output", "json",
    ]);
    let expected = [
        r#"{"topic":"t","partition":0,"offset":0,"timestamp":1,"key":"k","value":"v \"quoted\"\n","headers":[["h","1"],["h",null]]}"#,
        r#"{"topic":"t","partition":0,"offset":1,"timestamp":2,"key":null,"value":null,"headers":[]}"#,
        r#"{"topic":"t","partition":0,"offset":2,"timestamp":3,"key":{"base64":"/w=="},"value":{"base64":"AP8="},"headers":[["b",{"base64":"gA=="}]]}"#,
        r#"{"topic":"t","partition":0,"offset":3,"timestamp":4,"key":"","value":"","headers":[["",""]]}"#,
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn what_consume_prints_can_be_produced_again() {
    let sandbox = with_records(&[
        r#"{"timestamp":1,"key":"k","value":"v","headers":[["h","1"],["h",null]]}"#,
        r#"{"timestamp":2,"key":null,"value":null}"#,
        r#"{"timestamp":3,"key":{"base64":"/w=="},"value":{"base64":"AP8="}}"#,
    ]);
    let printed = sandbox.succeed(&["consume", "topic:t", "--output", "json"]);
    let file = sandbox.write("printed.jsonl", &printed);
    let mut produce = sandbox.command(&["produce", "topic:u", "--create", "--format", "record"]);
    produce.stdin(fs::File::open(file).unwrap());
    sandbox.start_command(produce).wait().expect_code(0);
    let again = sandbox.succeed(&["consume", "topic:u", "--output", "json"]);
    assert_eq!(again, printed.replace(r#""topic":"t""#, r#""topic":"u""#));
}

#[test]
fn produce_says_what_was_acknowledged() {
    let sandbox = Sandbox::new();
    let file = sandbox.write_lines("f.jsonl", [r#"{"id":1,"at":5}"#, "", r#"{"id":2,"at":6}"#]);
    let file = file.to_str().unwrap();
    let produce = [
        "produce",
        "topic:t",
        "--create",
        "--file",
        file,
        "--key-field",
        "id",
    ];
    let summary = sandbox.json(&[&produce[..], &["--timestamp-field", "at"]].concat());
    assert_eq!(summary["topic"], "t");
    assert_eq!(summary["records"], 2);
    let printed = sandbox.succeed(&["produce", "topic:t", "--file", file]);
    assert!(
        printed.contains("acknowledged 2 records in topic `t`"),
        "{printed}"
    );
    let records = sandbox.consume("t");
    assert_eq!(records.len(), 4);
    assert_eq!((records[0].key_text(), records[0].timestamp), ("1", 5));
    assert_eq!(records[0].value_text(), r#"{"id":1,"at":5}"#);
    assert_eq!(records[2].key, None);
}

#[test]
fn a_bad_line_is_named_and_what_came_before_it_counts() {
    let sandbox = Sandbox::new();
    let lines = [r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3"#, r#"{"id":4}"#];
    let file = sandbox.write_lines("bad.jsonl", lines);
    let produce = [
        "produce",
        "topic:t",
        "--create",
        "--key-field",
        "id",
        "--file",
    ];
    let finished = sandbox
        .run(&[&produce[..], &[file.to_str().unwrap()]].concat())
        .expect_code(1)
        .expect_error(&[&format!("{}:3:", file.display())]);
    assert!(
        finished.stdout.contains("acknowledged 2 records"),
        "{}",
        finished.stdout
    );
    assert_eq!(sandbox.consume("t").len(), 2);

    let file = sandbox.write_lines("keyless.jsonl", [r#"{"name":"x"}"#]);
    sandbox
        .run(&[&produce[..], &[file.to_str().unwrap()]].concat())
        .expect_code(1)
        .expect_error(&[
            "keyless.jsonl:1:",
            "field `id`, which is missing",
            "--allow-null-key",
        ]);
}

#[test]
fn lines_that_are_no_json_from_the_first_on_come_with_the_option_that_takes_them() {
    const HINT: &str = "`--format lines`";
    let sandbox = Sandbox::new();
    let produce = ["produce", "topic:t", "--create", "--file"];
    let file = sandbox.write_lines("words.txt", ["", "hello world", "bye"]);
    let file = file.to_str().unwrap();
    sandbox
        .run(&[&produce[..], &[file]].concat())
        .expect_code(1)
        .expect_error(&[
            "words.txt:2:1: expected a JSON value",
            "found `hello world`, which is no JSON",
            HINT,
            "nothing is stored",
        ]);
    sandbox
        .run(&[&produce[..], &[file, "--key-field", "id"]].concat())
        .expect_code(1)
        .expect_error(&[HINT, "without the options that name fields"]);
    sandbox
        .run(&[&produce[..], &[file, "--format", "record"]].concat())
        .expect_code(1)
        .expect_error(&["words.txt:2:1:", "found `hello world`", HINT]);
    sandbox.succeed(&[&produce[..], &[file, "--format", "lines"]].concat());
    assert_eq!(sandbox.consume("t").len(), 3);

    // A file of JSON with one bad line is no file of other lines.
    let file = sandbox.write_lines("broken.jsonl", ["{}", "{"]);
    let broken = sandbox
        .run(&[&produce[..], &[file.to_str().unwrap()]].concat())
        .expect_code(1)
        .expect_error(&["broken.jsonl:2:", "found `{`", "the lines before it"]);
    assert!(!broken.stderr.contains(HINT), "{}", broken.stderr);
    // Nor is one whose good lines were stored before.
    let skipped = [&produce[..], &[file.to_str().unwrap(), "--skip", "1"]].concat();
    let skipped = sandbox.run(&skipped).expect_code(1);
    assert!(!skipped.stderr.contains(HINT), "{}", skipped.stderr);
    // What a line holds is shown, and does nothing to the terminal.
    let file = sandbox.write_lines("colored.txt", ["a \x1b[31m\"red\"\x07 word"]);
    let colored = [&produce[..], &[file.to_str().unwrap()]].concat();
    sandbox
        .run(&colored)
        .expect_code(1)
        .expect_error(&["found `a \\u{1b}[31m\"red\"\\u{7} word`"]);
    // What is JSON, and not what it must be, is not said to be none.
    let file = sandbox.write_lines("list.jsonl", ["[1]"]);
    let list = [&produce[..], &[file.to_str().unwrap(), "--key-field", "id"]].concat();
    let refused = sandbox.run(&list).expect_code(1);
    assert!(!refused.stderr.contains("no JSON"), "{}", refused.stderr);
}

#[test]
fn an_unknown_topic_comes_with_a_suggestion() {
    let sandbox = with_records(&[r#"{"value":"v"}"#]);
    sandbox.succeed(&["topic", "create", "flights"]);
    for command in [
        &["consume", "topic:flihgts"][..],
        &["produce", "topic:flihgts"],
        &["topic", "describe", "flihgts"],
        &[
            "group", "reset", "g", "--topic", "flihgts", "--to", "latest",
        ],
    ] {
        sandbox
            .run(command)
            .expect_code(1)
            .expect_error(&["there is no topic `flihgts`", "did you mean `flights`?"]);
    }
    sandbox
        .run(&["consume", "flights"])
        .expect_code(2)
        .expect_error(&["did you mean `topic:flights`?"]);
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let sandbox = Sandbox::new();
    sandbox.will_be_damaged();
    sandbox.run(&["--help"]).expect_code(0);
    sandbox.run(&["--version"]).expect_code(0);
    sandbox.run(&["frobnicate"]).expect_code(2);
    sandbox
        .run(&["topic", "list", "--durability", "fsync"])
        .expect_code(2);
    sandbox
        .run(&["topic", "list"])
        .expect_code(3)
        .expect_error(&[
            "there is no millstream data directory at",
            "--data-dir",
            "--server URL",
            "`millstream topic create NAME`",
        ]);
    assert!(!sandbox.data_dir().exists(), "looking does not create");
    sandbox.succeed(&["topic", "create", "t"]);
    sandbox
        .run(&["topic", "create", "t"])
        .expect_code(1)
        .expect_error(&["`t` exists already"]);
    fs::write(
        sandbox.data_dir().join("FORMAT"),
        "millstream data format 99\n",
    )
    .unwrap();
    sandbox
        .run(&["topic", "list"])
        .expect_code(3)
        .expect_error(&["has format 99", "reads format 2"]);
    fs::remove_dir_all(sandbox.data_dir()).unwrap();
    fs::create_dir(sandbox.data_dir()).unwrap();
    fs::write(sandbox.data_dir().join("thesis.txt"), "").unwrap();
    sandbox
        .run(&["topic", "create", "t"])
        .expect_code(3)
        .expect_error(&["is not a millstream data directory"]);
}

#[test]
fn a_reader_that_has_had_enough_ends_consume_quietly() {
    let sandbox = Sandbox::new();
    let lines = (0..50_000).map(|number| format!("{number:0100}"));
    let file = sandbox.write_lines("lines.txt", lines);
    let produce = [
        "produce", "topic:t", "--create", "--format", "lines", "--file",
    ];
    sandbox.succeed(&[&produce[..], &[file.to_str().unwrap()]].concat());
    let mut consume = sandbox
        .command(&["consume", "topic:t", "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(consume.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(Consumed::parse_lines(&first)[0].offset, 0);
    let output = consume.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output.status);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_second_process_is_told_who_has_the_data_directory() {
    let sandbox = Sandbox::new();
    sandbox.manifest(PASSING);
    let mut run = sandbox.start(&["run", "millstream.toml"]);
    let lock = sandbox.data_dir().join("LOCK");
    run.wait_until("locked", |run| {
        fs::read_to_string(&lock).is_ok_and(|text| text == run.id().to_string())
    });
    for command in [
        &["topic", "list"][..],
        &["run", "millstream.toml", "--until-idle"],
    ] {
        sandbox
            .run(command)
            .expect_code(3)
            .expect_error(&["is in use by another process", &format!("pid {}", run.id())]);
    }
    // A server that was killed has left its address behind, and does not hold it any more.
    let left = sandbox.data_dir().join("server.json");
    fs::write(&left, r#"{"url":"http://127.0.0.1:1","token":"x"}"#).unwrap();
    let refused = sandbox.run(&["run", "millstream.toml"]).expect_code(3);
    assert!(!refused.stderr.contains("apply"), "{}", refused.stderr);
    fs::remove_file(left).unwrap();
    assert!(run.kill().0);
    sandbox.run_until_idle();
}

#[test]
fn a_run_beside_a_server_is_told_how_the_server_runs_the_manifest() {
    let sandbox = Sandbox::new();
    let manifest = sandbox.manifest(PASSING);
    let server = Server::start(&sandbox, &[]);
    let apply = format!(
        "`millstream apply {} --data-dir {}`",
        manifest.display(),
        sandbox.data_dir().display()
    );
    sandbox
        .run(&["run", manifest.to_str().unwrap()])
        .expect_code(3)
        .expect_error(&[&apply, "is in use by another process"]);
    server.stop();
}

#[test]
fn a_bad_manifest_creates_nothing() {
    let sandbox = Sandbox::new();
    for (wrong, right, place, message) in [
        (
            "partitons = 2\n[topics.out]",
            "[topics.out]",
            "millstream.toml:5:1: error",
            "did you mean `partitions`?",
        ),
        (
            "plugin = 1",
            "plugin = \"passthrough\"",
            "millstream.toml:12:",
            "must be the name of a declared plugin",
        ),
        (
            "path = \"no.wasm\"",
            "path = \"{passthrough}\"",
            "millstream.toml:8:",
            "no.wasm",
        ),
        (
            "plugin = \"passthru\"",
            "plugin = \"passthrough\"",
            "millstream.toml:12:",
            "did you mean",
        ),
        (
            "to = \"topic:uot\"",
            "to = \"topic:out\"",
            "millstream.toml:13:",
            "uot",
        ),
        (
            "[topics.in]\n[topics.out]",
            "[topics.out]",
            "millstream.toml:5:",
            "duplicate",
        ),
    ] {
        let text = PASSING.trim_start().replacen(right, wrong, 1);
        sandbox.manifest(&text);
        for command in [
            &["run", "millstream.toml", "--until-idle"][..],
            &["produce", "topic:in", "--manifest", "millstream.toml"],
            &["check", "millstream.toml"],
        ] {
            if command[0] != "run" && message == "uot" {
                // A topic that is not declared may exist already: only a run can tell.
                continue;
            }
            sandbox
                .run(command)
                .expect_code(2)
                .expect_error(&[place, message]);
            assert!(!sandbox.data_dir().exists(), "{command:?} with {wrong}");
        }
    }
    sandbox
        .run(&["run", "nowhere.toml"])
        .expect_code(2)
        .expect_error(&["nowhere.toml"]);
    assert!(!sandbox.data_dir().exists());
}

#[test]
fn check_shows_the_defaults_and_creates_nothing() {
    let sandbox = Sandbox::new();
    sandbox.manifest(PASSING);
    let shown = sandbox.succeed(&["check", "millstream.toml"]);
    assert!(shown.contains("exactly-once"), "{shown}");
    let document = sandbox.json(&["check", "millstream.toml"]);
    assert_eq!(document["name"], "passing");
    let pipeline = &document["pipelines"][0];
    assert_eq!(pipeline["delivery"], "exactly-once");
    assert_eq!(pipeline["batch"]["max_records"], 512);
    assert_eq!(pipeline["retry"]["max_attempts"], 5);
    assert_eq!(pipeline["retry"]["jitter"], "full");
    assert_eq!(pipeline["dead_letter"], "queue:pass.dead-letters");
    // Each key of a pipeline's table, some under the names that they have in what is resolved.
    let keys: Vec<_> = pipeline.as_object().unwrap().keys().collect();
    let every = "allow batch concurrency config dead_letter delivery group inputs limits name outputs plugin retry start";
    assert_eq!(keys, every.split(' ').collect::<Vec<_>>());
    let plugin = &document["plugins"][0];
    assert_eq!(plugin["is_consumer"], true);
    assert_eq!(plugin["contract"], "millstream:plugin@0.1.0");
    let fits = format!(
        "# pipeline pass: plugin passthrough fits and opens (millstream:plugin@0.1.0, digest {})\n",
        plugin["digest"].as_str().unwrap()
    );
    assert!(shown.ends_with(&fits), "{shown}");
    // What is shown is a manifest, and gives itself again.
    sandbox.write("shown.toml", &shown);
    assert_eq!(sandbox.succeed(&["check", "shown.toml"]), shown);
    assert!(!sandbox.data_dir().exists());
}

#[test]
fn check_opens_plugins_with_their_config() {
    let sandbox = Sandbox::new();
    let manifest = |config: &str| {
        sandbox.manifest(&format!(
            r#"name = "counting"
[topics.numbers]
[plugins.counter]
path = "{{testing-counter}}"
[pipelines.count]
plugin = "counter"
to = "topic:numbers"
{config}"#
        ));
    };
    manifest("");
    let checked = sandbox
        .run(&["check", "millstream.toml"])
        .expect_code(2)
        .expect_error(&[
            "millstream.toml:",
            "the plugin could not be opened",
            "config `count` is missing",
        ]);
    assert!(checked.stdout.is_empty(), "{}", checked.stdout);
    // In the words of a run.
    let reason =
        "the plugin could not be opened: the plugin refused to open: config `count` is missing";
    assert!(checked.stderr.contains(reason), "{}", checked.stderr);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_code(1)
        .expect_error(&[reason]);
    std::fs::remove_dir_all(sandbox.data_dir()).unwrap();

    manifest("config = { count = 3 }");
    let shown = sandbox.succeed(&["check", "millstream.toml"]);
    assert!(
        shown.contains("# pipeline count: plugin counter fits and opens"),
        "{shown}"
    );
    assert!(!sandbox.data_dir().exists());
}

#[test]
fn topics_are_created_changed_and_deleted() {
    let sandbox = Sandbox::new();
    let create = [
        "topic",
        "create",
        "t",
        "--partitions",
        "3",
        "--retention",
        "1h",
    ];
    sandbox.succeed(&create);
    sandbox.succeed(&["topic", "alter", "t", "--retention-bytes", "1MiB"]);
    let topic = sandbox.json(&["topic", "describe", "t"]);
    assert_eq!(topic["partitions"], 3);
    assert_eq!(topic["retention_ms"], 3_600_000);
    assert_eq!(topic["retention_bytes"], 1 << 20);
    assert_eq!(topic["offsets"].as_array().map(Vec::len), Some(3));
    sandbox
        .run(&["topic", "delete", "t"])
        .expect_code(2)
        .expect_error(&["--yes"]);
    sandbox.succeed(&["topic", "delete", "t", "--yes"]);
    assert_eq!(sandbox.json(&["topic", "list"]), Value::Array(Vec::new()));
    sandbox.succeed(&["topic", "create", "t"]);
    assert!(sandbox.consume("t").is_empty());
}
