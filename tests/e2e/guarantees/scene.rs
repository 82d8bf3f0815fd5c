//! The manifest of a history: `in` → pipeline `first` → `work`, a topic or a queue → pipeline `second` → `out`.
//!
//! `first` sends what it makes to the topic `audit` as well. So everything that was ever sent to `work` can be read
//! there, in order, and a checkpoint has outputs in several places.

use crate::support::Sandbox;

/// What lies between the two pipelines.
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
    /// Between the pipelines.
    pub through: Through,
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
/// `retry.max-attempts`.
pub const MAX_ATTEMPTS: u64 = 3;
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
        match (pipeline, self.through) {
            (0, _) => PARTITIONS[0],
            (_, Through::Topic) => PARTITIONS[1],
            (_, Through::Queue) => 1,
        }
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
        let [of_in, of_work] = PARTITIONS;
        let (declared, work) = match self.through {
            Through::Topic => (
                format!("[topics.work]\npartitions = {of_work}"),
                "topic:work",
            ),
            Through::Queue => ("[queues.work]\ngroups = \"key\"".to_owned(), "queue:work"),
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

[topics.in]
partitions = {of_in}

{declared}

[topics.audit]
partitions = 3

[topics.out]
partitions = 3

[plugins.ledger]
path = "{{{package}}}"

[pipelines.first]
from = "topic:in"
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
