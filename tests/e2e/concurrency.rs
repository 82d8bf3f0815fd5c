//! Several instances of a plugin in each task: nothing is lost or doubled, the order of each key is kept,
//! and a slow key delays only itself.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | a lane's offsets are not stored beyond the committed offset | `kills_*` |
//! | what is stored beyond the offset is not looked at after a restart | `kills_*`, `the_number_of_instances_can_change` |
//! | records of a key go to any lane that is free | `kills_with_state_*`, `retries_keep_*` |
//! | a full backlog is not parked | `a_flood_of_a_slow_key_does_not_hold_up_the_others` |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::counting::{self, Workload};
use crate::support::{Answer, Random, Sandbox, Service, note};

fn produce(sandbox: &Sandbox, records: impl IntoIterator<Item = Value>) {
    let lines = records.into_iter().map(|record| record.to_string());
    let file = sandbox.write_lines("records.jsonl", lines);
    sandbox.produce_records("in", &file);
}

fn run(sandbox: &Sandbox) -> Value {
    sandbox.json(&["run", "millstream.toml", "--until-idle"])
}

fn record(key: &str, value: String) -> Value {
    json!({ "key": key, "value": value })
}

/// Values of the output, in its order.
fn values(sandbox: &Sandbox) -> Vec<String> {
    let out = sandbox.consume("out");
    out.iter()
        .map(|record| record.value_text().to_owned())
        .collect()
}

/// Kills runs at random moments; `settings` are those of each run.
fn kill_runs<'a>(
    sandbox: &Sandbox,
    random: &mut Random,
    count: usize,
    mut before: impl FnMut(usize) + 'a,
) {
    for number in 0..count {
        before(number);
        let running = sandbox.start(&["run", "millstream.toml", "--until-idle"]);
        std::thread::sleep(random.within_ms(60..500));
        let (was_running, _) = running.kill();
        note(format_args!("killed while running: {was_running}"));
    }
}

/// State is kept by key: the counts of each key are those of a fold over its records, in their order.
#[test]
fn kills_with_state_count_every_record_once() {
    let sandbox = Sandbox::new();
    let concurrent = counting::MANIFEST
        .replace("plugin = \"count\"", "plugin = \"count\"\nconcurrency = 4")
        .replace(
            "plugin = \"passthrough\"",
            "plugin = \"passthrough\"\nconcurrency = 3",
        );
    sandbox.manifest(&concurrent);
    let mut random = Random::from_environment();
    let mut workload = Workload::new(11);
    workload.produce(&sandbox, 20_000);
    kill_runs(&sandbox, &mut random, 8, |_| {});
    sandbox.run_until_idle();
    workload.assert_counted_once(&sandbox);
    // Everything counts as processed, and nothing is left beyond the offsets.
    for pipeline in ["count", "copy"] {
        let described = sandbox.json(&["pipeline", "describe", pipeline]);
        assert_eq!(described["lag_records"], 0, "{described}");
    }
}

/// What is done beyond the committed offset counts, whatever number of instances the next run has.
#[test]
fn the_number_of_instances_can_change() {
    const RECORDS: u64 = 30_000;
    let sandbox = Sandbox::new();
    let mut random = Random::from_environment();
    let manifest = |concurrency: u32| {
        let settings = format!(
            "concurrency = {concurrency}\nallow = {{ clocks = true }}\nbatch = {{ max-records = 4 }}"
        );
        sandbox.wire_suspect("testing-slow", 2, &settings);
    };
    manifest(1);
    produce(
        &sandbox,
        (0..RECORDS).map(|number| record(&format!("k{}", number % 50), format!("record {number}"))),
    );
    let counts = [8, 1, 3, 16, 2, 1];
    kill_runs(&sandbox, &mut random, counts.len(), |at| {
        manifest(counts[at])
    });
    manifest(1);
    run(&sandbox);
    let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in sandbox.consume("out") {
        let number = record
            .value_text()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        by_key
            .entry(record.key_text().to_owned())
            .or_default()
            .push(number);
    }
    for (key, numbers) in &by_key {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key}: {numbers:?}");
    }
    assert_eq!(by_key.values().map(Vec::len).sum::<usize>() as u64, RECORDS);
}

/// State that is spread over so many instances cannot be read by another number of them.
#[test]
fn state_keeps_its_number_of_instances() {
    let sandbox = Sandbox::new();
    let manifest = |concurrency: u32| {
        sandbox.wire_suspect(
            "testing-stateful-count",
            1,
            &format!("concurrency = {concurrency}"),
        );
    };
    manifest(2);
    produce(
        &sandbox,
        (0..10).map(|number| record("k", number.to_string())),
    );
    run(&sandbox);
    manifest(3);
    sandbox
        .run(&["run", "millstream.toml", "--until-idle"])
        .expect_failure()
        .expect_error(&["`suspect`", "2 instances", "concurrency = 3"]);
    manifest(2);
    run(&sandbox);
    assert_eq!(sandbox.consume("out").len(), 10);
}

/// A service that keeps the call of `first` waiting until so many of `quick …` have come.
struct Gate {
    service: Service,
    has_opened: Arc<AtomicBool>,
}

impl Gate {
    fn start(quick: usize) -> Self {
        /// Longer than any machine takes.
        const PATIENCE: Duration = Duration::from_secs(120);
        let has_opened = Arc::new(AtomicBool::new(false));
        let (opened, seen) = (Arc::clone(&has_opened), AtomicUsize::new(0));
        let service = Service::start(move |call| {
            if call.body.starts_with("quick") {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            let began = Instant::now();
            while call.body == "first" && !opened.load(Ordering::SeqCst) {
                let have_come = seen.load(Ordering::SeqCst) >= quick;
                opened.store(have_come, Ordering::SeqCst);
                if began.elapsed() > PATIENCE {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Answer::Status(200, call.body.clone())
        });
        Self {
            service,
            has_opened,
        }
    }

    /// One partition, four instances that call it.
    fn wire(&self, sandbox: &Sandbox) {
        let (url, authority) = (self.service.url(), self.service.authority());
        let settings = format!(
            "concurrency = 4\nlimits = {{ deadline = \"300s\" }}\nallow = {{ http = [\"{authority}\"] }}\n\
             config = {{ url = \"{url}\", timeout-ms = 200000 }}"
        );
        sandbox.wire_suspect("testing-calls-service", 1, &settings);
    }

    /// Runs; returns the outputs of the slow key.
    #[track_caller]
    fn run(&self, sandbox: &Sandbox, count: usize) -> Vec<String> {
        run(sandbox);
        assert!(self.has_opened.load(Ordering::SeqCst), "the others waited");
        let mut out = values(sandbox);
        assert_eq!(out.len(), count);
        out.retain(|value| !value.starts_with("quick"));
        out
    }
}

fn quick(count: u64) -> impl Iterator<Item = Value> {
    (0..count).map(|number| record(&format!("k{}", number % 40), format!("quick {number}")))
}

/// One record takes long: all records of other keys pass it, those of its key wait.
#[test]
fn a_slow_key_delays_only_itself() {
    let gate = Gate::start(500);
    let sandbox = Sandbox::new();
    gate.wire(&sandbox);
    let slow = ["first", "second"].map(|value| record("slow", value.to_owned()));
    produce(&sandbox, slow.into_iter().chain(quick(500)));
    assert_eq!(gate.run(&sandbox, 502), ["first", "second"]);
}

/// More records of a slow key than the task holds: they wait in the store, in their order, and the others pass.
#[test]
fn a_flood_of_a_slow_key_does_not_hold_up_the_others() {
    const FLOOD: usize = 5_000;
    let gate = Gate::start(200);
    let sandbox = Sandbox::new();
    gate.wire(&sandbox);
    let first = record("slow", "first".to_owned());
    let flood = (0..FLOOD).map(|number| record("slow", format!("flood {number}")));
    produce(
        &sandbox,
        std::iter::once(first).chain(flood).chain(quick(200)),
    );
    let slow = gate.run(&sandbox, FLOOD + 201);
    assert_eq!(slow[0], "first");
    let numbers = slow[1..].iter();
    let numbers = numbers.map(|value| value.split(' ').nth(1).unwrap().parse::<u64>().unwrap());
    assert!(numbers.is_sorted_by(|a, b| a < b));
}

/// Records of a few keys, some of which fail once or twice.
fn troubled(random: &mut Random, count: u64) -> Vec<Value> {
    (0..count)
        .map(|number| {
            let key = format!("k{}", random.within(0..20));
            let word = match random.within(0..100) {
                0..3 => format!("retry-{}", random.within(1..3)),
                3 => "trap-1".to_owned(),
                _ => "fine".to_owned(),
            };
            record(&key, format!("{word} {key}/{number}"))
        })
        .collect()
}

/// Failing records keep the order of their keys, also over kills.
#[test]
fn retries_keep_the_order_of_each_key_in_many_instances() {
    const RECORDS: u64 = 3_000;
    let sandbox = Sandbox::new();
    let mut random = Random::from_environment();
    sandbox.wire_suspect(
        "testing-flaky",
        2,
        "concurrency = 4\nretry = { initial = \"10ms\" }\nbatch = { max-records = 16 }",
    );
    produce(&sandbox, troubled(&mut random, RECORDS));
    kill_runs(&sandbox, &mut random, 4, |_| {});
    assert_eq!(run(&sandbox)["dead_letters"], 0);
    let out = sandbox.consume("out");
    assert_eq!(out.len() as u64, RECORDS);
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for record in &out {
        let number = record
            .value_text()
            .split(['/', ' '])
            .nth(2)
            .unwrap()
            .parse()
            .unwrap();
        let before = last.insert(record.key_text().to_owned(), number);
        assert!(
            before.is_none_or(|before| before < number),
            "{} after {before:?}",
            record.value_text()
        );
    }
}

/// Messages of a queue go to many instances, and each comes out once.
#[test]
fn many_instances_share_a_queue() {
    const MESSAGES: u64 = 5_000;
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "shared"

[topics.out]

[queues.work]

[plugins.slow]
path = "{testing-slow}"

[pipelines.slow]
from = "queue:work"
plugin = "slow"
to = "topic:out"
concurrency = 5
allow = { clocks = true }
"#,
    );
    let file = sandbox.write_lines(
        "numbers.txt",
        (0..MESSAGES).map(|number| number.to_string()),
    );
    let file = file.to_str().unwrap();
    sandbox.succeed(&[
        "produce",
        "queue:work",
        "--create",
        "--format",
        "lines",
        "--file",
        file,
    ]);
    let mut random = Random::from_environment();
    kill_runs(&sandbox, &mut random, 4, |_| {});
    run(&sandbox);
    let mut numbers: Vec<u64> = values(&sandbox)
        .iter()
        .map(|value| value.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>());
    assert_eq!(sandbox.json(&["queue", "describe", "work"])["waiting"], 0);
}

/// At-most-once doubles nothing, however many instances there are.
#[test]
fn at_most_once_doubles_nothing_in_many_instances() {
    const RECORDS: u64 = 20_000;
    let sandbox = Sandbox::new();
    sandbox.wire_suspect(
        "testing-slow",
        2,
        "concurrency = 4\ndelivery = \"at-most-once\"\nallow = { clocks = true }\nbatch = { max-records = 8 }",
    );
    produce(
        &sandbox,
        (0..RECORDS).map(|number| record(&format!("k{}", number % 50), format!("record {number}"))),
    );
    let mut random = Random::from_environment();
    kill_runs(&sandbox, &mut random, 5, |_| {});
    run(&sandbox);
    let out = values(&sandbox);
    let distinct: std::collections::BTreeSet<_> = out.iter().collect();
    assert_eq!(distinct.len(), out.len());
}
