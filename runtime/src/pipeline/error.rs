//! What can go wrong with pipelines.

use std::sync::Arc;

use crate::model::{PipelineName, TopicName};
use crate::plugin::{self, Fault};
use crate::{group, log, manifest, queue, storage};

/// A pipeline cannot be started or described.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest does not fit the data directory or its plugins.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// A component cannot be loaded.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// A plugin's file cannot be read.
    #[error("cannot read the plugin {path}: {reason}")]
    PluginFile {
        /// The file.
        path: String,
        /// The system's message.
        reason: String,
    },
    /// The plugin does not export what the pipeline needs.
    #[error("pipeline `{pipeline}`: {reason}")]
    Contract {
        /// The pipeline.
        pipeline: PipelineName,
        /// What is missing or not granted, and what to do.
        reason: String,
    },
    /// No pipeline of this name has run on the data directory.
    #[error("there is no pipeline `{name}` in this data directory{hint}")]
    UnknownPipeline {
        /// The name asked for.
        name: PipelineName,
        /// `; it knows …` or empty.
        hint: String,
    },
    /// The topics failed.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The consumer groups failed.
    #[error(transparent)]
    Group(#[from] group::Error),
    /// The queues failed.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// Why a task stopped.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// No instance of the plugin could be opened.
    #[error("the plugin could not be opened: {0}")]
    Open(Fault),
    /// The plugin faulted on one record.
    #[error("topic `{topic}`, partition {partition}, offset {offset}: {fault}; {position}")]
    Fault {
        /// The input's topic.
        topic: TopicName,
        /// The input's partition.
        partition: u32,
        /// The record on which it faults, or the first of the batch if no single one does it.
        offset: u64,
        /// What happened.
        fault: Fault,
        /// Where the pipeline goes on.
        position: PositionAfterFailure,
    },
    /// The plugin said that it cannot process a record.
    #[error(
        "topic `{topic}`, partition {partition}, offset {offset}: the plugin {verdict} the record: {reason}; {position}"
    )]
    Record {
        /// The input's topic.
        topic: TopicName,
        /// The input's partition.
        partition: u32,
        /// The record.
        offset: u64,
        /// `rejected` or `asks to retry`.
        verdict: &'static str,
        /// Why, in the plugin's words.
        reason: String,
        /// Where the pipeline goes on.
        position: PositionAfterFailure,
    },
    /// A producer faulted.
    #[error("the producer failed: {0}")]
    Producer(Fault),
    /// Reading the input failed.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// Reading the group's offsets failed.
    #[error(transparent)]
    Group(#[from] group::Error),
    /// The queue of the dead letters failed.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A bug in Millstream: the task panicked.
    #[error("the task panicked: {0}; this is a bug of millstream, please report it")]
    Panicked(String),
}

/// Where a pipeline stands after a batch has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionAfterFailure {
    /// Before the batch: it comes again.
    Kept,
    /// Behind the batch, as `at-most-once` asks: its progress was committed before the plugin saw it.
    BehindBatch,
}

impl std::fmt::Display for PositionAfterFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kept => "the position is kept before it",
            Self::BehindBatch => {
                "the batch does not come again, since its delivery is at-most-once"
            }
        })
    }
}

/// A pipeline that stopped.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The task's partition.
    pub partition: u32,
    /// Why.
    pub error: Arc<TaskError>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "pipeline `{}`, partition {}, stopped: {}",
            self.pipeline, self.partition, self.error
        )
    }
}
