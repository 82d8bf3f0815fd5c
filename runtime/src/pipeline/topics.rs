//! The topics that a manifest declares, in the data directory.

use super::Error;
use crate::log::{self, CompressionName, Log, PlannedTopics, TopicConfig};
use crate::manifest::{self, Cleanup, PipelineSpec, ResolvedManifest, TopicSpec};
use crate::model::{Target, TopicName};

/// Creates the manifest's topics, and gives those that exist the settings that it writes.
///
/// # Errors
/// [`Error::Manifest`] with each topic that exists with another number of partitions than is written, or
/// on which a setting that is written has no effect: then nothing has changed. [`Error::Log`]
pub async fn ensure_topics(log: &Log, manifest: &ResolvedManifest) -> Result<(), Error> {
    let planned = plan_topics(log, manifest).await?;
    Ok(planned.store().await?)
}

/// What [`ensure_topics`] is to do, checked and not done yet.
///
/// # Errors
/// As there.
pub(super) async fn plan_topics(
    log: &Log,
    manifest: &ResolvedManifest,
) -> Result<PlannedTopics, Error> {
    let mut planned = log.plan().await;
    let mut problems = Vec::new();
    for spec in &manifest.topics {
        let ensured = planned.ensure(&spec.name, |existing| match existing {
            None => Ok(new_config(spec)),
            Some(existing) => changed_config(spec, existing),
        });
        match ensured {
            Err(error @ (log::Error::PartitionCount { .. } | log::Error::InvalidConfig { .. })) => {
                problems.push(manifest.problem(&spec.place, error.to_string()))
            }
            ensured => ensured?,
        }
    }
    match problems.is_empty() {
        true => Ok(planned),
        false => Err(manifest::Error::Invalid(problems).into()),
    }
}

/// The instances that the manifest's pipelines need: one for each task. A topic that exists in `log`
/// has the partitions that it has, others those that the manifest declares.
pub fn instance_count(manifest: &ResolvedManifest, log: Option<&Log>) -> u64 {
    let partitions_of = |name: &TopicName| {
        let existing = log.and_then(|log| log.topic(name).ok());
        let declared = || {
            let spec = manifest.topics.iter().find(|spec| spec.name == *name);
            spec.map_or(1, |spec| spec.partitions)
        };
        existing.map_or_else(declared, |topic| topic.partition_count())
    };
    let pipelines = manifest.pipelines.iter();
    pipelines
        .map(|spec| instances_of(spec, partitions_of))
        .sum()
}

/// The tasks of a pipeline: as many as the topic with the most partitions has that it reads; one for a producer, and for
/// one that reads queues only. A topic that does not exist counts as one partition.
pub fn task_count(spec: &PipelineSpec, log: &Log) -> u32 {
    let topics = spec.inputs.iter().filter_map(Target::topic);
    let partitions = topics.map(|name| log.topic(name).map_or(1, |topic| topic.partition_count()));
    partitions.max().unwrap_or(1)
}

/// The instances that a pipeline needs, if its topics have as many partitions as `partitions_of` says.
pub(super) fn instances_of(spec: &PipelineSpec, partitions_of: impl Fn(&TopicName) -> u32) -> u64 {
    let topics = spec.inputs.iter().filter_map(Target::topic);
    let partitions = topics.map(partitions_of).max().unwrap_or(1);
    u64::from(partitions) * u64::from(spec.concurrency)
}

/// The settings of a topic that does not exist yet.
fn new_config(spec: &TopicSpec) -> TopicConfig {
    TopicConfig {
        partitions: spec.partitions,
        cleanup: cleanup(spec),
        retention_ms: spec.retention_ms,
        retention_bytes: spec.retention_bytes,
        compression: spec.compression.map(CompressionName),
        tombstone_delay_ms: spec.tombstone_delay_ms,
        min_cleanable_dirty_ratio: spec.min_cleanable_dirty_ratio,
        max_batch_bytes: spec.max_batch_bytes,
    }
}

/// The settings of a topic that exists: what the manifest does not write stays. A default in its
/// place could delete data, if somebody has given the topic a longer retention.
fn changed_config(spec: &TopicSpec, existing: &TopicConfig) -> Result<TopicConfig, log::Error> {
    let mut config = existing.clone();
    for key in &spec.written_keys {
        match *key {
            "partitions" => config.partitions = spec.partitions,
            "cleanup" => config.cleanup = cleanup(spec),
            "retention" => config.retention_ms = spec.retention_ms,
            "retention-bytes" => config.retention_bytes = spec.retention_bytes,
            "compression" => config.compression = spec.compression.map(CompressionName),
            "tombstone-delay" => config.tombstone_delay_ms = spec.tombstone_delay_ms,
            "min-cleanable-dirty-ratio" => {
                config.min_cleanable_dirty_ratio = spec.min_cleanable_dirty_ratio;
            }
            "max-batch-bytes" => config.max_batch_bytes = spec.max_batch_bytes,
            // A test below goes through the keys there are.
            _ => {}
        }
    }
    // Whether a key fits `cleanup` has been checked, but against the default if none is written.
    let is_of_delete = |key: &&&str| matches!(**key, "retention" | "retention-bytes");
    if config.cleanup == log::Cleanup::Compact
        && let Some(key) = spec.written_keys.iter().find(is_of_delete)
    {
        return Err(log::Error::InvalidConfig {
            name: spec.name.clone(),
            reason: format!(
                "`{key}` has no effect on it, since it exists with cleanup `compact`; remove the key, or write `cleanup = \"delete\"`"
            ),
        });
    }
    Ok(config)
}

fn cleanup(spec: &TopicSpec) -> log::Cleanup {
    match spec.cleanup {
        Cleanup::Delete => log::Cleanup::Delete,
        Cleanup::Compact => log::Cleanup::Compact,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Compression;

    fn spec(keys: &str) -> TopicSpec {
        let text = format!("name = \"m\"\n[topics.t]\n{keys}\n");
        let mut manifest = manifest::resolve(Path::new("m.toml"), &text).unwrap();
        manifest.topics.remove(0)
    }

    /// Nothing in it is a default.
    fn existing(cleanup: log::Cleanup) -> TopicConfig {
        TopicConfig {
            partitions: 7,
            cleanup,
            retention_ms: None,
            retention_bytes: Some(1 << 30),
            compression: Some(CompressionName(Compression::Zstd)),
            tombstone_delay_ms: 5,
            min_cleanable_dirty_ratio: 0.25,
            max_batch_bytes: 4096,
        }
    }

    #[test]
    fn an_existing_topic_keeps_what_the_manifest_does_not_write() {
        for cleanup in [log::Cleanup::Delete, log::Cleanup::Compact] {
            let existing = existing(cleanup);
            assert_eq!(changed_config(&spec(""), &existing).unwrap(), existing);
        }
    }

    #[test]
    fn each_key_that_is_written_changes_its_own_setting_and_nothing_else() {
        let of = existing;
        type Change = fn(&mut TopicConfig);
        let cases: [(&str, Change); 8] = [
            ("partitions = 2", |config| config.partitions = 2),
            ("cleanup = \"compact\"", |config| {
                config.cleanup = log::Cleanup::Compact;
            }),
            ("retention = \"1h\"", |config| {
                config.retention_ms = Some(3_600_000);
            }),
            ("retention-bytes = 9", |config| {
                config.retention_bytes = Some(9);
            }),
            ("compression = \"producer\"", |config| {
                config.compression = None;
            }),
            ("max-batch-bytes = 2048", |config| {
                config.max_batch_bytes = 2048;
            }),
            (
                "cleanup = \"compact\"\ntombstone-delay = \"1s\"",
                |config| {
                    config.cleanup = log::Cleanup::Compact;
                    config.tombstone_delay_ms = 1_000;
                },
            ),
            (
                "cleanup = \"compact\"\nmin-cleanable-dirty-ratio = 1",
                |config| {
                    config.cleanup = log::Cleanup::Compact;
                    config.min_cleanable_dirty_ratio = 1.0;
                },
            ),
        ];
        for (keys, change) in cases {
            let mut expected = of(log::Cleanup::Delete);
            change(&mut expected);
            let changed = changed_config(&spec(keys), &of(log::Cleanup::Delete));
            assert_eq!(changed.unwrap(), expected, "{keys}");
        }
    }

    #[test]
    fn a_key_without_effect_on_the_existing_topic_is_an_error() {
        let compacted = existing(log::Cleanup::Compact);
        for key in ["retention = \"1h\"", "retention-bytes = 9"] {
            let error = changed_config(&spec(key), &compacted).unwrap_err();
            assert!(error.to_string().contains("has no effect"), "{error}");
        }
        let keys = "cleanup = \"delete\"\nretention = \"1h\"";
        let changed = changed_config(&spec(keys), &compacted).unwrap();
        assert_eq!(changed.retention_ms, Some(3_600_000));
    }
}
