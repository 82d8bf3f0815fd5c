//! The whole on-disk schema: every kind of key, its fixed code and the column family it lives in.
//!
//! A key is the kind's code (one byte) followed by its fields. Numbers are big-endian, so that the
//! order of the bytes is the order of the numbers. Codes are never reused. One file per kind;
//! `id_key` is what two kinds have in common.

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

/// A RocksDB column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Small metadata: topics, queues, partition heads, group offsets, pipelines, plugins, manifests, deploys.
    Meta,
    /// Record batches. Batches of 4 KiB and more lie in blob files, smaller ones inline.
    Log,
    /// What comes and goes: changes of keyed state that are not folded into `State` yet, parked records,
    /// and timers.
    Changelog,
    /// Keyed state of pipelines.
    State,
    /// What has happened to the messages of queues. A write of this family is merged with what is
    /// there, see [`queue_chunk`].
    Queue,
}

impl Family {
    /// All families, in the order in which they are opened.
    pub const ALL: [Family; 5] = [
        Family::Meta,
        Family::Log,
        Family::Changelog,
        Family::State,
        Family::Queue,
    ];

    /// The family's name in RocksDB.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Meta => "meta",
            Family::Log => "log",
            Family::Changelog => "changelog",
            Family::State => "state",
            Family::Queue => "queue",
        }
    }
}

/// Every kind of key. The discriminant is the first byte of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// `(topic id)` → the topic's name and configuration as JSON. Family `meta`.
    Topic = 0x01,
    /// `(topic id, partition)` → start offset, next offset, bytes, cleaned-to offset. Family `meta`.
    PartitionHead = 0x02,
    /// `(group, 0, topic id, partition)` → committed offset and when. Family `meta`.
    GroupOffset = 0x03,
    /// `(pipeline name)` → the pipeline's id and how it last ran, as JSON. Family `meta`.
    Pipeline = 0x04,
    /// `(queue id)` → the queue's name and configuration as JSON. Family `meta`.
    Queue = 0x05,
    /// `(queue id, enqueued at ms, sequence)` → hashes of deduplication ids. Family `meta`.
    Deduplication = 0x06,
    /// `(group, 0, topic id, partition, lane)` → offsets beyond the committed one that are processed. Family
    /// `meta`.
    GroupGaps = 0x07,
    /// `(plugin name)` → the plugin's uploaded versions as JSON. Family `meta`.
    Plugin = 0x08,
    /// `(manifest name)` → an applied manifest as JSON. Family `meta`.
    Manifest = 0x09,
    /// `(deploy id)` → what was deployed and how it went, as JSON. Family `meta`.
    Deploy = 0x0a,
    /// `(token name)` → the SHA-256 of an access token, its roles and times, as JSON. Family `meta`.
    Token = 0x0c,
    /// `(topic id, partition, base offset)` → a record batch in Kafka's v2 format. Family `log`.
    Batch = 0x10,
    /// `(pipeline id, partition, sequence)` → the state changes of one checkpoint. Family `changelog`.
    Changelog = 0x20,
    /// `(pipeline id, partition, key)` → a value of keyed state. Family `state`.
    State = 0x30,
    /// `(queue id, chunk)` → acknowledgements and delivery counts of 1,024 messages. Family `queue`.
    QueueChunk = 0x40,
    /// `(pipeline id, task, group, sequence)` → a record that waits to be tried again. Family
    /// `changelog`.
    Parked = 0x31,
    /// `(pipeline id, task, due at ms, key)` → a timer's payload. Family `changelog`.
    Timer = 0x32,
    /// `(pipeline id, task, group)` → how many records of a large group wait to be tried again. Family
    /// `changelog`.
    ParkedGroup = 0x33,
}

impl KeyKind {
    /// The column family in which keys of this kind live.
    pub const fn family(self) -> Family {
        match self {
            KeyKind::Topic
            | KeyKind::PartitionHead
            | KeyKind::GroupOffset
            | KeyKind::Pipeline
            | KeyKind::Queue
            | KeyKind::Deduplication
            | KeyKind::GroupGaps
            | KeyKind::Plugin
            | KeyKind::Manifest
            | KeyKind::Deploy
            | KeyKind::Token => Family::Meta,
            KeyKind::Batch => Family::Log,
            KeyKind::Changelog | KeyKind::Parked | KeyKind::Timer | KeyKind::ParkedGroup => {
                Family::Changelog
            }
            KeyKind::State => Family::State,
            KeyKind::QueueChunk => Family::Queue,
        }
    }
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
