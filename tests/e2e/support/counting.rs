//! A workload whose output shows by itself whether every record counted exactly once.
//!
//! The pipeline counts the records of each key and emits the count with each record, so that the
//! output of a key with n records must be 1, 2, … n. A record that is counted twice, left out, or
//! whose state and output did not go together, breaks the row. A second pipeline copies the counts.

use std::collections::BTreeMap;

use super::records::assert_dense;
use super::{Consumed, Random, Sandbox};

/// The pipelines `count` and `copy`. Batches are small, so that there are many commits.
pub const MANIFEST: &str = r#"
name = "counting"

[topics.events]
partitions = 4

[topics.counts]
partitions = 3

[topics.copies]
partitions = 2

[plugins.count]
path = "{testing-stateful-count}"

[plugins.passthrough]
path = "{passthrough}"

[pipelines.count]
from = "topic:events"
plugin = "count"
to = "topic:counts"
batch = { max-records = 4, max-wait = "0s" }
limits = { deadline = "30s" }

[pipelines.copy]
from = "topic:counts"
plugin = "passthrough"
to = "topic:copies"
limits = { deadline = "30s" }
"#;

/// Keys there are; a few of them have most of the records.
const KEYS: u64 = 2_000;

/// What has been sent so far.
pub struct Workload {
    random: Random,
    sent: BTreeMap<String, u64>,
    total: u64,
}

impl Workload {
    /// Nothing sent yet.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Random::from_seed(seed),
            sent: BTreeMap::new(),
            total: 0,
        }
    }

    /// Produces records to `events`.
    #[track_caller]
    pub fn produce(&mut self, sandbox: &Sandbox, count: u64) {
        self.produce_to(sandbox, "events", count);
    }

    /// Produces records to a topic.
    #[track_caller]
    pub fn produce_to(&mut self, sandbox: &Sandbox, topic: &str, count: u64) {
        let lines = self.lines(count);
        sandbox.produce(topic, lines, Some("key"));
    }

    /// The next records, as lines to produce.
    pub fn lines(&mut self, count: u64) -> Vec<String> {
        (0..count).map(|_| self.next_line()).collect()
    }

    fn next_line(&mut self) -> String {
        let key = self.random.within(0..self.random_bound());
        let key = format!("key-{key}");
        self.total += 1;
        let line = format!(r#"{{"key":"{key}","number":{}}}"#, self.total);
        *self.sent.entry(key).or_default() += 1;
        line
    }

    /// Half of the records go to a few keys.
    fn random_bound(&self) -> u64 {
        if self.total.is_multiple_of(2) {
            KEYS
        } else {
            10
        }
    }

    /// Records produced.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Asserts that the counts and their copies are those of a run without any disturbance.
    #[track_caller]
    pub fn assert_counted_once(&self, sandbox: &Sandbox) {
        self.assert_rows(&sandbox.consume("counts"));
        self.assert_rows(&sandbox.consume("copies"));
    }

    #[track_caller]
    fn assert_rows(&self, outputs: &[Consumed]) {
        assert_dense(outputs);
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for output in outputs {
            let count = counted.entry(output.key_text().to_owned()).or_default();
            *count += 1;
            assert_eq!(
                output.value_text(),
                count.to_string(),
                "a record was counted twice, or not at all, or its state was lost: {output:?}"
            );
        }
        assert_eq!(counted, self.sent, "records of some key are missing");
        assert_eq!(outputs.len() as u64, self.total);
    }
}
