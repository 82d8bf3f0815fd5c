//! Timers fire once and in order, whatever is killed, and one that fails costs the others nothing.
//!
//! What these checks catch was tried by breaking the engine by hand, one break at a time; see the comment
//! of each test.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::failpoints;
use crate::support::plugins::component;
use crate::support::records::{Consumed, assert_dense};
use crate::support::{Random, Sandbox};

/// Longer than a test runs.
const NEVER_MS: u64 = 4_000_000_000_000;

/// A pipeline `suspect` of the timers plugin from `in` to `out`, with these settings.
fn scene(partitions: u32, settings: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    wire(&sandbox, "testing-timers", partitions, settings);
    sandbox
}

fn wire(sandbox: &Sandbox, plugin: &str, partitions: u32, settings: &str) {
    sandbox.wire_suspect(plugin, partitions, settings);
}

/// Produces a record for each key and command. In a command, `+7` is 7 ms after a time that has passed, which
/// is returned.
fn produce_past(sandbox: &Sandbox, commands: &[(&str, &str)]) -> u64 {
    let past_ms = past_ms();
    produce(
        sandbox,
        commands.iter().map(|(key, command)| {
            let (verb, rest) = command.split_once(" +").unwrap();
            let (ms, payload) = rest.split_once(' ').unwrap();
            let due_ms = past_ms + ms.parse::<u64>().unwrap();
            (*key, format!("{verb} {due_ms} {payload}"))
        }),
    );
    past_ms
}

/// Keys and values of the output, in its order, as [`produce_past`] writes times.
fn fired_past(sandbox: &Sandbox, past_ms: u64) -> Vec<(String, String)> {
    let fired = fired(sandbox).into_iter();
    fired
        .map(|(key, value)| {
            let (due_ms, rest) = value.split_once(' ').unwrap();
            let after_ms = due_ms.parse::<u64>().unwrap() - past_ms;
            (key, format!("+{after_ms} {rest}"))
        })
        .collect()
}

/// Produces a record for each key and command.
fn produce<K: Into<String>, C: Into<String>>(
    sandbox: &Sandbox,
    commands: impl IntoIterator<Item = (K, C)>,
) {
    let lines = commands
        .into_iter()
        .map(|(key, command)| json!({ "key": key.into(), "value": command.into() }).to_string());
    let file = sandbox.write_lines("records.jsonl", lines);
    sandbox.produce_records("in", &file);
}

fn run(sandbox: &Sandbox) -> Value {
    sandbox.json(&["run", "millstream.toml", "--until-idle"])
}

fn describe(sandbox: &Sandbox) -> Value {
    sandbox.json(&["pipeline", "describe", "suspect"])
}

fn dead_letters(sandbox: &Sandbox) -> Vec<Value> {
    match sandbox.json(&["dead-letter", "list", "suspect"]) {
        Value::Array(letters) => letters,
        other => panic!("{other}"),
    }
}

/// Keys and values of the output, in its order.
fn fired(sandbox: &Sandbox) -> Vec<(String, String)> {
    let out = sandbox.consume("out");
    assert_dense(&out);
    let pair = |record: &Consumed| (record.key_text().to_owned(), record.value_text().to_owned());
    out.iter().map(pair).collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis() as u64
}

/// A time that has passed, and from which on records are kept.
fn past_ms() -> u64 {
    now_ms() - 3_600_000
}

/// Runs as if it were that time for timers.
fn run_at(sandbox: &Sandbox, time_ms: u64) -> Value {
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command
        .args(["--output", "json"])
        .env("FAILPOINTS", format!("timers::now=return({time_ms})"));
    let finished = sandbox.start_command(command).wait().expect_code(0);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// A record for each of some timers, in no order, with several of one time and of one key.
fn shuffled(count: u64, first_ms: u64) -> Vec<(String, u64)> {
    let mut random = Random::from_seed(7);
    let mut timers: Vec<(String, u64)> = (0..count)
        .map(|n| (format!("k{:02}", n % 17), first_ms + n / 3))
        .collect();
    for at in (1..timers.len()).rev() {
        timers.swap(at, random.within(0..at as u64 + 1) as usize);
    }
    timers
}

fn in_firing_order(timers: &[(String, u64)]) -> Vec<(String, String)> {
    let mut sorted = timers.to_vec();
    sorted.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let value = |(key, due_ms): (String, u64)| (key, format!("{due_ms} x 1"));
    sorted.into_iter().map(value).collect()
}

/// Fails when due timers are taken in the order in which they were set, when they are not removed, and when
/// the removal does not come with the outputs.
#[test]
fn timers_fire_once_and_in_the_order_of_their_times() {
    let sandbox = scene(1, "");
    let first_ms = past_ms();
    let timers = shuffled(500, first_ms);
    let set = timers.iter();
    produce(
        &sandbox,
        set.map(|(key, due_ms)| (key.clone(), format!("set {due_ms} x"))),
    );
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["records_in"], &summary["timers"]),
        (&json!(500), &json!(500))
    );
    assert_eq!(fired(&sandbox), in_firing_order(&timers));
    let out = sandbox.consume("out");
    // What is emitted takes over the time at which the timer was due.
    assert!(out.iter().map(|record| record.timestamp).is_sorted());
    assert_eq!(out[0].timestamp, first_ms);
    assert_eq!(run(&sandbox)["timers"], 0);
    assert_eq!(fired(&sandbox).len(), 500);
    assert_eq!(describe(&sandbox)["timers"], 0);
}

/// Fails when a task that has nothing to do does not wake up for a timer, and when one counts as work that
/// is not due.
#[test]
fn a_run_wakes_up_when_a_timer_is_due_and_does_not_wait_for_it_otherwise() {
    let sandbox = scene(2, "");
    produce(&sandbox, [("k", format!("set {NEVER_MS} x"))]);
    assert_eq!(run(&sandbox)["timers"], 0);
    let described = describe(&sandbox);
    assert_eq!(described["timers"], 1);
    assert_eq!(described["next_timer_ms"], NEVER_MS);
    let text = sandbox.succeed(&["pipeline", "describe", "suspect"]);
    assert!(
        text.contains("1 pending, the next at 2096-10-02T07:06:40Z"),
        "{text}"
    );

    let due_ms = now_ms() + 2_000;
    produce(&sandbox, [("k", format!("set {due_ms} loud"))]);
    let mut command = sandbox.command(&["run", "millstream.toml"]);
    command.env("RUST_LOG", "info");
    let mut running = sandbox.start_command(command);
    running.wait_for_error(&format!("fired {due_ms}"));
    assert!(now_ms() >= due_ms);
    running.interrupt();
    running.wait().expect_code(0);
    assert_eq!(fired(&sandbox), [pair("k", &format!("{due_ms} loud 1"))]);
    assert_eq!(describe(&sandbox)["timers"], 1);
}

/// Fails when timers are not written with the checkpoint, and when they are not read at the start.
#[test]
fn timers_of_the_future_survive_restarts_and_cancelled_ones_never_fire() {
    // Small batches: the timers come from many checkpoints.
    let sandbox = scene(1, "batch = { max-records = 16 }");
    let timers = shuffled(200, NEVER_MS);
    let set = timers.iter();
    let set = set.map(|(key, due_ms)| (key.clone(), format!("set {due_ms} x")));
    // Set and cancelled within a batch, and in a later one.
    let gone = ["a", "b"].map(|key| (key.to_owned(), format!("set {NEVER_MS} gone")));
    let cancelled = [("a".to_owned(), format!("cancel {NEVER_MS}"))];
    produce(&sandbox, gone.into_iter().chain(cancelled).chain(set));
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["timers"], &summary["outcome"]),
        (&json!(0), &json!("idle"))
    );
    assert_eq!(describe(&sandbox)["timers"], 201);
    // Cancelled by another run than that which set it.
    produce(&sandbox, [("b", format!("cancel {NEVER_MS}"))]);
    assert_eq!(run_at(&sandbox, NEVER_MS - 1)["timers"], 0);
    assert_eq!(describe(&sandbox)["timers"], 200);
    // Those that are due fire, and no other.
    assert_eq!(run_at(&sandbox, NEVER_MS + 9)["timers"], 30);
    assert_eq!(run_at(&sandbox, NEVER_MS + 200)["timers"], 170);
    assert_eq!(fired(&sandbox), in_firing_order(&timers));
    assert_eq!(run_at(&sandbox, NEVER_MS + 200)["timers"], 0);
}

/// Timers that are all cancelled, some by a later run and around kills, leave nothing: nothing fires, nothing is
/// pending, and what is set at their times anew fires once.
///
/// Fails when a cancelled timer stays in the store.
#[test]
fn timers_that_are_all_cancelled_leave_nothing() {
    let sandbox = scene(1, "batch = { max-records = 16 }");
    let timers = shuffled(5_000, NEVER_MS);
    let commands = |verb: &'static str| {
        let timers = timers.iter();
        timers.map(move |(key, due_ms)| (key.clone(), format!("{verb} {due_ms} x")))
    };
    produce(&sandbox, commands("set"));
    // Half of them are cancelled by the run that sets them.
    produce(&sandbox, commands("cancel").step_by(2));
    assert_eq!(run(&sandbox)["timers"], 0);
    assert_eq!(describe(&sandbox)["timers"], 2_500);
    produce(&sandbox, commands("cancel"));
    failpoints::kill_runs(&sandbox, "commit::after-write", "");
    run(&sandbox);
    assert_eq!(describe(&sandbox)["timers"], 0);
    assert_eq!(run_at(&sandbox, NEVER_MS + 5_000)["timers"], 0);
    assert!(fired(&sandbox).is_empty());
    let (key, due_ms) = timers[0].clone();
    produce(&sandbox, [(key.clone(), format!("set {due_ms} x"))]);
    assert_eq!(run_at(&sandbox, NEVER_MS + 5_000)["timers"], 1);
    assert_eq!(run_at(&sandbox, NEVER_MS + 5_000)["timers"], 0);
    assert_eq!(fired(&sandbox), [pair(&key, &format!("{due_ms} x 1"))]);
}

/// Fails when a timer is removed after what its own firing has set.
#[test]
fn a_timer_that_sets_itself_again_fires_again() {
    let sandbox = scene(1, "");
    let past_ms = produce_past(&sandbox, &[("a", "set +1 again"), ("b", "set +1 x")]);
    assert_eq!(run(&sandbox)["timers"], 3);
    let expected = [
        pair("a", "+1 again 1"),
        pair("b", "+1 x 1"),
        pair("a", "+1 x 2"),
    ];
    assert_eq!(fired_past(&sandbox, past_ms), expected);
}

/// A poisoned timer among others of the same time.
#[track_caller]
fn assert_dead_lettered(payload: &str, reason: &str, attempts: u64, error: &str) {
    let retry = "retry = { max-attempts = 2, initial = \"10ms\" }";
    let sandbox = scene(1, retry);
    let first_ms = past_ms();
    let bad_ms = first_ms + 10;
    let timers = shuffled(100, first_ms);
    let set = timers.iter();
    let set = set.map(|(key, due_ms)| (key.clone(), format!("set {due_ms} x")));
    produce(
        &sandbox,
        set.chain([("bad/key".to_owned(), format!("set {bad_ms} {payload}"))]),
    );
    let summary = run(&sandbox);
    assert_eq!(summary["dead_letters"], 1, "{summary}");
    let mut out = fired(&sandbox);
    out.sort();
    let mut expected = in_firing_order(&timers);
    expected.sort();
    assert_eq!(out, expected);
    let letters = dead_letters(&sandbox);
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}");
    };
    let origin = format!("timer:suspect/0/bad%2Fkey@{bad_ms}");
    assert_eq!(letter["origin"], origin);
    assert_eq!(letter["key"], "bad/key");
    assert_eq!(letter["value"], payload);
    assert_eq!(letter["timestamp_ms"], bad_ms);
    assert_eq!(letter["reason"], reason);
    assert_eq!(letter["attempts"], attempts);
    let said = letter["error"].as_str().unwrap();
    assert!(said.contains(error), "{said}");
    assert_eq!(run(&sandbox)["dead_letters"], 0);
    assert_eq!(describe(&sandbox)["timers"], 0);
}

/// Fails when a batch of timers is not halved.
#[test]
fn a_timer_that_traps() {
    assert_dead_lettered("poison", "trap", 2, "a poisoned timer");
}

#[test]
fn a_timer_that_is_rejected() {
    assert_dead_lettered("reject", "rejected", 1, "the timer is no good");
}

#[test]
fn a_timer_that_asks_for_another_attempt_too_often() {
    assert_dead_lettered("retry 3", "max-attempts", 2, "no good yet");
}

/// Fails when a timer that is to be tried again does not hold those of its key, or is told no count.
#[test]
fn a_timer_that_is_tried_again_goes_before_those_of_its_key() {
    let sandbox = scene(1, "retry = { order = \"key\" }");
    let commands = [
        ("a", "set +1 retry 3"),
        ("a", "set +2 x"),
        ("b", "set +3 x"),
        ("a", "set +4 x"),
    ];
    let past_ms = produce_past(&sandbox, &commands);
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["retries"], &summary["timers"]),
        (&json!(2), &json!(4))
    );
    let out = fired_past(&sandbox, past_ms);
    let of_a: Vec<&str> = out
        .iter()
        .filter(|(key, _)| key == "a")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(of_a, ["+1 retry 3 1", "+2 x 1", "+4 x 1"]);
    assert_eq!(out[0], pair("b", "+3 x 1"), "b waits for a");
}

/// A timer that another one of the same batch cancels does not fire, also if the batch is halved between
/// the two.
///
/// Fails when what an earlier part has cancelled fires with a later one.
#[test]
fn a_timer_that_is_cancelled_by_one_of_its_batch_does_not_fire() {
    for poison in ["x", "poison"] {
        let sandbox = scene(1, "retry = { max-attempts = 1 }");
        let commands = [
            ("a", "set +7 cancel d"),
            ("b", "set +7 x"),
            ("c", &format!("set +7 {poison}")),
            ("d", "set +7 x"),
        ];
        produce_past(&sandbox, &commands);
        run(&sandbox);
        let keys: Vec<String> = fired(&sandbox).into_iter().map(|(key, _)| key).collect();
        match poison {
            "x" => assert_eq!(keys, ["a", "b", "c"]),
            _ => assert_eq!(keys, ["a", "b"]),
        }
        assert_eq!(describe(&sandbox)["timers"], 0);
    }
}

/// Fails when a timer that comes back is not known as one, or loses its key, payload or time.
#[test]
fn a_dead_letter_of_a_timer_goes_back_to_its_pipeline() {
    let attempts = |max: u32| {
        format!(
            "retry = {{ max-attempts = {max}, initial = \"10ms\" }}\nbatch = {{ max-records = 4 }}"
        )
    };
    let sandbox = scene(2, &attempts(2));
    let commands = [("k/1", "set +7 retry 3"), ("k/2", "set +8 x")];
    let past_ms = produce_past(&sandbox, &commands);
    assert_eq!(run(&sandbox)["dead_letters"], 1);
    let to_topic = ["dead-letter", "redrive", "suspect", "--to", "topic"];
    let kept = sandbox.run(&to_topic);
    assert!(
        format!("{}{}", kept.stdout, kept.stderr).contains("it was a timer"),
        "{}{}",
        kept.stdout,
        kept.stderr
    );
    assert_eq!(dead_letters(&sandbox).len(), 1);
    wire(&sandbox, "testing-timers", 2, &attempts(5));
    sandbox.succeed(&["dead-letter", "redrive", "suspect"]);
    assert_eq!(dead_letters(&sandbox).len(), 0);
    assert_eq!(run(&sandbox)["retries"], 2);
    let mut out = fired_past(&sandbox, past_ms);
    out.sort();
    assert_eq!(out, [pair("k/1", "+7 retry 3 1"), pair("k/2", "+8 x 1")]);
}

#[test]
fn a_pipeline_that_stops_at_a_timer_keeps_it_and_says_which() {
    let sandbox = scene(1, "dead-letter = \"stop\"\nretry = { max-attempts = 1 }");
    let commands = [("a", "set +1 x"), ("b", "set +2 reject"), ("c", "set +3 x")];
    let past_ms = produce_past(&sandbox, &commands);
    let stopping = format!("`timer:suspect/0/b@{}`", past_ms + 2);
    for _ in 0..2 {
        let arguments = ["run", "millstream.toml", "--until-idle"];
        sandbox.run(&arguments).expect_failure().expect_error(&[
            &stopping,
            "the timer is no good",
            "the timer stays set, and fires again at the next start",
        ]);
        // What comes before it goes through.
        assert_eq!(fired_past(&sandbox, past_ms), [pair("a", "+1 x 1")]);
        assert_eq!(describe(&sandbox)["timers"], 2);
    }
    wire(&sandbox, "testing-timers", 1, "");
    assert_eq!(run(&sandbox)["dead_letters"], 1);
    let all = [pair("a", "+1 x 1"), pair("c", "+3 x 1")];
    assert_eq!(fired_past(&sandbox, past_ms), all);
}

#[test]
fn at_most_once_fires_once_and_gives_up_at_once() {
    let sandbox = scene(1, "delivery = \"at-most-once\"");
    let commands = [
        ("a", "set +1 chain 2"),
        ("b", "set +2 retry 2"),
        ("c", "set +3 x"),
    ];
    let past_ms = produce_past(&sandbox, &commands);
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["timers"], &summary["dead_letters"]),
        (&json!(5), &json!(1))
    );
    let mut out = fired_past(&sandbox, past_ms);
    out.sort();
    let expected = [
        pair("a", "+1 chain 2 1"),
        pair("a", "+2 chain 1 1"),
        pair("a", "+3 chain 0 1"),
        pair("c", "+3 x 1"),
    ];
    assert_eq!(out, expected);
}

#[test]
fn timers_wait_for_a_plugin_that_handles_them() {
    let sandbox = scene(1, "");
    produce(&sandbox, [("k", format!("set {NEVER_MS} x"))]);
    assert_eq!(run(&sandbox)["timers"], 0);
    wire(&sandbox, "passthrough", 1, "");
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command.env("FAILPOINTS", format!("timers::now=return({NEVER_MS})"));
    let finished = sandbox.start_command(command).wait().expect_code(0);
    assert!(
        finished.stderr.contains("timers are set, and the plugin"),
        "{}",
        finished.stderr
    );
    assert_eq!(describe(&sandbox)["timers"], 1);
    wire(&sandbox, "testing-timers", 1, "");
    assert_eq!(run_at(&sandbox, NEVER_MS)["timers"], 1);
    assert_eq!(fired(&sandbox), [pair("k", &format!("{NEVER_MS} x 1"))]);
}

/// Kills runs at a step of their checkpoints: each timer of each chain fires once, one after another, and
/// its count in the state says so too.
///
/// Fails when timers are removed, or set, by another commit than that of the outputs, before it or after.
fn kill_at(step: &str) {
    kill_with(step, "");
}

fn kill_with(step: &str, settings: &str) {
    const CHAINS: u64 = 1_500;
    const LENGTH: u64 = 5;
    let batch = "batch = { max-records = 4, max-wait = \"0s\" }";
    let sandbox = scene(4, &format!("{batch}\n{settings}"));
    let past_ms = past_ms();
    let chain = |n: u64| {
        let first_ms = past_ms + n % 7;
        (format!("k{n}"), format!("set {first_ms} chain {LENGTH}"))
    };
    produce(&sandbox, (0..CHAINS).map(chain));
    failpoints::kill_runs(&sandbox, step, "");
    run(&sandbox);
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in fired(&sandbox) {
        by_key.entry(key).or_default().push(value);
    }
    let expected: BTreeMap<String, Vec<String>> = (0..CHAINS)
        .map(|n| {
            let first_ms = past_ms + n % 7;
            let link = |at| format!("{} chain {} 1", first_ms + at, LENGTH - at);
            (format!("k{n}"), (0..=LENGTH).map(link).collect())
        })
        .collect();
    assert_eq!(by_key, expected);
    assert_eq!(describe(&sandbox)["timers"], 0);
}

#[test]
fn a_kill_before_a_checkpoint_is_submitted() {
    kill_at(failpoints::STEPS[0]);
}

#[test]
fn a_kill_before_a_commit_is_written() {
    kill_at(failpoints::STEPS[1]);
}

#[test]
fn a_kill_after_a_commit_is_written() {
    kill_at(failpoints::STEPS[2]);
}

#[test]
fn a_kill_before_a_commit_is_answered() {
    kill_at(failpoints::STEPS[3]);
}

#[test]
fn a_kill_after_a_checkpoint_is_acknowledged() {
    kill_at(failpoints::STEPS[4]);
}

/// The timers of each instance are its own.
///
/// Fails when a lane says that it is done before what it has set can be read.
#[test]
fn a_kill_of_many_instances() {
    for step in &failpoints::STEPS[1..3] {
        kill_with(step, "concurrency = 3");
    }
}

/// Fails when a timer is not held behind one of its key that is tried again.
#[test]
fn many_instances_keep_the_order_of_each_key() {
    let sandbox = scene(1, "concurrency = 4");
    let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
    let commands: Vec<(&str, &str)> = keys
        .iter()
        .flat_map(|key| {
            let commands = ["set +1 retry 3", "set +2 x", "set +3 y"];
            commands.map(|command| (key.as_str(), command))
        })
        .collect();
    let past_ms = produce_past(&sandbox, &commands);
    let summary = run(&sandbox);
    assert_eq!(summary["timers"], 120, "{summary}");
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in fired_past(&sandbox, past_ms) {
        by_key.entry(key).or_default().push(value);
    }
    assert_eq!(by_key.len(), keys.len());
    for (key, values) in by_key {
        // A count above 1 would be one of a timer that has fired twice.
        assert_eq!(values, ["+1 retry 3 1", "+2 x 1", "+3 y 1"], "{key}");
    }
}

/// A timer is handled by the instance that has set it, and so has its state, however its key is called.
///
/// Fails when one that is tried again goes to the instance that has records of its key.
#[test]
fn a_timer_stays_with_the_instance_that_has_its_state() {
    let sandbox = scene(1, "concurrency = 4");
    let commands: Vec<(String, String)> = (0..40)
        .map(|n| (format!("k{n}"), format!("as other-{n} set +1 retry 3")))
        .collect();
    let commands: Vec<(&str, &str)> = commands
        .iter()
        .map(|(key, command)| (key.as_str(), command.as_str()))
        .collect();
    produce_past(&sandbox, &commands);
    let summary = run(&sandbox);
    assert_eq!(
        (&summary["retries"], &summary["dead_letters"]),
        (&json!(80), &json!(0)),
        "{summary}"
    );
    assert_eq!(fired(&sandbox).len(), 40);
}

/// Fails when timers do not count as something that instances keep.
#[test]
fn timers_keep_their_number_of_instances() {
    let sandbox = scene(1, "concurrency = 2");
    produce(&sandbox, [("k", format!("set {NEVER_MS} x"))]);
    run(&sandbox);
    wire(&sandbox, "testing-timers", 1, "concurrency = 3");
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_failure()
        .expect_error(&["timers", "`suspect`", "2 instances"]);
    wire(&sandbox, "testing-timers", 1, "concurrency = 2");
    assert_eq!(run_at(&sandbox, NEVER_MS)["timers"], 1);
}

/// Fails when a timer is replayed as if it were a record, or without its state.
#[test]
fn a_dead_letter_of_a_timer_is_replayed() {
    let sandbox = scene(1, "retry = { max-attempts = 2, initial = \"10ms\" }");
    produce_past(&sandbox, &[("k", "set +7 poison")]);
    assert_eq!(run(&sandbox)["dead_letters"], 1);
    let path = component("testing-timers");
    let replay = ["dead-letter", "replay", "suspect", "0", "--output", "json"];
    let arguments = [&replay[..], &["--plugin", path.to_str().unwrap()]].concat();
    let finished = sandbox.run(&arguments).expect_code(4);
    let replayed: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(replayed["now"]["outcome"], "trap");
    assert_eq!(replayed["same"], true, "{replayed}");
}
