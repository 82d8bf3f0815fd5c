//! What all tasks of a pipeline share: its specification, its plugin, and where its data is.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::Error;
use super::outputs::Outputs;
use super::plugins::grants_of;
use super::processor::NativeFunction;
use super::registry::{self, StoredPipeline};
use super::task_state::TaskState;
use crate::group::Groups;
use crate::log::{self, Log, OffsetSpec, Topic};
use crate::manifest::{DeadLetter, PipelineSpec, Start};
use crate::model::PortName;
use crate::plugin::{Grants, Limits, Plugin, PluginMetrics};
use crate::queue::{Queue, QueueConfig, Queues};
use crate::storage::{self, Partition};

/// A pipeline, ready for its tasks.
pub(super) struct PipelineRuntime {
    pub(super) spec: PipelineSpec,
    pub(super) id: u32,
    pub(super) plugin: Plugin,
    pub(super) native: Option<NativeFunction>,
    pub(super) grants: Grants,
    pub(super) limits: Limits,
    /// The plugin's own metrics, of all its instances together.
    pub(super) metrics: Arc<PluginMetrics>,
    /// Plugin calls at a time, of all pipelines together.
    pub(super) calls: Arc<Semaphore>,
    pub(super) log: Log,
    pub(super) groups: Groups,
    pub(super) inputs: Vec<Topic>,
    /// Where records go that are given up on; without it the pipeline stops at them.
    pub(super) dead_letters: Option<Queue>,
    ports: Vec<(PortName, Topic)>,
}

impl PipelineRuntime {
    /// Resolves a pipeline's topics and registers it. Its plugin's contract has been checked.
    pub(super) async fn open(
        spec: &PipelineSpec,
        plugin: Plugin,
        native: Option<NativeFunction>,
        log: &Log,
        queues: &Queues,
        groups: &Groups,
        calls: Arc<Semaphore>,
    ) -> Result<Self, Error> {
        let inputs = spec
            .inputs
            .iter()
            .map(|name| log.topic(name))
            .collect::<Result<Vec<_>, _>>()?;
        let ports = spec
            .ports
            .iter()
            .map(|port| Ok((port.name.clone(), log.topic(&port.topic)?)))
            .collect::<Result<Vec<_>, log::Error>>()?;
        let dead_letters = match &spec.dead_letter {
            DeadLetter::Queue(name) if !spec.is_producer() => Some(match queues.queue(name) {
                Ok(queue) => queue,
                Err(_) => queues.ensure_queue(name, QueueConfig::default()).await?,
            }),
            DeadLetter::Queue(_) | DeadLetter::Stop => None,
        };
        let stored = StoredPipeline {
            id: 0,
            group: spec.group.clone(),
            plugin: spec.plugin.clone(),
            plugin_digest: plugin.digest().to_string(),
            inputs: spec.inputs.clone(),
            ports: spec
                .ports
                .iter()
                .map(|port| (port.name.clone(), port.topic.clone()))
                .collect(),
            delivery: spec.delivery.to_string(),
            dead_letter: dead_letters.as_ref().map(|queue| queue.name().clone()),
            retry_order: spec.retry.order,
        };
        let id = registry::register(log.store(), &spec.name, stored).await?;
        let limits = Limits {
            memory_bytes: spec.limits.memory_bytes,
            deadline: spec.limits.deadline,
            output_bytes: spec.limits.output_bytes,
            ..Limits::default()
        };
        Ok(Self {
            spec: spec.clone(),
            id,
            plugin,
            native,
            grants: grants_of(spec),
            limits,
            metrics: Arc::default(),
            calls,
            log: log.clone(),
            groups: groups.clone(),
            inputs,
            dead_letters,
            ports,
        })
    }

    /// Number of tasks: as many as the input with the most partitions has, or one for a producer.
    pub(super) fn task_count(&self) -> u32 {
        self.inputs
            .iter()
            .map(Topic::partition_count)
            .max()
            .unwrap_or(1)
    }

    /// The partitions that a task reads: that of its number in every input that has it, with the
    /// index of the input.
    pub(super) fn task_inputs(&self, task: u32) -> Vec<(u32, Arc<Partition>)> {
        let indexed = (0u32..).zip(&self.inputs);
        indexed
            .filter_map(|(index, topic)| Some((index, Arc::clone(topic.partition(task).ok()?))))
            .collect()
    }

    /// Where a task starts in a partition: at the group's committed offset, or as `start` says.
    pub(super) fn start_offset(&self, partition: &Partition) -> Result<u64, super::TaskError> {
        if let Some(committed) = self.groups.committed(&self.spec.group, partition)? {
            return Ok(committed.offset);
        }
        let spec = match self.spec.start {
            Start::Earliest => OffsetSpec::Earliest,
            Start::Latest => OffsetSpec::Latest,
            Start::Time { timestamp_ms } => OffsetSpec::TimeMs(timestamp_ms),
        };
        Ok(self.log.resolve_offset(partition, spec)?)
    }

    pub(super) fn outputs(&self) -> Outputs {
        Outputs::new(self.ports.iter().cloned(), self.limits.output_bytes)
    }

    pub(super) fn state(&self, task: u32) -> Result<Arc<Mutex<TaskState>>, storage::Error> {
        let state = TaskState::open(self.log.store().clone(), self.id, task)?;
        Ok(Arc::new(Mutex::new(state)))
    }
}
