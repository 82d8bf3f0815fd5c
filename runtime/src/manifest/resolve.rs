//! From a manifest's text to its resolved form: reads every table, fills in defaults, then checks
//! what concerns several tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::error::{Error, Report};
use super::pipeline::{self, Read};
use super::plugin_file;
use super::quantity::DURATION_EXPECTED;
use super::read::{KeyRef, NAME_EXPECTED, Table, Value, is_minus_one, name, to_duration};
use super::resolved::{CLEANUPS, COMPRESSIONS, Cleanup, PluginSpec, ResolvedManifest, TopicSpec};
use super::words::{Key, did_you_mean, or_default};
use super::{dead_letters, queue, schema, syntax, target};
use crate::model::{GroupName, Target, limits};

const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// As Kafka's `log.retention.hours` (168).
const DEFAULT_RETENTION: Duration = Duration::from_secs(7 * DAY.as_secs());
/// As Kafka's `delete.retention.ms`.
const DEFAULT_TOMBSTONE_DELAY: Duration = DAY;
/// As Kafka's `min.cleanable.dirty.ratio`.
const DEFAULT_DIRTY_RATIO: f64 = 0.5;
/// The longest retention and delay; who wants more says "forever".
const MAX_RETENTION: Duration = Duration::from_secs(100 * 366 * DAY.as_secs());
/// The largest `retention-bytes`, 8 EiB less a byte: Kafka's is an `i64`, too.
const MAX_RETENTION_BYTES: u64 = i64::MAX as u64;
/// The smallest `max-batch-bytes`.
const MIN_BATCH_LIMIT_BYTES: u64 = 1 << 10;
/// How many syntax errors are shown: those after the first are often its consequences.
const MAX_SYNTAX_ERRORS: usize = 3;

/// Reads the manifest `text`. `path` is its file: it stands in messages, and plugin paths are
/// relative to its folder.
///
/// # Errors
///
/// [`Error::Invalid`] with every problem found; after a syntax error only those of the syntax.
pub fn resolve(path: &Path, text: &str) -> Result<ResolvedManifest, Error> {
    let folder = path.parent().unwrap_or(Path::new(""));
    resolve_with(path, text, Some(folder))
}

/// Reads the manifest `text` as a server does: its plugins are those that were uploaded under their names, so
/// `path` need not be written in `[plugins.NAME]`, and is not looked at. `path` here only stands in messages.
///
/// # Errors
///
/// As [`resolve`].
pub fn resolve_uploaded(path: &Path, text: &str) -> Result<ResolvedManifest, Error> {
    resolve_with(path, text, None)
}

/// `folder` is where plugin paths start; `None` if they are not looked at.
fn resolve_with(path: &Path, text: &str, folder: Option<&Path>) -> Result<ResolvedManifest, Error> {
    let mut report = Report::new(path, text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
            syntax::report(error, text, &mut report);
        }
        // What a broken text means is guesswork, so nothing is said about it.
        return Err(report.into_error());
    }
    let label = "the manifest".to_owned();
    let root = Table::of(&schema::MANIFEST, label, 0..0, root.get_ref(), &mut report);

    let name = manifest_name(&root, &mut report);
    let declared_topics = root.named("topics", &mut report);
    let topics = declared_topics
        .iter()
        .filter_map(|(key, value)| topic(key, value, &mut report))
        .collect();
    let declared_queues = root.named("queues", &mut report);
    let queues: Vec<_> = declared_queues
        .iter()
        .copied()
        .filter_map(|(key, value)| queue::read(key, value, &mut report))
        .collect();
    let declared_plugins = root.named("plugins", &mut report);
    let plugins = declared_plugins
        .iter()
        .filter_map(|(key, value)| plugin(key, value, folder, &mut report))
        .collect();
    // A plugin or topic that is declared counts as known, even if it is wrong itself.
    let pipelines: Vec<_> = root
        .named("pipelines", &mut report)
        .into_iter()
        .filter_map(|(key, value)| {
            pipeline::read(key, value, &names(&declared_plugins), &mut report)
        })
        .collect();
    check_groups(&pipelines, &mut report);
    dead_letters::check(&queues, &pipelines, &mut report);
    let uses = pipelines
        .iter()
        .flat_map(|read| read.inputs.iter().chain(&read.outputs));
    let declared = declared_targets(&declared_topics, &declared_queues);
    let external_targets = target::external(&declared, uses, &report);

    let manifest = ResolvedManifest {
        name,
        path: path.to_owned(),
        topics,
        external_targets,
        queues: queues.into_iter().map(|read| read.spec).collect(),
        plugins,
        pipelines: pipelines.into_iter().map(|read| read.spec).collect(),
    };
    report.finish()?;
    Ok(manifest)
}

/// The topics and queues that have tables, as far as their names are right.
fn declared_targets(
    topics: &[(KeyRef<'_>, Value<'_>)],
    queues: &[(KeyRef<'_>, Value<'_>)],
) -> Vec<Target> {
    let topics = names(topics).into_iter();
    let topics = topics.filter_map(|name| Some(Target::Topic(name.parse().ok()?)));
    let queues = names(queues).into_iter();
    let queues = queues.filter_map(|name| Some(Target::Queue(name.parse().ok()?)));
    topics.chain(queues).collect()
}

/// The names of named tables.
fn names<'a>(declared: &[(KeyRef<'a>, Value<'a>)]) -> Vec<&'a str> {
    declared
        .iter()
        .map(|(key, _)| key.get_ref().as_ref())
        .collect()
}

fn manifest_name(root: &Table<'_>, report: &mut Report<'_>) -> String {
    const ADVICE: &str = "name the manifest at its top, for example `name = \"flights\"`";
    let Some(value) = root.required("name", ADVICE, report) else {
        return String::new();
    };
    let Some(text) = value.get_ref().as_str() else {
        root.wrong("name", value, NAME_EXPECTED, ADVICE, report);
        return String::new();
    };
    // The rules are those of every name; a manifest's own name is nothing that is stored under it.
    name::<GroupName>("`name`", text, value.span(), report)
        .map(|name| name.to_string())
        .unwrap_or_default()
}

fn topic(key: KeyRef<'_>, value: Value<'_>, report: &mut Report<'_>) -> Option<TopicSpec> {
    let label = format!("`[topics.{}]`", Key(key.get_ref()));
    let topic_name = name("a topic's name", key.get_ref(), key.span(), report);
    let table = Table::read(&schema::TOPIC, label, key.span(), value, report)?;

    let partitions_max = u64::from(limits::MAX_PARTITIONS);
    let partitions = table.integer("partitions", 1..=partitions_max, 1, report);
    let cleanup = table.choice("cleanup", &CLEANUPS, report);
    let retention_ms = retention_ms(&table, report);
    let retention_bytes = match table.value("retention-bytes") {
        Some(value) if !is_minus_one(value) => {
            let advice = || "leave it out to keep any number of bytes".to_owned();
            table.size_or("retention-bytes", 1..=MAX_RETENTION_BYTES, advice, report)
        }
        _ => None,
    };
    let tombstone_delay = table.duration(
        "tombstone-delay",
        Duration::ZERO..=MAX_RETENTION,
        DEFAULT_TOMBSTONE_DELAY,
        report,
    );
    let dirty_ratio = table.ratio("min-cleanable-dirty-ratio", DEFAULT_DIRTY_RATIO, report);
    let compression = table.choice("compression", &COMPRESSIONS, report);
    let max_batch_bytes = table.size(
        "max-batch-bytes",
        MIN_BATCH_LIMIT_BYTES..=limits::MAX_BATCH_BYTES as u64,
        limits::DEFAULT_MAX_BATCH_BYTES as u64,
        report,
    );
    refuse_without_effect(&table, cleanup, report);

    let compacted = cleanup == Cleanup::Compact;
    Some(TopicSpec {
        name: topic_name?,
        partitions: u32::try_from(partitions).ok()?,
        retention_ms: retention_ms.filter(|_| !compacted),
        retention_bytes: retention_bytes.filter(|_| !compacted),
        cleanup,
        compression,
        tombstone_delay_ms: whole_ms(&table, "tombstone-delay", tombstone_delay, report),
        min_cleanable_dirty_ratio: dirty_ratio,
        max_batch_bytes: usize::try_from(max_batch_bytes).ok()?,
        written_keys: table.written_keys(&schema::TOPIC),
        place: report.place(&key.span()),
    })
}

/// The retention by time; `None` = for ever.
fn retention_ms(table: &Table<'_>, report: &mut Report<'_>) -> Option<u64> {
    const KEY: &str = "retention";
    if let Some(value) = table.value(KEY) {
        let word = value.get_ref().as_str();
        if is_minus_one(value) || word == Some("forever") {
            return None;
        }
        // `duration` below tells everything else, but knows nothing of the word.
        if let Err(reason) = to_duration(value) {
            let help = did_you_mean(word.unwrap_or_default(), ["forever"], || {
                reason.unwrap_or_else(|| or_default("\"7d\""))
            });
            let expected = format!("{DURATION_EXPECTED}, or \"forever\"");
            table.wrong(KEY, value, &expected, help, report);
            return None;
        }
    }
    let retention = table.duration(KEY, MS..=MAX_RETENTION, DEFAULT_RETENTION, report);
    Some(whole_ms(table, KEY, retention, report))
}

/// A duration as ms; notes one that is finer.
pub(super) fn whole_ms(
    table: &Table<'_>,
    key: &str,
    duration: Duration,
    report: &mut Report<'_>,
) -> u64 {
    if !duration.as_nanos().is_multiple_of(MS.as_nanos())
        && let Some(value) = table.value(key)
    {
        table.wrong(
            key,
            value,
            "whole milliseconds",
            "leave the finer part out",
            report,
        );
    }
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Notes keys that mean nothing with the topic's way of cleaning up, since nothing that an author
/// writes is silently ignored.
fn refuse_without_effect(table: &Table<'_>, cleanup: Cleanup, report: &mut Report<'_>) {
    let (keys, other): (&[&str], _) = match cleanup {
        Cleanup::Delete => (
            &["tombstone-delay", "min-cleanable-dirty-ratio"],
            Cleanup::Compact,
        ),
        Cleanup::Compact => (&["retention", "retention-bytes"], Cleanup::Delete),
    };
    for key in keys.iter().filter(|key| table.value(key).is_some()) {
        report.error(
            table.key_span(key),
            format!("`{key}` has no effect with `cleanup = \"{cleanup}\"`"),
            format!("remove it, or set `cleanup = \"{other}\"`"),
        );
    }
}

fn plugin(
    key: KeyRef<'_>,
    value: Value<'_>,
    folder: Option<&Path>,
    report: &mut Report<'_>,
) -> Option<PluginSpec> {
    let label = format!("`[plugins.{}]`", Key(key.get_ref()));
    let plugin_name = name("a plugin's name", key.get_ref(), key.span(), report);
    let table = Table::read(&schema::PLUGIN, label, key.span(), value, report)?;
    const ADVICE: &str =
        "for example `path = \"plugins/delays\"`, relative to the manifest's folder";
    let Some(folder) = folder else {
        return Some(PluginSpec {
            name: plugin_name?,
            path: PathBuf::new(),
            place: report.place(&key.span()),
        });
    };
    let value = table.required("path", ADVICE, report)?;
    let Some(written) = value.get_ref().as_str().filter(|text| !text.is_empty()) else {
        let expected = "the path of a .wasm file or of a plugin project";
        table.wrong("path", value, expected, ADVICE, report);
        return None;
    };
    match plugin_file::find(folder, written) {
        Ok(path) => Some(PluginSpec {
            name: plugin_name?,
            path,
            place: report.place(&value.span()),
        }),
        Err(missing) => {
            report.error(value.span(), missing.message, missing.help);
            None
        }
    }
}

/// Notes pipelines that would commit offsets of the same topic under the same group: each would
/// move the other's position.
fn check_groups(pipelines: &[Read], report: &mut Report<'_>) {
    let mut first_readers = BTreeMap::new();
    for read in pipelines {
        let spec = &read.spec;
        for input in &read.inputs {
            // Those that read one queue share its messages.
            let Some(topic) = input.target.topic() else {
                continue;
            };
            let first = first_readers.entry((&spec.group, topic)).or_insert(spec);
            if first.name != spec.name {
                report.error(
                    input.span.clone(),
                    format!(
                        "pipelines `{}` (line {}) and `{}` both read topic `{}` as group `{}`",
                        first.name, first.place.line, spec.name, topic, spec.group
                    ),
                    "give one of them a `group` of its own: a group has one position in each \
                     partition",
                );
            }
        }
    }
}
