//! Records of known effect, and how much of them was acknowledged.
//!
//! A value is `NUMBER WORD WORD`: the plugin `testing-ledger` says what the words mean. The numbers of the
//! records are 0, 1, 2 and so on in the order in which they are sent.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use super::scene::{Setting, Through};
use crate::failpoints;
use crate::support::{Random, Sandbox, note};

/// Keys there are.
const KEYS: u64 = 60;
/// Some of them have a tenth of the records.
const HOT_KEYS: u64 = 3;
/// What a poison record is, in turn.
const POISON: [&str; 5] = [
    "poison-trap",
    "reject",
    "poison-loop",
    "retry-9",
    "poison-memory",
];
/// Records that are sent before there is a pipeline, if any are.
const EARLY_RECORDS: u64 = 100;
/// Lines given to `produce` at a time.
const PORTION: usize = 40;
/// Longer than `produce` waits for more lines before it sends what it has.
const BETWEEN_PORTIONS: Duration = Duration::from_millis(20);

/// A record as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub key: String,
    /// What is to become of it, by pipeline.
    pub words: [&'static str; 2],
}

/// What has been sent.
pub struct Workload {
    target: &'static str,
    /// Whether records get deduplication ids.
    has_ids: bool,
    /// Records that were sent before there was a pipeline.
    early_count: u64,
    /// By number.
    sent: Vec<Sent>,
    poison_count: usize,
}

impl Workload {
    /// Nothing sent yet.
    pub fn new(setting: Setting, random: &mut Random) -> Self {
        Self {
            target: setting.input(0),
            has_ids: setting.source == Through::Queue,
            early_count: 0,
            sent: Vec::new(),
            poison_count: random.within(0..POISON.len() as u64) as usize,
        }
    }

    /// All records, by number. All of them are acknowledged.
    pub fn sent(&self) -> &[Sent] {
        &self.sent
    }

    /// How many of them were sent before there was a pipeline.
    pub fn early_count(&self) -> u64 {
        self.early_count
    }

    /// Sends records before there is a pipeline.
    pub fn send_early(&mut self, sandbox: &Sandbox, random: &mut Random) {
        self.send(sandbox, random, EARLY_RECORDS);
        self.early_count = self.sent.len() as u64;
    }

    /// The value of a record.
    pub fn value(number: u64, sent: &Sent) -> String {
        let [first, second] = sent.words;
        format!("{number} {first} {second}")
    }

    /// Sends more records to `in`. The producer may be killed; then another one goes on behind what was
    /// acknowledged, and so sends some a second time if they were stored and not acknowledged. With ids one is
    /// killed in any case, and the other sends everything.
    pub fn send(&mut self, sandbox: &Sandbox, random: &mut Random, count: u64) {
        let start = self.add(random, count);
        let mut from = start;
        if random.within(0..2) == 0 || self.has_ids {
            let acknowledged = self.send_until_killed(sandbox, random, start);
            if !self.has_ids {
                from += acknowledged;
            }
        }
        self.send_from(sandbox, from);
    }

    /// Adds records that somebody else is to send. Returns the number of the first.
    pub fn add(&mut self, random: &mut Random, count: u64) -> usize {
        let start = self.sent.len();
        for _ in 0..count {
            let record = self.next(random);
            self.sent.push(record);
        }
        start
    }

    /// Sends the records from this number on.
    pub fn send_from(&self, sandbox: &Sandbox, from: usize) {
        let file = sandbox.write_lines("records.jsonl", self.lines(from));
        let file = file.to_str().unwrap();
        let produce = ["produce", self.target, "--format", "record", "--file", file];
        sandbox.succeed(&[&produce[..], &["--manifest", "millstream.toml"]].concat());
    }

    fn next(&mut self, random: &mut Random) -> Sent {
        let key = match random.within(0..10) {
            0 => random.within(0..HOT_KEYS),
            _ => random.within(0..KEYS),
        };
        Sent {
            key: format!("key-{key}"),
            words: [self.word(random), self.word(random)],
        }
    }

    fn word(&mut self, random: &mut Random) -> &'static str {
        match random.within(0..1000) {
            0..4 => "retry-1",
            4..8 => "retry-2",
            8..10 => "trap-1",
            10 => {
                self.poison_count += 1;
                POISON[self.poison_count % POISON.len()]
            }
            _ => "fine",
        }
    }

    /// The lines of the records from this number on.
    pub fn lines(&self, from: usize) -> impl Iterator<Item = String> + '_ {
        let numbered = (0..).zip(&self.sent).skip(from);
        numbered.map(|(number, sent)| {
            let mut line = json!({ "key": sent.key, "value": Self::value(number, sent) });
            if self.has_ids {
                line["headers"] = json!([["millstream-deduplication-id", number.to_string()]]);
            }
            line.to_string()
        })
    }

    /// Returns how many of the records from `start` on were acknowledged.
    fn send_until_killed(&self, sandbox: &Sandbox, random: &mut Random, start: usize) -> usize {
        let steps = failpoints::STEPS.iter();
        let steps: Vec<_> = steps.filter(|step| step.starts_with("commit::")).collect();
        let step = steps[random.within(0..steps.len() as u64) as usize];
        let lines: Vec<String> = self.lines(start).collect();
        let portions: Vec<&[String]> = lines.chunks(PORTION).collect();
        let kill_at = random.within(0..portions.len() as u64);
        let mut command = sandbox.command(&[
            "produce",
            self.target,
            "--manifest",
            "millstream.toml",
            "--format",
            "record",
            "--progress-interval",
            "1ms",
        ]);
        command
            .env("FAILPOINTS", format!("{step}={}*off->pause", kill_at + 1))
            .stdin(Stdio::piped());
        let mut produce = sandbox.start_command(command);
        let mut stdin = produce.stdin();
        for portion in portions.iter().take(kill_at as usize + 2) {
            for line in *portion {
                writeln!(stdin, "{line}").unwrap();
            }
            std::thread::sleep(BETWEEN_PORTIONS);
        }
        let (_, finished) = produce.kill();
        let acknowledged = finished.acknowledged_records();
        note(format_args!(
            "producer killed at {step}: {acknowledged} of {} acknowledged",
            lines.len()
        ));
        acknowledged as usize
    }
}
