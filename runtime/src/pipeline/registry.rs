//! The pipelines that have run on a data directory: their ids, and how they last ran.

use serde::{Deserialize, Serialize};

use super::Error;
use super::lag::{LagMemory, LagReader, QueueLag, Reads};
use super::retry;
use super::timers::{self, PendingTimers};
use crate::group::{Groups, Lag};
use crate::log::Log;
use crate::manifest::{PipelineSpec, RetryOrder, Start};
use crate::model::{GroupName, PipelineName, PluginName, PortName, QueueName, Target};
use crate::plugin::Digest;
use crate::queue::Queues;
use crate::storage::schema::{KeyKind, pipeline as pipeline_key};
use crate::storage::{self, Commit, Scan, Store};

/// What is stored of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct StoredPipeline {
    pub(super) id: u32,
    pub(super) group: GroupName,
    pub(super) plugin: PluginName,
    pub(super) plugin_digest: String,
    pub(super) inputs: Vec<Target>,
    /// All inputs that it has ever had: a parked record names its input by the place in this list, which `from`
    /// may be reordered without. Empty if it was stored before there was such a list: then it is `inputs`.
    #[serde(default)]
    pub(super) numbered_inputs: Vec<Target>,
    pub(super) ports: Vec<(PortName, Target)>,
    pub(super) delivery: String,
    /// Where it sends its dead letters; `None` if it has none.
    #[serde(default)]
    pub(super) dead_letter: Option<QueueName>,
    /// How many instances each task ran.
    #[serde(default = "one")]
    pub(super) concurrency: u32,
    /// Who waits for its records that are tried again.
    #[serde(default)]
    pub(super) retry_order: RetryOrder,
    /// Where it starts without a position.
    #[serde(default)]
    pub(super) start: Start,
}

fn one() -> u32 {
    1
}

impl StoredPipeline {
    /// All inputs that it has ever had, by the number by which parked records name them.
    pub(super) fn numbered_inputs(&self) -> &[Target] {
        match self.numbered_inputs.is_empty() {
            true => &self.inputs,
            false => &self.numbered_inputs,
        }
    }
}

/// A pipeline that has run on a data directory, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineDescription {
    /// Its name.
    pub name: PipelineName,
    /// The consumer group of its progress.
    pub group: GroupName,
    /// Its plugin.
    pub plugin: PluginName,
    /// SHA-256 of the component that it last ran with; empty if it has never run.
    pub plugin_digest: String,
    /// Its inputs.
    pub inputs: Vec<Target>,
    /// Its outputs.
    pub ports: Vec<(PortName, Target)>,
    /// Its delivery guarantee.
    pub delivery: String,
    /// The queue of its dead letters; `None` if it has none: a producer, or a pipeline that stops instead.
    pub dead_letter: Option<QueueName>,
    /// Position and lag in each partition of the topics that it reads.
    pub positions: Vec<Lag>,
    /// The queues that it reads, and what waits in each.
    pub queues: Vec<QueueLag>,
    /// Its timers that have not fired.
    pub timers: PendingTimers,
    /// Where it starts without a position.
    pub start: Start,
}

impl PipelineDescription {
    /// A pipeline of a manifest that has never run; what waits for it is not read yet.
    pub(super) fn of_spec(spec: &PipelineSpec) -> Self {
        let ports = spec.ports.iter();
        Self {
            name: spec.name.clone(),
            group: spec.group.clone(),
            plugin: spec.plugin.clone(),
            plugin_digest: String::new(),
            inputs: spec.inputs.clone(),
            ports: ports
                .map(|port| (port.name.clone(), port.target.clone()))
                .collect(),
            delivery: spec.delivery.to_string(),
            dead_letter: spec.dead_letter_queue().cloned(),
            positions: Vec::new(),
            queues: Vec::new(),
            timers: PendingTimers::default(),
            start: spec.start,
        }
    }

    /// What its positions and queues were read for.
    pub(super) fn reads(&self) -> Reads<'_> {
        Reads {
            group: &self.group,
            inputs: &self.inputs,
            start: self.start,
        }
    }
}

/// All pipelines that have run on a data directory, by name.
pub fn list(
    log: &Log,
    queues: &Queues,
    groups: &Groups,
) -> Result<Vec<PipelineDescription>, Error> {
    let memory = LagMemory::default();
    list_with(&LagReader {
        log,
        queues,
        groups,
        memory: &memory,
    })
}

/// As [`list`], without reading what has not changed since the last look.
pub(super) fn list_with(reader: &LagReader<'_>) -> Result<Vec<PipelineDescription>, Error> {
    stored(reader.log.store())?
        .into_iter()
        .map(|(name, stored)| describe_stored(reader, name, stored))
        .collect()
}

/// One pipeline that has run on a data directory.
///
/// # Errors
/// [`Error::UnknownPipeline`]
pub fn describe(
    log: &Log,
    queues: &Queues,
    groups: &Groups,
    name: &PipelineName,
) -> Result<PipelineDescription, Error> {
    let memory = LagMemory::default();
    let reader = LagReader {
        log,
        queues,
        groups,
        memory: &memory,
    };
    describe_with(&reader, name)
}

/// As [`describe`], without reading what has not changed since the last look.
pub(super) fn describe_with(
    reader: &LagReader<'_>,
    name: &PipelineName,
) -> Result<PipelineDescription, Error> {
    let (name, stored) = find(reader.log.store(), name)?;
    describe_stored(reader, name, stored)
}

/// Where a pipeline that has run on a data directory sends its dead letters; `None` if it has no such queue.
///
/// # Errors
/// [`Error::UnknownPipeline`]
pub fn dead_letter_queue_of(
    store: &Store,
    name: &PipelineName,
) -> Result<Option<QueueName>, Error> {
    let (_, stored) = find(store, name)?;
    Ok(stored.dead_letter)
}

/// One pipeline that has run on a data directory, as it is stored.
pub(super) fn find(
    store: &Store,
    name: &PipelineName,
) -> Result<(PipelineName, StoredPipeline), Error> {
    let all = stored(store)?;
    let known: Vec<String> = all.iter().map(|(name, _)| format!("`{name}`")).collect();
    let found = all.into_iter().find(|(stored, _)| stored == name);
    found.ok_or_else(|| Error::UnknownPipeline {
        name: name.clone(),
        hint: match known.is_empty() {
            true => "; none has run here yet".to_owned(),
            false => format!("; it knows {}", known.join(", ")),
        },
    })
}

fn describe_stored(
    reader: &LagReader<'_>,
    name: PipelineName,
    stored: StoredPipeline,
) -> Result<PipelineDescription, Error> {
    let reads = Reads {
        group: &stored.group,
        inputs: &stored.inputs,
        start: stored.start,
    };
    let lags = reader.lags_of(&name, &reads);
    Ok(PipelineDescription {
        name,
        group: stored.group,
        plugin: stored.plugin,
        plugin_digest: stored.plugin_digest,
        inputs: stored.inputs,
        ports: stored.ports,
        delivery: stored.delivery,
        dead_letter: stored.dead_letter,
        positions: lags.partitions,
        queues: lags.queues,
        timers: timers::pending(reader.log.store(), stored.id)?,
        start: stored.start,
    })
}

/// The pipelines that have run, and whose positions are those of this consumer group.
pub fn owners_of_group(store: &Store, group: &GroupName) -> Result<Vec<PipelineName>, Error> {
    let owners = stored(store)?.into_iter();
    let owners = owners.filter(|(_, stored)| stored.group == *group);
    Ok(owners.map(|(name, _)| name).collect())
}

/// Those of [`owners_of_group`] that have records waiting to be tried again, and how many.
pub fn parked_of_group(
    store: &Store,
    group: &GroupName,
) -> Result<Vec<(PipelineName, u64)>, Error> {
    let mut parked = Vec::new();
    for (name, stored) in stored(store)? {
        if stored.group == *group {
            let count = retry::parked_count(store, stored.id)?;
            parked.extend((count > 0).then_some((name, count)));
        }
    }
    Ok(parked)
}

/// Stores how a pipeline runs now; gives it an id if it has none, and its inputs numbers. Returns what is stored.
pub(super) async fn register(
    store: &Store,
    name: &PipelineName,
    mut pipeline: StoredPipeline,
) -> Result<StoredPipeline, Error> {
    let known = stored(store)?;
    let existing = known
        .iter()
        .find(|(stored, _)| stored == name)
        .map(|(_, stored)| stored);
    pipeline.id = match existing {
        Some(stored) => stored.id,
        None => known
            .iter()
            .map(|(_, stored)| stored.id + 1)
            .max()
            .unwrap_or(0),
    };
    let mut numbered = existing.map_or_else(Vec::new, |stored| stored.numbered_inputs().to_vec());
    for input in &pipeline.inputs {
        if !numbered.contains(input) {
            numbered.push(input.clone());
        }
    }
    pipeline.numbered_inputs = numbered;
    if existing != Some(&pipeline) {
        let value = serde_json::to_vec(&pipeline)
            .map_err(|error| damaged(name.as_str(), &error.to_string()))?;
        let mut commit = Commit::new();
        commit.put(
            KeyKind::Pipeline,
            pipeline_key::key(name.as_str()),
            value.into(),
        );
        store.commit(commit).await?;
    }
    Ok(pipeline)
}

/// Stores that a pipeline runs another version of its plugin now.
pub(super) async fn set_digest(
    store: &Store,
    name: &PipelineName,
    digest: &Digest,
) -> Result<(), Error> {
    let known = stored(store)?;
    let Some((_, pipeline)) = known.into_iter().find(|(stored, _)| stored == name) else {
        return Ok(());
    };
    let plugin_digest = digest.to_string();
    if pipeline.plugin_digest != plugin_digest {
        let pipeline = StoredPipeline {
            plugin_digest,
            ..pipeline
        };
        register(store, name, pipeline).await?;
    }
    Ok(())
}

/// What a pipeline's data is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineIdentity {
    /// The id under which its state, its timers and its parked records lie.
    pub id: u32,
    /// The consumer group of its progress.
    pub group: GroupName,
    /// What it reads.
    pub inputs: Vec<Target>,
    /// Where it starts without a position.
    pub start: Start,
    /// All that it has ever read, by the number by which parked records name it.
    pub numbered_inputs: Vec<Target>,
    /// What it writes to, the queue of its dead letters included.
    pub outputs: Vec<Target>,
}

/// Reads a pipeline's entry, which may be that of a copy of the store.
///
/// # Errors
/// [`storage::Error::Damaged`]
pub fn parse_identity(
    name: &PipelineName,
    value: &[u8],
) -> Result<PipelineIdentity, storage::Error> {
    let stored: StoredPipeline = serde_json::from_slice(value)
        .map_err(|error| damaged(name.as_str(), &error.to_string()))?;
    let numbered_inputs = stored.numbered_inputs().to_vec();
    let ports = stored.ports.into_iter().map(|(_, target)| target);
    Ok(PipelineIdentity {
        start: stored.start,
        numbered_inputs,
        id: stored.id,
        group: stored.group,
        inputs: stored.inputs,
        outputs: ports.chain(stored.dead_letter.map(Target::Queue)).collect(),
    })
}

/// Deletes a pipeline that does not run: its state, timers and parked records, its group's positions, unless
/// another pipeline has the same group, and its entry; all at once.
pub(super) async fn delete(store: &Store, name: &PipelineName) -> Result<(), Error> {
    let known = stored(store)?;
    let Some((_, pipeline)) = known.iter().find(|(stored, _)| stored == name) else {
        return Ok(());
    };
    let mut commit = Commit::new();
    commit.forget_pipeline(pipeline.id);
    commit.delete(KeyKind::Pipeline, pipeline_key::key(name.as_str()));
    let is_shared = known
        .iter()
        .any(|(other, stored)| other != name && stored.group == pipeline.group);
    if !is_shared {
        commit.forget_group(pipeline.group.as_str());
    }
    store.commit(commit).await?;
    Ok(())
}

/// Everything that is stored, by name.
pub(super) fn stored(store: &Store) -> Result<Vec<(PipelineName, StoredPipeline)>, Error> {
    let mut pipelines = Vec::new();
    store.scan_kind(KeyKind::Pipeline, |key, value| {
        let name = pipeline_key::parse_key(key).and_then(|name| PipelineName::try_from(name).ok());
        let name = name.ok_or_else(|| damaged("?", "malformed key"))?;
        let stored: StoredPipeline = serde_json::from_slice(value)
            .map_err(|error| damaged(name.as_str(), &error.to_string()))?;
        pipelines.push((name, stored));
        Ok(Scan::Continue)
    })?;
    Ok(pipelines)
}

fn damaged(name: &str, reason: &str) -> storage::Error {
    storage::Error::Damaged {
        what: format!("the entry of pipeline {name}"),
        reason: reason.to_owned(),
    }
}
