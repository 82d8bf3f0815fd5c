//! A record that takes long, in a task with several instances: it delays those of its key, which stay in order behind
//! it whatever is killed, and nobody else. Messages that wait for it stay the task's.
//!
//! What these checks catch was tried by breaking the engine by hand:
//!
//! | break | caught by |
//! |---|---|
//! | a full backlog is not parked, or not what came from a queue | `a_flood_*` |
//! | after a restart what was parked runs before the record that it waited for | `a_kill_*` |
//! | a single instance does not look for what was parked before its turn | `a_kill_leaves_the_order_*` |
//! | messages that wait in memory are not leased for longer | `messages_that_wait_*` |
//! | messages of a batch that waits are not leased for longer | `a_message_that_waits_for_an_output_*` |
//! | records wait in memory for an instance that is busy, however many they are | `a_slow_key_with_state_*` |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Sandbox, Service};

/// More records than a task holds.
const FLOOD: usize = 5_000;

/// What the pipeline reads.
#[derive(Clone, Copy)]
enum Source {
    Topic,
    Queue,
}

impl Source {
    fn target(self) -> &'static str {
        match self {
            Self::Topic => "topic:in",
            Self::Queue => "queue:work",
        }
    }

    /// A pipeline from it to `out`, of one task, with these settings of the queue and of the pipeline.
    #[track_caller]
    fn wire(self, sandbox: &Sandbox, plugin: &str, queue: &str, settings: &str) {
        let from = self.target();
        sandbox.manifest(&format!(
            r#"
name = "suspect"

[topics.in]

[topics.out]

[queues.dead]

[queues.work]
{queue}

[plugins.suspect]
path = "{{{plugin}}}"

[pipelines.suspect]
from = "{from}"
plugin = "suspect"
to = "topic:out"
{settings}
"#
        ));
    }

    #[track_caller]
    fn produce(self, sandbox: &Sandbox, records: impl IntoIterator<Item = Value>) {
        produce_to(sandbox, self.target(), records);
    }
}

#[track_caller]
fn produce_to(sandbox: &Sandbox, target: &str, records: impl IntoIterator<Item = Value>) {
    let lines = records.into_iter().map(|record| record.to_string());
    let file = sandbox.write_lines("records.jsonl", lines);
    let file = file.to_str().unwrap();
    let arguments = ["produce", target, "--format", "record", "--file", file];
    sandbox.succeed(&[&arguments[..], &["--manifest", "millstream.toml"]].concat());
}

fn record(key: &str, value: String) -> Value {
    json!({ "key": key, "value": value })
}

#[track_caller]
fn run(sandbox: &Sandbox) -> Value {
    sandbox.json(&["run", "millstream.toml", "--until-idle"])
}

/// Values of the output, in its order.
#[track_caller]
fn values(sandbox: &Sandbox) -> Vec<String> {
    let out = sandbox.consume("out");
    out.iter()
        .map(|record| record.value_text().to_owned())
        .collect()
}

#[track_caller]
fn waiting(sandbox: &Sandbox, queue: &str) -> u64 {
    let described = sandbox.json(&["queue", "describe", queue]);
    described["waiting"].as_u64().unwrap()
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

    /// Four instances that call it.
    fn wire(&self, sandbox: &Sandbox, source: Source) {
        let (url, authority) = (self.service.url(), self.service.authority());
        let settings = format!(
            "concurrency = 4\nlimits = {{ deadline = \"300s\" }}\nallow = {{ http = [\"{authority}\"] }}\n\
             config = {{ url = \"{url}\", timeout-ms = 200000 }}"
        );
        source.wire(sandbox, "testing-calls-service", "", &settings);
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
    gate.wire(&sandbox, Source::Topic);
    let slow = ["first", "second"].map(|value| record("slow", value.to_owned()));
    Source::Topic.produce(&sandbox, slow.into_iter().chain(quick(500)));
    assert_eq!(gate.run(&sandbox, 502), ["first", "second"]);
}

/// `first`, and a flood of others of its key.
fn flood() -> impl Iterator<Item = Value> {
    let flood = (0..FLOOD).map(|number| record("slow", format!("flood {number}")));
    std::iter::once(record("slow", "first".to_owned())).chain(flood)
}

#[track_caller]
fn assert_in_order(slow: &[String]) {
    assert_eq!(slow[0], "first");
    let numbers = slow[1..].iter();
    let numbers = numbers.map(|value| value.split(' ').nth(1).unwrap().parse::<u64>().unwrap());
    assert!(numbers.is_sorted_by(|a, b| a < b));
}

/// More records of a slow key than the task holds: they wait in the store, in their order, and the others pass.
#[track_caller]
fn flood_with(source: Source) {
    let gate = Gate::start(200);
    let sandbox = Sandbox::new();
    gate.wire(&sandbox, source);
    source.produce(&sandbox, flood().chain(quick(200)));
    assert_in_order(&gate.run(&sandbox, FLOOD + 201));
}

#[test]
fn a_flood_of_a_slow_key_does_not_hold_up_the_others() {
    flood_with(Source::Topic);
}

#[test]
fn a_flood_of_a_slow_key_in_a_queue_does_not_hold_up_the_others() {
    flood_with(Source::Queue);
}

/// A kill when the flood waits in the store and its first record is under way: that one still comes first, and
/// others pass it again.
#[track_caller]
fn kill_with(source: Source) {
    let (gate, sandbox) = killed(source);
    source.produce(&sandbox, quick(200));
    assert_in_order(&gate.run(&sandbox, FLOOD + 201));
}

#[track_caller]
fn killed(source: Source) -> (Gate, Sandbox) {
    let gate = Gate::start(200);
    let sandbox = Sandbox::new();
    gate.wire(&sandbox, source);
    source.produce(&sandbox, flood());
    let mut command = sandbox.command(&["run", "millstream.toml"]);
    command.env("RUST_LOG", "warn,millstream=debug");
    let mut run = sandbox.start_command(command);
    run.wait_for_error("parked records behind others");
    assert!(run.kill().0, "the run ended by itself");
    (gate, sandbox)
}

/// As `a_kill_leaves_*`; and the next run has one instance.
#[test]
fn a_kill_leaves_the_order_to_a_single_instance_too() {
    for source in [Source::Topic, Source::Queue] {
        let (_gate, sandbox) = killed(source);
        source.wire(&sandbox, "passthrough", "", "concurrency = 1");
        run(&sandbox);
        let out = values(&sandbox);
        assert_eq!(out.len(), FLOOD + 1);
        assert_in_order(&out);
    }
}

#[test]
fn a_kill_leaves_a_slow_record_before_those_that_wait_for_it() {
    kill_with(Source::Topic);
}

#[test]
fn a_kill_leaves_a_slow_message_before_those_that_wait_for_it() {
    kill_with(Source::Queue);
}

/// Messages of one key wait for each other for longer than the visibility timeout. That is no delivery that came to
/// no end.
#[test]
fn messages_that_wait_for_one_of_their_key_are_delivered_once() {
    // The last one waits for more than two timeouts: that would be one delivery more than it may have.
    const MESSAGES: u64 = 20;
    let sandbox = Sandbox::new();
    Source::Queue.wire(
        &sandbox,
        "testing-slow",
        "visibility-timeout = \"1500ms\"\nmax-deliveries = 2\ndead-letter = \"dead\"",
        "concurrency = 4\nallow = { clocks = true }",
    );
    let value = |number| format!("sleep-200 {number}");
    let messages = (0..MESSAGES).map(|number| record("k", value(number)));
    Source::Queue.produce(&sandbox, messages);
    run(&sandbox);
    assert_eq!(waiting(&sandbox, "dead"), 0);
    let expected: Vec<_> = (0..MESSAGES).map(value).collect();
    assert_eq!(values(&sandbox), expected);
}

/// A message waits at an instance, for an output that is full, for longer than the visibility timeout, while another
/// instance has nothing to do.
#[test]
fn a_message_that_waits_for_an_output_stays_leased() {
    let sandbox = Sandbox::new();
    sandbox.manifest(
        r#"
name = "blocked"

[queues.dead]

[queues.work]
visibility-timeout = "3s"
max-deliveries = 1
dead-letter = "dead"

[queues.full]
max-length = 1

[plugins.pass]
path = "{passthrough}"

[pipelines.pass]
from = "queue:work"
plugin = "pass"
to = "queue:full"
concurrency = 2
limits = { deadline = "1s" }
"#,
    );
    for queue in ["queue:full", "queue:work"] {
        produce_to(&sandbox, queue, [record("k", "v".to_owned())]);
    }
    let mut run = sandbox.start(&["run", "millstream.toml", "-v"]);
    run.wait_for_error("waiting for an output");
    std::thread::sleep(Duration::from_secs(7));
    run.interrupt();
    run.wait().expect_code(0);
    assert_eq!(
        (waiting(&sandbox, "work"), waiting(&sandbox, "dead")),
        (1, 0)
    );
    let peeked = sandbox.succeed(&["queue", "peek", "work", "--output", "json"]);
    let message: Value = serde_json::from_str(peeked.trim()).unwrap();
    assert_eq!(message["delivery_count"], 1, "{message}");
}

/// A key keeps the instance busy that has its state, and so more records of other keys wait for that than the task
/// holds: they wait in the store, and those of other instances pass.
#[test]
fn a_slow_key_with_state_does_not_hold_up_other_instances() {
    const FLOOD: usize = 2_000;
    const KEYS: usize = 100;
    let sandbox = Sandbox::new();
    // A task holds eight reads at most.
    Source::Topic.wire(
        &sandbox,
        "testing-ledger",
        "",
        "concurrency = 2\nbatch = { max-bytes = \"1KiB\" }\nlimits = { deadline = \"4s\" }\nretry = { max-attempts = 1 }",
    );
    let slow = ["0 poison-loop fine", "1 fine fine"].map(|value| record("slow", value.to_owned()));
    let others = (2..FLOOD).map(|number| {
        let key = format!("k{}", number % KEYS);
        record(&key, format!("{number} fine fine"))
    });
    Source::Topic.produce(&sandbox, slow.into_iter().chain(others));
    assert_eq!(run(&sandbox)["dead_letters"], 1);
    let out = values(&sandbox);
    assert_eq!(out.len(), FLOOD - 1);
    let passed = out.iter().take_while(|value| !value.starts_with("1 fine"));
    // Every other key or so belongs to the other instance.
    let passed = passed.count();
    assert!(passed >= FLOOD / 4, "{passed}");
}
