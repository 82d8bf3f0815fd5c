//! A crash at each step of a checkpoint's way to the disk: every record still counts exactly once.
//!
//! `FAILPOINTS` names the step and how often it is passed before something happens there. The
//! process is then killed while the thread stands at that step, or the thread panics there, or the
//! write fails.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | the offset is committed apart from the outputs, before or after them | `a_kill_*` |
//! | the state is committed apart from the outputs | `a_kill_*` |
//! | a commit is answered before it is written | `produce_says_acknowledged_only_after_the_write` |
//! | a partition's new end is not stored with its batches | all of them |
//! | the store goes on after a failed write | `produce_stops_at_a_failed_write` |
//! | a fold drops the changelog apart from what it writes | `a_kill_at_any_step_of_a_fold` |
//! | commits of one flush are told one by one | `produce_acknowledges_the_first_records_of_its_input` |

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use crate::support::counting::{self, Workload};
use crate::support::{Random, Running, Sandbox};

/// The steps, in the order in which a checkpoint passes them.
pub const STEPS: [&str; 5] = [
    "checkpoint::before-submit",
    "commit::before-write",
    "commit::after-write",
    "commit::before-reply",
    "checkpoint::acknowledged",
];
/// Records of each test: about 1,250 checkpoints of the counting pipeline.
const RECORDS: u64 = 20_000;
/// How long the thread has to come to the step again after it has said that it was there.
const TO_THE_NEXT: Duration = Duration::from_millis(100);

/// Starts a run with an action at a step.
fn start(sandbox: &Sandbox, step: &str, actions: &str) -> Running {
    start_with(sandbox, &format!("{step}={actions}"))
}

fn start_with(sandbox: &Sandbox, failpoints: &str) -> Running {
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command
        .env("FAILPOINTS", failpoints)
        .env("RUST_LOG", "warn,fail=info");
    sandbox.start_command(command)
}

fn with_records(seed: u64) -> (Sandbox, Workload) {
    let sandbox = Sandbox::new();
    sandbox.manifest(counting::MANIFEST);
    let mut workload = Workload::new(seed);
    workload.produce(&sandbox, RECORDS);
    (sandbox, workload)
}

fn finish(sandbox: &Sandbox, workload: &Workload) {
    sandbox.run_until_idle();
    workload.assert_counted_once(sandbox);
}

/// Kills runs while a thread stands at the step.
fn kill_at(step: &str) {
    kill_with(step, "");
}

/// As `kill_at`, with further failpoints.
fn kill_with(step: &str, others: &str) {
    let (sandbox, workload) = with_records(3);
    kill_runs(&sandbox, step, others);
    finish(&sandbox, &workload);
}

/// Kills runs of the sandbox's manifest while a thread stands at the step.
pub fn kill_runs(sandbox: &Sandbox, step: &str, others: &str) {
    let mut random = Random::from_environment();
    for passes in [0, 1, 2, random.within(3..20), random.within(20..200)] {
        let before = match passes {
            0 => String::new(),
            passes => format!("{passes}*off->"),
        };
        let failpoints = format!("{others}{step}={before}1*print(is near)->pause");
        let mut run = start_with(sandbox, &failpoints);
        run.wait_for_error("is near");
        std::thread::sleep(TO_THE_NEXT);
        assert!(run.kill().0, "{step}: the run ended by itself");
    }
}

#[test]
fn a_kill_before_a_checkpoint_is_submitted() {
    kill_at(STEPS[0]);
}

#[test]
fn a_kill_before_a_commit_is_written() {
    kill_at(STEPS[1]);
}

#[test]
fn a_kill_after_a_commit_is_written() {
    kill_at(STEPS[2]);
}

#[test]
fn a_kill_before_a_commit_is_answered() {
    kill_at(STEPS[3]);
}

#[test]
fn a_kill_after_a_checkpoint_is_acknowledged() {
    kill_at(STEPS[4]);
}

/// Every checkpoint folds the state: it writes what changed, and drops the changelog before it.
#[test]
fn a_kill_at_any_step_of_a_fold() {
    for step in ["state::fold"].iter().chain(&STEPS) {
        kill_with(step, "state::fold-now=return;");
    }
}

/// Some checkpoints fold and others do not, so that a restart finds folded state and a changelog.
#[test]
fn a_kill_between_folds() {
    for step in ["state::fold", "commit::before-write", "commit::after-write"] {
        kill_with(step, "state::fold-now=30%return;");
    }
}

#[test]
fn a_panic_at_any_step_ends_the_run_with_an_error() {
    let (sandbox, workload) = with_records(4);
    for step in STEPS {
        for passes in [1, 30] {
            start(&sandbox, step, &format!("{passes}*off->panic"))
                .wait()
                .expect_failure()
                .expect_error(&["error: ", step]);
        }
    }
    finish(&sandbox, &workload);
}

#[test]
fn a_failed_write_stops_all_writing_and_loses_nothing() {
    let (sandbox, workload) = with_records(5);
    for passes in [0, 1, 20, 100] {
        let actions = match passes {
            0 => "return(no space left)".to_owned(),
            passes => format!("{passes}*off->1*return(no space left)"),
        };
        start(&sandbox, "commit::before-write", &actions)
            .wait()
            .expect_code(1)
            .expect_error(&["error: ", "stopped accepting writes", "no space left"]);
    }
    finish(&sandbox, &workload);
}

/// A `produce` whose input comes line by line says after each that it is acknowledged. It is killed
/// at a step of a commit: what it said has to be there. Each line waits for the one before it, so that
/// each is a commit of its own, and the step comes.
fn kill_produce_at(step: &str) {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&[
        "produce",
        "topic:lines",
        "--create",
        "--format",
        "lines",
        "--progress-interval",
        "1ms",
    ]);
    command
        .env(
            "FAILPOINTS",
            format!("{step}=8*off->1*print(is near)->pause"),
        )
        .env("RUST_LOG", "warn,fail=info")
        .stdin(Stdio::piped());
    let mut produce = sandbox.start_command(command);
    let mut stdin = produce.stdin();
    for number in 0..20 {
        writeln!(stdin, "line {number}").unwrap();
        let is_near = |produce: &Running| produce.stderr().contains("is near");
        let acknowledged = format!("acknowledged {} records", number + 1);
        produce.wait_until(&acknowledged, |produce| {
            is_near(produce) || produce.stderr().contains(&acknowledged)
        });
        if is_near(&produce) {
            break;
        }
    }
    produce.wait_for_error("is near");
    std::thread::sleep(TO_THE_NEXT);
    let (was_killed, finished) = produce.kill();
    assert!(was_killed, "{step}: produce ended by itself");
    let acknowledged = finished.acknowledged_records();
    let stored = sandbox.consume("lines");
    assert!(
        (1..=stored.len() as u64).contains(&acknowledged),
        "{step}: {acknowledged} records are acknowledged, {} are there",
        stored.len()
    );
    for (number, record) in stored.iter().enumerate() {
        assert_eq!(record.value_text(), format!("line {number}"));
    }
}

#[test]
fn produce_says_acknowledged_only_after_the_write() {
    for step in STEPS.iter().filter(|step| step.starts_with("commit::")) {
        kill_produce_at(step);
    }
}

/// With many partitions what is sent at a time is several commits, each with some of the partitions.
/// Wherever writing fails, as many records as are acknowledged are the first ones of the input.
#[test]
fn produce_acknowledges_the_first_records_of_its_input() {
    const LINES: usize = 120_000;
    let folder = Sandbox::new();
    let line = |number: usize| format!("{{\"number\":{number},\"filling\":\"{number:0100}\"}}");
    let file = folder.write_lines("lines.jsonl", (0..LINES).map(line));
    let mut partial_count = 0;
    // A flush has up to 60 KiB for each partition and is cut into commits of 1 MiB, of which each is a write here:
    // some of these writes are the second one of a flush, wherever the first flush begins.
    for passes in 1..=8 {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(&[
            "produce",
            "topic:lines",
            "--create",
            "--partitions",
            "64",
            "--key-field",
            "number",
            "--output",
            "json",
            "--file",
            file.to_str().unwrap(),
        ]);
        command.env(
            "FAILPOINTS",
            format!(
                "commit::one-by-one=return;commit::before-write={passes}*off->1*return(no space left)"
            ),
        );
        let finished = sandbox.start_command(command).wait();
        let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
        let acknowledged = summary["records"].as_u64().unwrap();
        let stored: BTreeSet<u64> = sandbox
            .consume("lines")
            .iter()
            .map(|record| record.value_json()["number"].as_u64().unwrap())
            .collect();
        for number in 0..acknowledged {
            assert!(
                stored.contains(&number),
                "{acknowledged} records are acknowledged, {number} is not there"
            );
        }
        partial_count += usize::from((stored.len() as u64) > acknowledged);
    }
    assert!(
        partial_count > 0,
        "no write failed in the middle of a flush"
    );
}

#[test]
fn produce_stops_at_a_failed_write() {
    const LINES: usize = 200_000;
    let sandbox = Sandbox::new();
    let line = |number: usize| format!("{number:0100}");
    let file = sandbox.write_lines("lines.txt", (0..LINES).map(line));
    let mut command = sandbox.command(&[
        "produce",
        "topic:lines",
        "--create",
        "--format",
        "lines",
        "--output",
        "json",
        "--file",
        file.to_str().unwrap(),
    ]);
    // The disk has room again for the commits after it, which are on their way already.
    command.env(
        "FAILPOINTS",
        "commit::before-write=5*off->1*return(no space left)",
    );
    let finished = sandbox
        .start_command(command)
        .wait()
        .expect_code(1)
        .expect_error(&["error: ", "stopped accepting writes", "no space left"]);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    let records = sandbox.consume("lines");
    assert_eq!(summary["records"], records.len());
    assert!((1..LINES).contains(&records.len()), "{}", records.len());
    for (number, record) in records.iter().enumerate() {
        assert_eq!(record.value_text(), line(number), "a gap: {record:?}");
    }
}
