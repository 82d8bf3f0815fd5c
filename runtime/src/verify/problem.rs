//! What can be wrong, where it is, and what to do about it.

use serde::Serialize;

/// Problems that are kept one by one; of more than these only the number is known.
const MAX_KEPT: usize = 1000;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// A file of a backup is not what it was.
    File,
    /// RocksDB cannot open its files.
    Store,
    /// The write-ahead log is damaged: whoever opens the store does not see what lies behind that.
    WriteAheadLog,
    /// RocksDB cannot read a part of its files: a checksum does not match, or a file is cut off.
    Unreadable,
    /// A key of no known kind, or malformed.
    Key,
    /// The entry of a topic, a queue, a pipeline, a plugin, a manifest, a deploy or a token is malformed.
    Entry,
    /// A plugin's component is missing, or not what was uploaded.
    Component,
    /// A record batch is damaged: its CRC, its header, its compression or its records.
    Batch,
    /// Offsets are missing, or there twice.
    Offsets,
    /// A partition's head does not agree with its batches.
    Head,
    /// Something belongs to a topic, a queue or a pipeline that there is not.
    Orphan,
    /// A group's committed offset is malformed, or beyond the end of the partition.
    GroupOffset,
    /// What is known of a queue's messages is malformed, or about messages that there are not.
    QueueChunk,
    /// State, changelog, a timer or a parked record of a pipeline is malformed.
    PipelineData,
}

impl ProblemKind {
    /// What to do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::File => "use another copy of the backup, or an older backup",
            Self::Store => {
                "restore a backup; before that keep a copy of the directory, of which parts may still be read"
            }
            Self::WriteAheadLog => {
                "restore a backup, or open the data directory as it is: then the newest commits, those behind the damage, are lost"
            }
            Self::Unreadable => {
                "check the disk (dmesg, smartctl); restore a backup, or skip what cannot be read by moving the groups behind it (`millstream group reset`)"
            }
            Self::Batch | Self::Offsets => {
                "restore a backup, or move the groups behind it (`millstream group reset --to OFFSET`)"
            }
            Self::Key | Self::Entry => "restore a backup",
            Self::Component => "upload the version again, or restore a backup",
            Self::Head => "restore a backup; readers see what the head says, and no more",
            Self::Orphan => "nothing reads it, so that it does no harm; report it as a bug",
            Self::GroupOffset => "set it anew with `millstream group reset`",
            Self::QueueChunk => {
                "restore a backup; without the chunk its messages would be delivered again"
            }
            Self::PipelineData => {
                "restore a backup, or let the pipeline start over under another name"
            }
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is.
    pub kind: ProblemKind,
    /// The topic it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The queue it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The pipeline it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    /// The consumer group it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The partition, or the task of the pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// The first offset that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The entry's key in the store, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is wrong, in a sentence.
    pub reason: String,
    /// What to do.
    pub advice: &'static str,
}

impl Problem {
    /// Boxed, since it is the rare error of functions that are called for every entry.
    pub(super) fn new(kind: ProblemKind, reason: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            kind,
            topic: None,
            queue: None,
            pipeline: None,
            group: None,
            partition: None,
            offset: None,
            key: None,
            reason: reason.into(),
            advice: kind.advice(),
        })
    }

    /// Where it is, as people read it: `topic flights, partition 2, offset 512`.
    pub fn place(&self) -> String {
        let named = [
            ("topic", &self.topic),
            ("queue", &self.queue),
            ("pipeline", &self.pipeline),
            ("group", &self.group),
        ];
        let mut parts: Vec<String> = named
            .into_iter()
            .filter_map(|(what, name)| Some(format!("{what} {}", name.as_ref()?)))
            .collect();
        parts.extend(self.partition.map(|index| format!("partition {index}")));
        parts.extend(self.offset.map(|offset| format!("offset {offset}")));
        parts.join(", ")
    }
}

/// Problems, the first of them one by one.
#[derive(Debug, Default, Serialize)]
pub struct Problems {
    /// How many there are.
    pub problem_count: u64,
    /// The first 1,000.
    pub problems: Vec<Problem>,
}

impl Problems {
    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.problem_count == 0
    }

    #[expect(clippy::boxed_local, reason = "they come boxed, as errors")]
    pub(super) fn add(&mut self, problem: Box<Problem>) {
        self.problem_count += 1;
        if self.problems.len() < MAX_KEPT {
            self.problems.push(*problem);
        }
    }
}
