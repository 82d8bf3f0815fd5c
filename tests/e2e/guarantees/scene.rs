//! The manifest of a history: `in`, a topic or a queue → pipeline `first` → `work`, a topic or a queue → pipeline
//! `second` → `out`.
//!
//! `first` sends what it makes to the topic `audit` as well. So everything that was ever sent to `work` can be read
//! there, in order, and a checkpoint has outputs in several places.

use crate::support::Sandbox;

/// What a pipeline reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    Topic,
    Queue,
}

/// What distinguishes one history from another.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `delivery` of both pipelines.
    pub delivery: &'static str,
    /// What is sent to. To a queue everything is sent with a deduplication id.
    pub source: Through,
    /// Between the pipelines.
    pub through: Through,
    /// `start` of the pipeline `first`.
    pub start: &'static str,
    /// `time-to-live` of the queue `work`: those that expire go to the queue `expired`.
    pub time_to_live: Option<&'static str>,
    /// `concurrency` of both pipelines.
    pub concurrency: u32,
    /// `retry.order` of both pipelines.
    pub order: &'static str,
    /// The durability of all commands.
    pub durability: &'static str,
    /// Whether the plugin keeps state.
    pub keeps_state: bool,
    /// Records sent, at least.
    pub records: u64,
}

/// The plugin's versions: packages, and what they call themselves.
pub const VERSIONS: [(&str, &str); 3] = [
    ("testing-ledger", "first"),
    ("testing-ledger-next", "next"),
    ("testing-ledger-stateless", "stateless"),
];
/// Versions that keep state, and so can follow one another: the first ones.
pub const VERSIONS_WITH_STATE: usize = 2;
/// `retry.max-attempts`: one more than any record needs that has an output in the end. On a busy machine a call may
/// stand still for as long as its deadline, and that is an attempt, too.
pub const MAX_ATTEMPTS: u64 = 4;
/// `batch.max-records`: so few that there are many commits.
pub const MAX_RECORDS: u64 = 16;
/// Partitions of `in`, and of `work` if it is a topic.
const PARTITIONS: [u64; 2] = [4, 2];

impl Setting {
    /// Whether a record may be lost.
    pub fn is_at_most_once(&self) -> bool {
        self.delivery == "at-most-once"
    }

    /// Whether a record may have its effect twice.
    pub fn is_at_least_once(&self) -> bool {
        self.delivery == "at-least-once"
    }

    /// Whether the records of a key stay in order.
    pub fn is_ordered(&self) -> bool {
        self.order != "none"
    }

    /// Tasks of a pipeline.
    pub fn tasks(&self, pipeline: usize) -> u64 {
        match [self.source, self.through][pipeline] {
            Through::Topic => PARTITIONS[pipeline],
            Through::Queue => 1,
        }
    }

    /// What a pipeline reads, as it is written in the manifest.
    pub fn input(&self, pipeline: usize) -> &'static str {
        match (pipeline, [self.source, self.through][pipeline]) {
            (0, Through::Topic) => "topic:in",
            (0, Through::Queue) => "queue:in",
            (_, Through::Topic) => "topic:work",
            (_, Through::Queue) => "queue:work",
        }
    }

    /// The tables of what the pipelines read.
    fn inputs(&self) -> String {
        let [of_in, of_work] = PARTITIONS;
        let source = match self.source {
            Through::Topic => format!("[topics.in]\npartitions = {of_in}"),
            Through::Queue => "[queues.in]\ngroups = \"key\"".to_owned(),
        };
        let mut work = match self.through {
            Through::Topic => format!("[topics.work]\npartitions = {of_work}"),
            Through::Queue => "[queues.work]\ngroups = \"key\"".to_owned(),
        };
        if let Some(time_to_live) = self.time_to_live {
            // A kill is a delivery, too.
            work.push_str(&format!(
                "\ntime-to-live = \"{time_to_live}\"\ndead-letter = \"expired\"\nmax-deliveries = 1000000"
            ));
        }
        format!("{source}\n\n{work}")
    }

    /// Batches that run at a time in a pipeline.
    pub fn batches_at_a_time(&self, pipeline: usize) -> u64 {
        self.tasks(pipeline) * u64::from(self.concurrency)
    }

    /// Writes the manifest, with this version of the plugin; without state there is only one.
    pub fn deploy(&self, sandbox: &Sandbox, version: usize) {
        let Self {
            delivery,
            concurrency,
            order,
            ..
        } = self;
        let (package, _) = match self.keeps_state {
            true => VERSIONS[version],
            false => VERSIONS[VERSIONS_WITH_STATE],
        };
        let (inputs, source, work) = (self.inputs(), self.input(0), self.input(1));
        // Of a queue there is no other.
        let start = match self.source {
            Through::Topic => format!("start = \"{}\"", self.start),
            Through::Queue => String::new(),
        };
        let settings = format!(
            r#"plugin = "ledger"
delivery = "{delivery}"
concurrency = {concurrency}
batch = {{ max-records = {MAX_RECORDS}, max-wait = "0s" }}
retry = {{ max-attempts = {MAX_ATTEMPTS}, initial = "5ms", order = "{order}" }}
limits = {{ deadline = "200ms", memory = "32MiB" }}"#
        );
        sandbox.manifest(&format!(
            r#"
name = "guarantees"

{inputs}

[topics.audit]
partitions = 3

[topics.out]
partitions = 3

[plugins.ledger]
path = "{{{package}}}"

[pipelines.first]
from = "{source}"
{start}
to = {{ work = "{work}", audit = "topic:audit" }}
{settings}

[pipelines.second]
from = "{work}"
to = {{ out = "topic:out" }}
{settings}
"#
        ));
    }
}
