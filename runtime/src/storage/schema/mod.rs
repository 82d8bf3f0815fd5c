//! The whole on-disk schema: every kind of key, and its fixed code.
//!
//! A key is the kind's code (one byte) followed by its fields. Numbers are big-endian, so that the
//! order of the bytes is the order of the numbers. Codes are never reused. One file per kind;
//! `id_key` is what two kinds have in common.
//!
//! All kinds lie in one column family. If there were several, RocksDB would sync the write-ahead log whenever it flushes
//! one of them, so that a power loss leaves none behind the others, and each batch would be on the disk twice before the
//! flush is done, whatever the durability.

pub mod batch;
pub mod changelog;
pub mod deduplication;
pub mod deploy;
pub mod group_gaps;
pub mod group_offset;
pub mod id_key;
pub mod manifest;
pub mod name_key;
pub mod parked;
pub mod parked_group;
pub mod partition_head;
pub mod pipeline;
pub mod plugin;
pub mod positions;
pub mod queue;
pub mod queue_chunk;
pub mod state;
pub mod timer;
pub mod token;
pub mod topic;

use std::ops::RangeInclusive;

/// Kinds that belong together have codes side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Small metadata: topics, queues, partition heads, group offsets, pipelines, plugins, manifests, deploys.
    Meta,
    /// Record batches.
    Log,
    /// What belongs to the tasks of pipelines: keyed state and its changes, parked records, timers.
    Tasks,
    /// What has happened to the messages of queues.
    Queues,
}

impl Region {
    /// The region's name.
    pub const fn name(self) -> &'static str {
        match self {
            Region::Meta => "meta",
            Region::Log => "log",
            Region::Tasks => "tasks",
            Region::Queues => "queues",
        }
    }

    /// The codes of its kinds, also of those that there are not yet. All regions together leave no code out.
    pub const fn codes(self) -> RangeInclusive<u8> {
        match self {
            Region::Meta => 0x00..=0x0f,
            Region::Log => 0x10..=0x1f,
            Region::Tasks => 0x20..=0x3f,
            Region::Queues => 0x40..=0xff,
        }
    }
}

/// Every kind of key. The discriminant is the first byte of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// `(topic id)` → the topic's name and configuration as JSON.
    Topic = 0x01,
    /// `(topic id, partition)` → start offset, next offset, bytes, cleaned-to offset.
    PartitionHead = 0x02,
    /// `(group, 0, topic id, partition)` → committed offset and when.
    GroupOffset = 0x03,
    /// `(pipeline name)` → the pipeline's id and how it last ran, as JSON.
    Pipeline = 0x04,
    /// `(queue id)` → the queue's name and configuration as JSON.
    Queue = 0x05,
    /// `(queue id, enqueued at ms, sequence)` → hashes of deduplication ids.
    Deduplication = 0x06,
    /// `(group, 0, topic id, partition, lane)` → offsets beyond the committed one that are processed.
    GroupGaps = 0x07,
    /// `(plugin name)` → the plugin's uploaded versions as JSON.
    Plugin = 0x08,
    /// `(manifest name)` → an applied manifest as JSON.
    Manifest = 0x09,
    /// `(deploy id)` → what was deployed and how it went, as JSON.
    Deploy = 0x0a,
    /// `(token name)` → the SHA-256 of an access token, its roles and times, as JSON.
    Token = 0x0c,
    /// `(topic id, partition, base offset)` → a record batch in Kafka's v2 format.
    Batch = 0x10,
    /// `(pipeline id, partition, sequence)` → the state changes of one checkpoint.
    Changelog = 0x20,
    /// `(pipeline id, partition, key)` → a value of keyed state.
    State = 0x30,
    /// `(queue id, chunk)` → acknowledgements and delivery counts of 1,024 messages.
    QueueChunk = 0x40,
    /// `(pipeline id, task, group, sequence)` → a record that waits to be tried again.
    Parked = 0x31,
    /// `(pipeline id, task, due at ms, key)` → a timer's payload.
    Timer = 0x32,
    /// `(pipeline id, task, group)` → how many records of a large group wait to be tried again.
    ParkedGroup = 0x33,
}

/// Whether a key is of a kind.
pub(crate) fn is_of_kind(kind: KeyKind, key: &[u8]) -> bool {
    key.first() == Some(&(kind as u8))
}

/// The key that starts all keys of a kind.
pub(crate) fn kind_prefix(kind: KeyKind) -> [u8; 1] {
    [kind as u8]
}

/// The start of all keys of a pipeline, of a kind whose keys begin with the pipeline's id.
pub(crate) fn pipeline_prefix(kind: KeyKind, pipeline_id: u32) -> [u8; 5] {
    let mut prefix = [kind as u8; 5];
    prefix[1..].copy_from_slice(&pipeline_id.to_be_bytes());
    prefix
}

/// The first key after all keys that start with `prefix`; `None` if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}

/// Reads a big-endian `u32` at `at`.
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

/// Reads a big-endian `u64` at `at`.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prefix_end_is_after_every_key_with_the_prefix(prefix in proptest::collection::vec(any::<u8>(), 1..6), rest in proptest::collection::vec(any::<u8>(), 0..6)) {
            let mut key = prefix.clone();
            key.extend(rest);
            if let Some(end) = prefix_end(&prefix) {
                prop_assert!(key < end);
                prop_assert!(!end.starts_with(&prefix));
            } else {
                prop_assert!(prefix.iter().all(|byte| *byte == u8::MAX));
            }
        }
    }

    #[test]
    fn codes_are_what_the_data_format_says() {
        let codes = [
            (KeyKind::Topic, 0x01),
            (KeyKind::PartitionHead, 0x02),
            (KeyKind::GroupOffset, 0x03),
            (KeyKind::Pipeline, 0x04),
            (KeyKind::Queue, 0x05),
            (KeyKind::Deduplication, 0x06),
            (KeyKind::GroupGaps, 0x07),
            (KeyKind::Plugin, 0x08),
            (KeyKind::Manifest, 0x09),
            (KeyKind::Deploy, 0x0a),
            (KeyKind::Token, 0x0c),
            (KeyKind::Batch, 0x10),
            (KeyKind::Changelog, 0x20),
            (KeyKind::State, 0x30),
            (KeyKind::QueueChunk, 0x40),
            (KeyKind::Parked, 0x31),
            (KeyKind::Timer, 0x32),
            (KeyKind::ParkedGroup, 0x33),
        ];
        for (kind, code) in codes {
            assert_eq!(kind_prefix(kind), [code]);
        }
    }
}
