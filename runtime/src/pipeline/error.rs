//! What can go wrong with pipelines.

use std::sync::Arc;

use super::Refusal;
use crate::model::{GroupName, PipelineName, PluginName, TopicName};
use crate::plugin::{Digest, Fault};
use crate::queue::letter::Origin;
use crate::{group, log, manifest, model, queue, storage};

/// A pipeline cannot be started or described.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest does not fit the data directory or its plugins.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The pipelines have more tasks than there can be instances.
    #[error(
        "the pipelines need {needed} plugin instances, one for each partition of their inputs, and at most {limit} can live at the same time; use fewer partitions, or run some of the pipelines on another data directory"
    )]
    TooManyInstances {
        /// Instances that are needed.
        needed: u64,
        /// Instances that there can be.
        limit: u32,
    },
    /// Another manifest that has been applied has a pipeline of this name.
    #[error(
        "pipeline `{name}` is already one of manifest `{manifest}`; give one of them another name, or delete that one first"
    )]
    PipelineOfAnotherManifest {
        /// The pipeline.
        name: PipelineName,
        /// The other manifest.
        manifest: String,
    },
    /// A pipeline of another manifest commits the same offsets.
    #[error(
        "pipelines `{name}` and `{other}`, of another manifest, both read topic `{topic}` as group `{group}`; give one of them a `group` of its own: a group has one position in each partition"
    )]
    GroupInUse {
        /// The pipeline that is to run.
        name: PipelineName,
        /// The group of both.
        group: GroupName,
        /// A topic that both read.
        topic: TopicName,
        /// The pipeline of the other manifest.
        other: PipelineName,
    },
    /// No manifest that has been applied has this pipeline.
    #[error("no manifest with a pipeline `{name}` has been applied: {hint}")]
    NotApplied {
        /// The name asked for.
        name: PipelineName,
        /// What there is.
        hint: String,
    },
    /// The pipeline is paused, or has failed.
    #[error(
        "pipeline `{name}` does not run, so some of its tasks cannot be given another plugin; resume it first, or deploy to all of it"
    )]
    NotRunning {
        /// The pipeline.
        name: PipelineName,
    },
    /// The pipeline has no task of this number.
    #[error("pipeline `{name}` has no partition {partition}: it has {count}, from 0 on")]
    UnknownPartition {
        /// The pipeline.
        name: PipelineName,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        count: usize,
    },
    /// The plugin cannot run in the pipeline.
    #[error("plugin `{plugin}` cannot run in pipeline `{name}`: {refusal}")]
    Refused {
        /// The pipeline.
        name: PipelineName,
        /// The plugin's name in the manifest.
        plugin: PluginName,
        /// What is wrong with it, and what to do.
        refusal: Refusal,
    },
    /// No instance of the new version could be opened; nothing has been swapped.
    #[error(
        "version {digest} cannot be opened in pipeline `{name}`, so nothing was swapped: {fault}"
    )]
    CannotOpen {
        /// The pipeline.
        name: PipelineName,
        /// SHA-256 of the component.
        digest: Digest,
        /// What happened.
        fault: Fault,
    },
    /// No other version can run beside the pipeline's own.
    #[error("no other version can run beside pipeline `{name}`: {reason}; use a canary instead")]
    NoShadow {
        /// The pipeline.
        name: PipelineName,
        /// Why.
        reason: &'static str,
    },
    /// A task could not take the new version; all tasks run what they ran before.
    #[error(
        "partition {partition} of pipeline `{name}` could not be swapped, so none was: {reason}"
    )]
    SwapFailed {
        /// The pipeline.
        name: PipelineName,
        /// The task's partition.
        partition: u32,
        /// What happened.
        reason: String,
    },
    /// The pipeline keeps state or timers, which are spread over another number of instances.
    #[error(
        "the state and the timers of pipeline `{name}` are kept by {earlier} instances a task, each for its own keys, and it is to run with `concurrency = {concurrency}`; put `concurrency = {earlier}` back, or give the pipeline a new name, so that it starts without them"
    )]
    StateConcurrency {
        /// The pipeline.
        name: PipelineName,
        /// With how many instances a task its state was made.
        earlier: u32,
        /// How many it is to have.
        concurrency: u32,
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
    /// A record is malformed or too large.
    #[error(transparent)]
    Batch(#[from] model::batch::Error),
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// Why a task stopped, or a pipeline did not start.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The plugin cannot run in the pipeline.
    #[error("its plugin `{plugin}` cannot run: {refusal}")]
    Refused {
        /// The plugin's name in the manifest.
        plugin: PluginName,
        /// What is wrong with it, and what to do.
        refusal: Refusal,
    },
    /// No instance of the plugin could be opened.
    #[error("the plugin could not be opened: {0}")]
    Open(Fault),
    /// The plugin faulted on one record.
    #[error("{}: {fault}; {position}", place_text(place))]
    Fault {
        /// The record on which it faults.
        place: Origin,
        /// What happened.
        fault: Fault,
        /// Where the pipeline goes on.
        position: PositionAfterFailure,
    },
    /// The plugin said that it cannot process a record.
    #[error(
        "{}: the plugin {verdict} the record: {reason}; {position}",
        place_text(place)
    )]
    Record {
        /// The record.
        place: Origin,
        /// `rejected`, `asks to retry` or `had processed`.
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
    /// Records are parked of an input that the manifest no longer names.
    #[error(
        "records from {input} wait to be tried again, and `from` does not have it any more; put it back until they are done"
    )]
    ParkedInput {
        /// The input, as the manifest named it.
        input: String,
    },
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

impl TaskError {
    /// From what a task panicked with.
    pub(super) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self::Panicked(text.unwrap_or_else(|| "without a message".to_owned()))
    }
}

/// Where a record is, for people.
fn place_text(place: &Origin) -> String {
    match place {
        Origin::Topic {
            topic,
            partition,
            offset,
        } => format!("topic `{topic}`, partition {partition}, offset {offset}"),
        Origin::Queue { queue, offset } => format!("queue `{queue}`, message {offset}"),
        Origin::Timer(timer) => format!("`{timer}`"),
    }
}

/// Where a pipeline stands after a batch has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionAfterFailure {
    /// Before the batch: it comes again.
    Kept,
    /// Behind the record, which is parked: it is tried again first.
    Parked,
    /// It was a timer, which is still set.
    Set,
    /// Behind the batch, as `at-most-once` asks: its progress was committed before the plugin saw it.
    BehindBatch,
}

impl std::fmt::Display for PositionAfterFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kept => "the position is kept before it",
            Self::Parked => {
                "it stays parked, and the next start tries it again before the records of its key"
            }
            Self::Set => "the timer stays set, and fires again at the next start",
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
    /// The task's partition; `None` if the pipeline did not start.
    pub partition: Option<u32>,
    /// Why.
    pub error: Arc<TaskError>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pipeline `{}`", self.pipeline)?;
        if let Some(partition) = self.partition {
            write!(f, ", partition {partition}")?;
        }
        write!(f, ", stopped: {}", self.error)
    }
}
