//! Dead letters on the command line: look at them, keep them elsewhere, delete them, send them back.
//!
//! What these checks catch was tried by breaking the code by hand, one break at a time; see the comment of
//! each test.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::records::Consumed;
use crate::support::{Random, Sandbox, note};

const QUEUE: &str = "queue:suspect.dead-letters";
/// The steps of a commit.
const STEPS: [&str; 3] = [
    "commit::before-write",
    "commit::after-write",
    "commit::before-reply",
];
/// How long the thread has to come to the step again after it has said that it was there.
const TO_THE_NEXT: Duration = Duration::from_millis(100);

fn run(sandbox: &Sandbox) -> Value {
    sandbox.json(&["run", "millstream.toml", "--until-idle"])
}

fn produce(sandbox: &Sandbox, records: impl IntoIterator<Item = Value>) {
    let lines = records.into_iter().map(|record| record.to_string());
    let file = sandbox.write_lines("records.jsonl", lines);
    sandbox.produce_records("in", &file);
}

/// A sandbox in which `suspect` has rejected every record of `count` that is poison, which one in `one_in`
/// is.
fn with_rejected(count: u64, one_in: u64, partitions: u32) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-rejects", partitions, "");
    produce(
        &sandbox,
        (0..count).map(|number| {
            let word = if number % one_in == 0 { "poison" } else { "record" };
            json!({ "key": format!("k{}", number % 7), "value": format!("{word} {number}"),
                    "headers": [["traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]] })
        }),
    );
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], count.div_ceil(one_in));
    sandbox
}

fn list(sandbox: &Sandbox, arguments: &[&str]) -> Vec<Value> {
    let arguments = [&["dead-letter", "list", "suspect"], arguments].concat();
    match sandbox.json(&arguments) {
        Value::Array(letters) => letters,
        other => panic!("{other}"),
    }
}

fn letter_count(sandbox: &Sandbox) -> u64 {
    let described = sandbox.json(&["queue", "describe", "suspect.dead-letters"]);
    described["waiting"].as_u64().unwrap()
}

/// By key, the numbers of the records in the order of the output.
fn numbers_by_key(out: &[Consumed]) -> BTreeMap<String, Vec<u64>> {
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in out {
        let number = record.value_text().split(' ').nth(1).unwrap();
        let numbers = by_key.entry(record.key_text().to_owned()).or_default();
        numbers.push(number.parse().unwrap());
    }
    by_key
}

/// Everything that an engineer needs is there, as a table and as JSON.
///
/// Fails when a header is not read, when a filter is not asked, and when `list` stops at the wrong place.
#[test]
fn letters_tell_their_story() {
    let sandbox = with_rejected(100, 10, 1);
    let letters = list(&sandbox, &[]);
    assert_eq!(letters.len(), 10);
    assert_eq!(letters[3]["id"], 3);
    assert_eq!(letters[3]["origin"], "topic:in/0/30");
    assert_eq!(list(&sandbox, &["--max", "4"]).len(), 4);

    let shown = sandbox.json(&["dead-letter", "show", "suspect", "3"]);
    assert_eq!(shown, letters[3]);
    assert_eq!(shown["reason"], "rejected");
    assert_eq!(shown["error"], "the record is poison");
    assert_eq!(shown["attempts"], 1);
    assert_eq!(shown["key"], "k2");
    assert_eq!(shown["value"], "poison 30");
    assert!(shown["timestamp_ms"].as_u64() > Some(1_600_000_000_000));
    assert_eq!(
        (&shown["pipeline"], &shown["plugin"]),
        (&json!("suspect"), &json!("suspect"))
    );
    assert_eq!(shown["plugin_digest"].as_str().unwrap().len(), 64);
    assert_eq!(shown["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(shown["first_failed_ms"].as_u64() > Some(1_600_000_000_000));
    assert!(shown["dead_lettered_ms"].as_u64() >= shown["first_failed_ms"].as_u64());

    let table = sandbox.succeed(&["dead-letter", "list", QUEUE]);
    assert!(table.contains("3\ttopic:in/0/30\trejected\t1\t"), "{table}");
    let table = sandbox.succeed(&["dead-letter", "show", QUEUE, "3"]);
    assert!(table.contains("value\tpoison 30\n"), "{table}");
    assert!(
        table.contains("trace-id\t4bf92f3577b34da6a3ce929d0e0e4736\n"),
        "{table}"
    );

    for (filter, count) in [
        ("reason=rejected", 10),
        ("reason=trap", 0),
        ("origin-topic=in", 10),
        ("origin-topic=out", 0),
        ("plugin=suspect", 10),
        ("pipeline=other", 0),
    ] {
        assert_eq!(
            list(&sandbox, &["--filter", filter]).len(),
            count,
            "{filter}"
        );
    }
    assert_eq!(list(&sandbox, &["--since", "1h"]).len(), 10);
    assert_eq!(
        list(&sandbox, &["--since", "2100-01-01T00:00:00Z"]).len(),
        0
    );
}

/// A trap's letter shows where it happened.
#[test]
fn a_trap_shows_its_backtrace() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-traps", 1, "retry = { max-attempts = 1 }");
    produce(&sandbox, [json!({ "value": "poison 0" })]);
    run(&sandbox);
    let table = sandbox.succeed(&["dead-letter", "show", "suspect", "0"]);
    assert!(table.contains("reason\ttrap\n"), "{table}");
    let (_, backtrace) = table.split_once("backtrace:\n").expect(&table);
    assert!(!backtrace.trim().is_empty(), "{table}");
}

/// What is exported is what `produce` takes, and what is purged is what the filter says.
///
/// Fails when `export` leaves headers out, or `purge` does not ask the filter.
#[test]
fn letters_are_exported_and_purged() {
    let sandbox = with_rejected(30, 3, 1);
    let path = sandbox.path("letters.jsonl");
    let file = path.to_str().unwrap();
    let exported = sandbox.json(&["dead-letter", "export", "suspect", "--file", file]);
    assert_eq!(exported["exported"], 10);
    let lines = std::fs::read_to_string(&path).unwrap();
    assert_eq!(lines, sandbox.succeed(&["dead-letter", "export", QUEUE]));
    sandbox
        .run(&["dead-letter", "export", "suspect", "--file", file])
        .expect_code(1)
        .expect_error(&["cannot write", "letters.jsonl"]);

    sandbox
        .run(&[
            "dead-letter",
            "purge",
            "suspect",
            "--filter",
            "reason=rejected",
        ])
        .expect_code(2)
        .expect_error(&["delete 10 dead letters", "give --yes"]);
    let purge = ["dead-letter", "purge", "suspect", "--yes"];
    let none = sandbox.json(&[&purge[..], &["--filter", "reason=trap"]].concat());
    assert_eq!(none["deleted"], 0);
    assert_eq!(letter_count(&sandbox), 10);
    let all = sandbox.json(&[&purge[..], &["--filter", "reason=rejected"]].concat());
    assert_eq!(all["deleted"], 10);
    assert_eq!(letter_count(&sandbox), 0);

    let produce = ["produce", QUEUE, "--format", "record", "--file", file];
    sandbox.succeed(&produce);
    let again = list(&sandbox, &[]);
    assert_eq!(again.len(), 10);
    assert_eq!(again[0]["origin"], "topic:in/0/0");
    assert_eq!(sandbox.json(&purge)["deleted"], 10);
    assert_eq!(letter_count(&sandbox), 0);
}

/// Fails when letters that are put back are duplicates of one another.
#[test]
fn letters_with_one_deduplication_id_are_all_put_back() {
    let sandbox = Sandbox::new();
    sandbox.wire_suspect("testing-rejects", 1, "");
    let poison = json!({ "key": "k", "value": "poison", "headers": [["millstream-deduplication-id", "id"]] });
    produce(&sandbox, [poison.clone(), poison]);
    assert_eq!(run(&sandbox)["dead_letters"], 2);
    let path = sandbox.path("letters.jsonl");
    let file = path.to_str().unwrap();
    sandbox.succeed(&["dead-letter", "export", "suspect", "--file", file]);
    let purged = sandbox.json(&["dead-letter", "purge", "suspect", "--yes"]);
    assert_eq!(purged["deleted"], 2);
    let produced = sandbox.json(&["produce", QUEUE, "--format", "record", "--file", file]);
    assert_eq!(produced["messages"], 2, "{produced}");
    assert_eq!(letter_count(&sandbox), 2);
}

/// Fails when what a pipeline gives up on does not get the times of the queue that it goes to.
#[test]
fn letters_of_a_pipeline_live_as_long_as_their_queue_says() {
    let sandbox = Sandbox::new();
    let settings = ["--time-to-live", "1h", "--delay", "10m"];
    let name = QUEUE.trim_start_matches("queue:");
    sandbox.succeed(&[&["queue", "create", name][..], &settings].concat());
    sandbox.wire_suspect("testing-rejects", 1, "");
    produce(&sandbox, [json!({ "key": "k", "value": "poison" })]);
    assert_eq!(run(&sandbox)["dead_letters"], 1);
    let described = sandbox.json(&["queue", "describe", name]);
    assert_eq!(described["delayed"], 1, "{described}");
    let letter: Value =
        serde_json::from_str(&sandbox.succeed(&["dead-letter", "export", QUEUE])).unwrap();
    let time = |name: &str| -> u64 {
        let headers = letter["headers"].as_array().unwrap();
        let header = headers.iter().find(|header| header[0] == name);
        header.unwrap()[1].as_str().unwrap().parse().unwrap()
    };
    let times = [time("millstream-not-before"), time("millstream-expires-at")];
    let given_up_at = time("millstream-dead-lettered-at");
    // The letter is written right after it is decided on.
    for (time, after_ms) in times.into_iter().zip([600_000, 3_600_000]) {
        assert!(
            (after_ms..after_ms + 60_000).contains(&(time - given_up_at)),
            "{letter}"
        );
    }
}

/// After the plugin is replaced a redrive completes the output: only the pipeline sees the records again,
/// each once and in the order of its key, although the newest was given up on first. A dry run changes
/// nothing.
///
/// Fails when letters are sent in the order of the queue, when the letter stays or is sent twice, when a
/// dry run sends, and when the record goes to the topic.
#[test]
fn a_redrive_completes_the_table() {
    const RECORDS: u64 = 300;
    let sandbox = with_rejected(RECORDS, 3, 2);
    // Other orders of dying are other orders in the queue.
    reverse_letters(&sandbox);
    sandbox.wire_suspect("passthrough", 2, "");
    let redrive = ["dead-letter", "redrive", "suspect"];
    let dry = sandbox.json(&[&redrive[..], &["--dry-run"]].concat());
    assert_eq!(dry["redriven"], 100);
    assert_eq!(
        dry["destinations"],
        json!([{ "to": "pipeline:suspect", "letters": 100 }])
    );
    assert_eq!(letter_count(&sandbox), 100);
    assert_eq!(run(&sandbox)["records_out"], 0);

    let done = sandbox.json(&[&redrive[..], &["--rate", "100000/s"]].concat());
    assert_eq!((&done["redriven"], &done["held"]), (&json!(100), &json!(0)));
    assert_eq!(letter_count(&sandbox), 0);
    run(&sandbox);
    assert_eq!(sandbox.consume("in").len() as u64, RECORDS);
    assert_complete(&sandbox.consume("out"), RECORDS);
}

/// Every record is there once, and those that were redriven in the order of each key.
#[track_caller]
fn assert_complete(out: &[Consumed], count: u64) {
    let mut numbers: Vec<u64> = numbers_by_key(out).into_values().flatten().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    let redriven: Vec<Consumed> = out
        .iter()
        .filter(|record| record.value_text().starts_with("poison"))
        .cloned()
        .collect();
    for (key, numbers) in numbers_by_key(&redriven) {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    for record in &redriven {
        let names: Vec<&str> = record
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let expected = [
            "traceparent",
            "millstream-redriven-from",
            "millstream-redrive-count",
        ];
        assert_eq!(names, expected, "{record:?}");
    }
}

/// Puts the letters into their queue again, the last first.
fn reverse_letters(sandbox: &Sandbox) {
    let exported = sandbox.succeed(&["dead-letter", "export", "suspect"]);
    let mut lines: Vec<&str> = exported.lines().collect();
    lines.reverse();
    let file = sandbox.write_lines("reversed.jsonl", lines);
    sandbox.succeed(&["dead-letter", "purge", "suspect", "--yes"]);
    let file = file.to_str().unwrap();
    sandbox.succeed(&["produce", QUEUE, "--format", "record", "--file", file]);
}

/// Killed at any step of a commit and at any moment, again and again, a redrive loses nothing, doubles
/// nothing, and keeps the order of each key.
///
/// Fails when taking the letters and sending them are two commits, in either order.
fn assert_survives_kills(to: &str) {
    const RECORDS: u64 = 3_000;
    let mut random = Random::from_environment();
    let sandbox = with_rejected(RECORDS, 1, 2);
    reverse_letters(&sandbox);
    sandbox.wire_suspect("passthrough", 2, "");
    let redrive = ["dead-letter", "redrive", "suspect", "--to", to];
    // 200 letters in a commit, of which each kill lets two happen at most.
    let limited = [&redrive[..], &["--rate", "2000"]].concat();
    for (step, before) in STEPS
        .iter()
        .flat_map(|step| [(step, ""), (step, "1*off->")])
    {
        let mut command = sandbox.command(&limited);
        let failpoint = format!("{step}={before}1*print(is near)->pause");
        command
            .env("FAILPOINTS", failpoint)
            .env("RUST_LOG", "warn,fail=info");
        let mut running = sandbox.start_command(command);
        running.wait_for_error("is near");
        std::thread::sleep(TO_THE_NEXT);
        assert!(running.kill().0, "{step}: it ended by itself");
    }
    assert!(letter_count(&sandbox) > 0);
    for _ in 0..4 {
        let running = sandbox.start(&limited);
        std::thread::sleep(random.within_ms(20..250));
        let (was_running, _) = running.kill();
        note(format_args!("killed while running: {was_running}"));
    }
    sandbox.succeed(&redrive);
    assert_eq!(letter_count(&sandbox), 0);
    run(&sandbox);
    let expected_in = if to == "topic" { 2 * RECORDS } else { RECORDS };
    assert_eq!(sandbox.consume("in").len() as u64, expected_in);
    assert_complete(&sandbox.consume("out"), RECORDS);
}

#[test]
fn a_redrive_to_the_pipeline_survives_kills() {
    assert_survives_kills("pipeline");
}

#[test]
fn a_redrive_to_the_topic_survives_kills() {
    assert_survives_kills("topic");
}

/// Fails when a redrive does not wait between its batches.
#[test]
fn a_redrive_is_no_faster_than_its_rate() {
    let sandbox = with_rejected(60, 1, 1);
    let redrive = ["dead-letter", "redrive", "suspect", "--rate", "20/s"];
    let started = Instant::now();
    assert_eq!(sandbox.json(&redrive)["redriven"], 60);
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_secs(2), "{elapsed:?}");
}

/// What is given up on again is a letter again, that says how often it was redriven; `--max` sends back
/// that many.
#[test]
fn a_redrive_can_be_tried_on_a_few_and_fail_again() {
    let sandbox = with_rejected(50, 5, 1);
    let redrive = ["dead-letter", "redrive", "suspect", "--max", "3"];
    assert_eq!(sandbox.json(&redrive)["redriven"], 3);
    assert_eq!(letter_count(&sandbox), 7);
    assert_eq!(run(&sandbox)["dead_letters"], 3);
    let letters = list(&sandbox, &[]);
    assert_eq!(letters.len(), 10);
    // Those that failed again are the last; among them keys have no order.
    for letter in &letters[7..] {
        let offset = letter["origin"].as_str().unwrap();
        let offset: u64 = offset.strip_prefix("topic:in/0/").unwrap().parse().unwrap();
        assert!(offset <= 10, "{letter}");
        let first = format!("queue:suspect.dead-letters/{}", offset / 5);
        assert_eq!(letter["redriven_from"], first);
        assert_eq!(
            (&letter["redrive_count"], &letter["attempts"]),
            (&json!(1), &json!(1))
        );
    }
    // And so a second time: the count goes on.
    assert_eq!(sandbox.json(&redrive[..3])["redriven"], 10);
    run(&sandbox);
    let counts = list(&sandbox, &[])
        .into_iter()
        .map(|letter| letter["redrive_count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 7 + 2 * 3);
}

/// A message goes back to its queue, and letters whose origin is gone stay and are told.
///
/// Fails when such a letter ends the redrive, or is taken out of the queue.
#[test]
fn a_redrive_leaves_what_has_nowhere_to_go() {
    let sandbox = Sandbox::new();
    for name in ["work", "gone"] {
        let create = ["queue", "create", name, "--dead-letter", "dead"];
        let limits = ["--max-length", "1", "--max-length-policy", "drop-oldest"];
        sandbox.succeed(&[&create[..], &limits].concat());
        for word in ["first", "second"] {
            let file = sandbox.write_lines("m.jsonl", [format!("\"{word}\"")]);
            let file = file.to_str().unwrap();
            sandbox.succeed(&["produce", &format!("queue:{name}"), "--file", file]);
        }
        sandbox.succeed(&["queue", "purge", name, "--yes"]);
    }
    sandbox.succeed(&["queue", "delete", "gone", "--yes"]);
    let finished = sandbox
        .run(&["dead-letter", "redrive", "queue:dead", "--output", "json"])
        .expect_code(1)
        .expect_error(&["1 dead letters stay: its origin, the queue `gone`, does not exist"]);
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["redriven"], 1);
    assert_eq!(report["stranded"][0]["letters"], 1);
    let back = sandbox.succeed(&["consume", "queue:work", "--ack"]);
    assert!(back.contains("first"), "{back}");
    let left = sandbox.json(&["dead-letter", "list", "queue:dead"]);
    assert_eq!(left[0]["origin"], "queue:gone/0");
    assert_eq!(left[0]["reason"], "max-length");
}

/// Letters for a pipeline in which too many keys wait to be tried again stay until some are done.
///
/// Fails when a redrive parks more whatever waits.
#[test]
fn a_redrive_leaves_what_a_pipeline_has_no_room_for() {
    let sandbox = with_rejected(50, 5, 1);
    let redrive = ["dead-letter", "redrive", "suspect", "--max", "3"];
    assert_eq!(sandbox.json(&redrive)["redriven"], 3);
    let mut command = sandbox.command(&redrive[..3]);
    command.env("FAILPOINTS", "retry::max-groups=return(1)");
    let finished = sandbox.start_command(command).wait().expect_code(1);
    finished.expect_error(&["7 dead letters stay: records of", "wait to be tried again"]);
    assert_eq!(letter_count(&sandbox), 7);
    assert_eq!(sandbox.json(&redrive[..3])["redriven"], 7);
}

/// Letters of one version of the plugin are listed, exported, sent back and deleted, by its digest or the start of it;
/// the start of several digests stands for none of them.
///
/// Fails when a verb does not send the digest on, when the conditions are not asked besides, and when the start of two
/// digests is not refused.
#[test]
fn letters_of_one_version_are_chosen_by_its_digest() {
    let sandbox = with_rejected(30, 3, 1);
    let first = list(&sandbox, &[])[0]["plugin_digest"].clone();
    let first = first.as_str().unwrap();
    let next = reassign_last_letters(&sandbox, first, 4);
    let (next, shared, own) = (next.as_str(), &first[..8], &next[..9]);
    let in_upper_case = own.to_uppercase();
    for (digest, filter, count) in [
        (first, "reason=rejected", 6),
        (&first[..9], "plugin=suspect", 6),
        (next, "reason=rejected", 4),
        (own, "reason=rejected", 4),
        (in_upper_case.as_str(), "reason=rejected", 4),
        (next, "reason=trap", 0),
        ("0123456789", "reason=rejected", 0),
        // No letter is meant, so that there are not two components.
        (shared, "reason=trap", 0),
    ] {
        let of_it = ["--plugin", digest, "--filter", filter];
        assert_eq!(list(&sandbox, &of_it).len(), count, "{of_it:?}");
        let export = ["dead-letter", "export", "suspect"];
        let exported = sandbox.succeed(&[&export[..], &of_it].concat());
        assert_eq!(exported.lines().count(), count, "{of_it:?}");
        let redrive = ["dead-letter", "redrive", "suspect", "--dry-run"];
        let redriven = sandbox.json(&[&redrive[..], &of_it].concat());
        assert_eq!(redriven["redriven"], count, "{of_it:?}");
    }
    for verb in [
        &["list", "suspect"][..],
        &["export", "suspect"],
        &["redrive", "suspect"],
        &["purge", "suspect", "--yes"],
    ] {
        for (digest, error) in [
            (shared, "give more digits"),
            (shared, first),
            (shared, next),
            ("suspect@4f", "expected the SHA-256 of a component"),
        ] {
            let arguments = [&["dead-letter"], verb, &["--plugin", digest]].concat();
            sandbox
                .run(&arguments)
                .expect_code(2)
                .expect_error(&[error]);
        }
    }
    assert_eq!(letter_count(&sandbox), 10);
    let purge = ["dead-letter", "purge", "suspect", "--yes", "--plugin", own];
    assert_eq!(sandbox.json(&purge)["deleted"], 4);
    // Now it stands for one.
    let redrive = ["dead-letter", "redrive", "suspect", "--plugin", shared];
    assert_eq!(sandbox.json(&redrive)["redriven"], 6);
    assert_eq!(letter_count(&sandbox), 0);
}

/// Makes the last letters those of another component, whose digest has the same first 8 digits. Returns its digest.
fn reassign_last_letters(sandbox: &Sandbox, digest: &str, count: usize) -> String {
    let (start, rest) = digest.split_at(8);
    let rest = rest.chars().map(|digit| match digit.to_digit(16) {
        Some(value) => char::from_digit(15 - value, 16).unwrap(),
        None => panic!("{digest}"),
    });
    let other: String = start.chars().chain(rest).collect();
    let exported = sandbox.succeed(&["dead-letter", "export", "suspect"]);
    let mut lines: Vec<String> = exported.lines().map(str::to_owned).collect();
    let kept = lines.len() - count;
    for line in &mut lines[kept..] {
        *line = line.replace(digest, &other);
    }
    let file = sandbox.write_lines("reassigned.jsonl", lines);
    sandbox.succeed(&["dead-letter", "purge", "suspect", "--yes"]);
    let file = file.to_str().unwrap();
    sandbox.succeed(&["produce", QUEUE, "--format", "record", "--file", file]);
    other
}

#[test]
fn mistakes_are_told() {
    let sandbox = with_rejected(3, 3, 1);
    for (arguments, code, error) in [
        (
            &["list", "suspekt"][..],
            1,
            "there is no pipeline `suspekt`",
        ),
        (
            &["list", "suspect.dead-letters"],
            2,
            "did you mean `queue:suspect.dead-letters`?",
        ),
        (&["list", "topic:in"], 2, "`topic:` holds no dead letters"),
        (&["show", "suspect", "7"], 1, "holds no message 7"),
        (
            &["list", "suspect", "--filter", "why=trap"],
            2,
            "`why` is no field",
        ),
        (
            &["redrive", "suspect", "--rate", "0"],
            2,
            "expected a number a second",
        ),
    ] {
        let arguments = [&["dead-letter"], arguments].concat();
        sandbox
            .run(&arguments)
            .expect_code(code)
            .expect_error(&[error]);
    }
}
