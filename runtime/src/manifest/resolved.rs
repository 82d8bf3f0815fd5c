//! The resolved manifest: plain data, validated, with every default filled in.
//!
//! `Display` writes it as a manifest again with nothing left to default, which is what
//! `millstream check` shows; reading that gives the same resolved manifest.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::allow::Allow;
use super::error::{Place, Problem};
use super::quantity::{format_duration, format_size, format_time_ms};
use super::queue::QueueSpec;
use super::retry::{DeadLetter, RetrySpec};
use super::target::ExternalTarget;
use super::words::{Key, Text};
use crate::model::{Compression, GroupName, PipelineName, PluginName, PortName, Target, TopicName};

/// A manifest that has been found right, as far as that can be told without a data directory.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedManifest {
    /// The manifest's name.
    pub name: String,
    /// The file it was read from, as it was given.
    pub path: PathBuf,
    /// The topics it declares, in its order.
    pub topics: Vec<TopicSpec>,
    /// The topics and queues its pipelines name but it does not declare: they must exist already.
    /// See [`ResolvedManifest::check_external_targets`].
    pub external_targets: Vec<ExternalTarget>,
    /// The queues it declares, in its order.
    pub queues: Vec<QueueSpec>,
    /// The plugins it declares, in its order.
    pub plugins: Vec<PluginSpec>,
    /// The pipelines, in its order.
    pub pipelines: Vec<PipelineSpec>,
}

/// A topic as the manifest wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicSpec {
    /// The topic's name.
    pub name: TopicName,
    /// Number of partitions.
    pub partitions: u32,
    /// How long records are kept, in ms; `None` = for ever. Always `None` for a compacted topic.
    pub retention_ms: Option<u64>,
    /// How many bytes each partition keeps; `None` = no bound. Always `None` for a compacted topic.
    pub retention_bytes: Option<u64>,
    /// What happens to old records.
    pub cleanup: Cleanup,
    /// How batches are compressed when they are stored; `None` = as their producer sent them.
    pub compression: Option<Compression>,
    /// How long a compacted topic keeps a tombstone after it has been cleaned, in ms.
    pub tombstone_delay_ms: u64,
    /// The share of uncleaned bytes from which a compacted topic's partition is cleaned, 0 to 1.
    pub min_cleanable_dirty_ratio: f64,
    /// The largest batch the topic takes, in bytes.
    pub max_batch_bytes: usize,
    /// The keys that the manifest writes, as opposed to those that were filled in: a topic that
    /// exists keeps what its manifest does not mention.
    pub written_keys: Vec<&'static str>,
    /// Where the manifest declares it.
    pub place: Place,
}

/// What happens to old records of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Records beyond the retention are removed.
    Delete,
    /// The newest value of each key is kept, older ones are removed.
    Compact,
}

/// A plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSpec {
    /// The plugin's name in the manifest.
    pub name: PluginName,
    /// The component, a `.wasm` file; it existed when the manifest was read. Empty for a manifest whose plugins
    /// are uploaded ones.
    pub path: PathBuf,
    /// Where the manifest names the path, or the plugin if there is none.
    pub place: Place,
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineSpec {
    /// The pipeline's name.
    pub name: PipelineName,
    /// The topics and queues it reads, in the order of `from`; empty for a producer.
    pub inputs: Vec<Target>,
    /// The consumer group its progress is recorded under.
    pub group: GroupName,
    /// Where a partition starts for which the group has no committed offset.
    pub start: Start,
    /// The plugin, one of the manifest's.
    pub plugin: PluginName,
    /// The output ports, in the order of `to`; empty for a pipeline without output.
    pub ports: Vec<Port>,
    /// The delivery guarantee; `exactly-once` for a producer.
    pub delivery: Delivery,
    /// How many instances of the plugin each task runs at a time; 1 for a producer.
    pub concurrency: u32,
    /// How large a batch may get.
    pub batch: BatchSpec,
    /// What happens to records that fail.
    pub retry: RetrySpec,
    /// Where records go that are given up on.
    pub dead_letter: DeadLetter,
    /// What the plugin may use.
    pub limits: LimitsSpec,
    /// The plugin's configuration in the order of its keys; values that are not strings are JSON.
    pub config: Vec<(String, String)>,
    /// What the plugin is granted beyond what every plugin has.
    pub allow: Allow,
    /// Where the manifest declares it.
    pub place: Place,
}

impl PipelineSpec {
    /// Whether the pipeline has no input, so that its plugin has to be a producer.
    pub fn is_producer(&self) -> bool {
        self.inputs.is_empty()
    }

    /// Whether the pipeline reads a topic, so that it has a group with offsets.
    pub fn reads_topics(&self) -> bool {
        self.inputs.iter().any(|input| input.topic().is_some())
    }
}

/// Where to start without a committed offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Start {
    /// At the oldest record there is.
    #[default]
    Earliest,
    /// At the records that come from now on.
    Latest,
    /// At the first record with at least this timestamp, in ms since the Unix epoch.
    Time {
        /// The timestamp.
        timestamp_ms: u64,
    },
}

/// An output port and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name the plugin knows it by.
    pub name: PortName,
    /// The topic or queue it writes to.
    pub target: Target,
}

/// A delivery guarantee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Outputs, state and progress are one atomic write.
    ExactlyOnce,
    /// After a crash records may be processed again.
    AtLeastOnce,
    /// Progress is committed before the plugin runs: after a crash records may be missing.
    AtMostOnce,
}

/// How large a batch may get; the first bound reached counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSpec {
    /// Records at most.
    pub max_records: u32,
    /// Bytes of records at most; a single larger record is a batch of its own. Without meaning for
    /// a producer.
    pub max_bytes: usize,
    /// How long to wait for a batch that is not full.
    pub max_wait: Duration,
}

/// What one instance of a plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsSpec {
    /// Linear memory, in bytes.
    pub memory_bytes: usize,
    /// How long one call may take.
    pub deadline: Duration,
    /// Output of one call, in bytes.
    pub output_bytes: usize,
}

impl ResolvedManifest {
    /// A problem of this manifest that shows only later, for example a plugin that is no consumer.
    pub fn problem(&self, place: &Place, message: impl Into<String>) -> Problem {
        Problem::new(&self.path, place, message)
    }

    /// The pipeline of that name.
    pub fn pipeline(&self, name: &str) -> Option<&PipelineSpec> {
        self.pipelines
            .iter()
            .find(|pipeline| pipeline.name.as_str() == name)
    }

    /// The plugin of that name.
    pub fn plugin(&self, name: &PluginName) -> Option<&PluginSpec> {
        self.plugins.iter().find(|plugin| plugin.name == *name)
    }
}

/// The words of `cleanup`.
pub(super) const CLEANUPS: [(&str, Cleanup); 2] =
    [("delete", Cleanup::Delete), ("compact", Cleanup::Compact)];

/// The words of `compression`.
pub(super) const COMPRESSIONS: [(&str, Option<Compression>); 6] = [
    ("producer", None),
    ("none", Some(Compression::None)),
    ("gzip", Some(Compression::Gzip)),
    ("snappy", Some(Compression::Snappy)),
    ("lz4", Some(Compression::Lz4)),
    ("zstd", Some(Compression::Zstd)),
];

/// The words of `delivery`.
pub(super) const DELIVERIES: [(&str, Delivery); 3] = [
    ("exactly-once", Delivery::ExactlyOnce),
    ("at-least-once", Delivery::AtLeastOnce),
    ("at-most-once", Delivery::AtMostOnce),
];

/// The word that stands for a value in one of the lists above.
pub(super) fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words
        .iter()
        .find(|(_, candidate)| candidate == value)
        .map_or("", |(word, _)| word)
}

impl Cleanup {
    /// The word the manifest uses.
    pub fn as_str(self) -> &'static str {
        word(&CLEANUPS, &self)
    }
}

impl Delivery {
    /// The word the manifest uses.
    pub fn as_str(self) -> &'static str {
        word(&DELIVERIES, &self)
    }
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Time { timestamp_ms } => f.write_str(&format_time_ms(*timestamp_ms)),
        }
    }
}

impl fmt::Display for ResolvedManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "name = {}", Text(&self.name))?;
        for topic in &self.topics {
            write!(f, "\n{topic}")?;
        }
        for queue in &self.queues {
            write!(f, "\n{queue}")?;
        }
        for plugin in &self.plugins {
            writeln!(f, "\n[plugins.{}]", Key(plugin.name.as_str()))?;
            if plugin.path.as_os_str().is_empty() {
                continue;
            }
            let path = path_in_manifest(&plugin.path, &self.path);
            writeln!(f, "path = {}", Text(&path.to_string_lossy()))?;
        }
        for pipeline in &self.pipelines {
            write!(f, "\n{pipeline}")?;
        }
        Ok(())
    }
}

/// A plugin's path as the manifest has to say it: relative to its folder if the plugin is below that.
fn path_in_manifest<'a>(plugin: &'a Path, manifest: &Path) -> &'a Path {
    manifest
        .parent()
        .and_then(|folder| plugin.strip_prefix(folder).ok())
        .unwrap_or(plugin)
}

impl fmt::Display for TopicSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[topics.{}]", Key(self.name.as_str()))?;
        writeln!(f, "partitions = {}", self.partitions)?;
        writeln!(f, "cleanup = \"{}\"", self.cleanup)?;
        match self.cleanup {
            Cleanup::Delete => {
                match self.retention_ms {
                    Some(ms) => {
                        let retention = format_duration(Duration::from_millis(ms));
                        writeln!(f, "retention = \"{retention}\"")?;
                    }
                    None => writeln!(f, "retention = \"forever\"")?,
                }
                match self.retention_bytes {
                    Some(bytes) => writeln!(f, "retention-bytes = \"{}\"", format_size(bytes))?,
                    None => writeln!(f, "retention-bytes = -1")?,
                }
            }
            Cleanup::Compact => {
                let delay = format_duration(Duration::from_millis(self.tombstone_delay_ms));
                writeln!(f, "tombstone-delay = \"{delay}\"")?;
                let ratio = toml::Value::from(self.min_cleanable_dirty_ratio);
                writeln!(f, "min-cleanable-dirty-ratio = {ratio}")?;
            }
        }
        let compression = word(&COMPRESSIONS, &self.compression);
        writeln!(f, "compression = \"{compression}\"")?;
        let max_batch = format_size(self.max_batch_bytes as u64);
        writeln!(f, "max-batch-bytes = \"{max_batch}\"")
    }
}

impl fmt::Display for PipelineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[pipelines.{}]", Key(self.name.as_str()))?;
        match self.inputs.as_slice() {
            [] => {}
            [target] => writeln!(f, "from = \"{target}\"")?,
            targets => {
                let list: Vec<_> = targets.iter().map(|t| format!("\"{t}\"")).collect();
                writeln!(f, "from = [{}]", list.join(", "))?;
            }
        }
        if self.reads_topics() {
            writeln!(f, "group = \"{}\"", self.group)?;
            writeln!(f, "start = \"{}\"", self.start)?;
        }
        writeln!(f, "plugin = \"{}\"", self.plugin)?;
        if !self.ports.is_empty() {
            let ports = self
                .ports
                .iter()
                .map(|port| (port.name.as_str(), format!("\"{}\"", port.target)));
            writeln!(f, "to = {}", InlineTable(ports.collect()))?;
        }
        if !self.is_producer() {
            writeln!(f, "delivery = \"{}\"", self.delivery)?;
            if self.concurrency > 1 {
                writeln!(f, "concurrency = {}", self.concurrency)?;
            }
        }
        let max_records = self.batch.max_records;
        let max_wait = format_duration(self.batch.max_wait);
        write!(f, "batch = {{ max-records = {max_records}, ")?;
        if !self.is_producer() {
            let max_bytes = format_size(self.batch.max_bytes as u64);
            write!(f, "max-bytes = \"{max_bytes}\", ")?;
        }
        writeln!(f, "max-wait = \"{max_wait}\" }}")?;
        if !self.is_producer() {
            writeln!(f, "retry = {}", self.retry)?;
            writeln!(f, "dead-letter = \"{}\"", self.dead_letter)?;
        }
        writeln!(
            f,
            "limits = {{ memory = \"{}\", deadline = \"{}\", output = \"{}\" }}",
            format_size(self.limits.memory_bytes as u64),
            format_duration(self.limits.deadline),
            format_size(self.limits.output_bytes as u64),
        )?;
        if !self.config.is_empty() {
            let entries = self
                .config
                .iter()
                .map(|(key, value)| (key.as_str(), Text(value).to_string()));
            writeln!(f, "config = {}", InlineTable(entries.collect()))?;
        }
        writeln!(f, "allow = {}", self.allow)
    }
}

/// A TOML inline table of keys and values that are TOML already.
struct InlineTable<'a>(Vec<(&'a str, String)>);

impl fmt::Display for InlineTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ ")?;
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{} = {value}", Key(key))?;
        }
        f.write_str(" }")
    }
}
