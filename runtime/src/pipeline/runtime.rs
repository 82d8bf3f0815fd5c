//! What all tasks of a pipeline share: its specification, its plugin, and where its data is.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Error;
use super::calls::Calls;
use super::lag::start_offset;
use super::opening::{context_of, grants_of, limits_of};
use super::outputs::{Destination, Outputs};
use super::processor::NativeFunction;
use super::registry::{self, StoredPipeline};
use super::retry::{GiveUpLog, Parked};
use super::task_state::TaskState;
use super::timers;
use super::trial::Trial;
use crate::group::Groups;
use crate::log::{Log, Topic};
use crate::manifest::{PipelineSpec, RetryOrder};
use crate::model::{PortName, TIMERS_INPUT, Target};
use crate::plugin::{
    ComputeSlot, Grants, InstanceContext, Limits, LogLimit, Plugin, PluginMetrics,
};
use crate::queue::{Queue, QueueConfig, Queues};
use crate::storage::schema::parked::ParkedRecord;
use crate::storage::{self, Partition, Store};

/// A pipeline, ready for its tasks. All tasks share it but while a plugin is swapped.
#[derive(Clone)]
pub(super) struct PipelineRuntime {
    pub(super) spec: PipelineSpec,
    pub(super) id: u32,
    /// All inputs that it has ever had, by the number by which parked records name them.
    numbered_inputs: Vec<Target>,
    pub(super) plugin: Plugin,
    pub(super) native: Option<NativeFunction>,
    /// Set while the plugin is tried out.
    pub(super) trial: Option<Arc<Trial>>,
    pub(super) grants: Grants,
    pub(super) limits: Limits,
    /// The plugin's own metrics, of all its instances together.
    pub(super) metrics: Arc<PluginMetrics>,
    /// What the plugin logs, and how much, all its instances together.
    pub(super) log_limit: Arc<LogLimit>,
    /// Plugin calls that run, of all pipelines together.
    pub(super) calls: Arc<Calls>,
    pub(super) log: Log,
    pub(super) groups: Groups,
    inputs: Vec<Source>,
    /// Where records go that are given up on; without it the pipeline stops at them.
    pub(super) dead_letters: Option<Queue>,
    /// Says which ones.
    pub(super) give_up_log: Option<Arc<GiveUpLog>>,
    ports: Vec<(PortName, Destination)>,
}

impl std::fmt::Debug for PipelineRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PipelineRuntime")
            .field("name", &self.spec.name)
            .field("plugin", &self.plugin)
            .finish_non_exhaustive()
    }
}

/// What an input of a pipeline reads.
#[derive(Clone)]
enum Source {
    Topic(Topic),
    Queue(Queue),
}

/// What an input of a task reads.
pub(super) enum TaskInput {
    Partition(Arc<Partition>),
    Queue(Queue),
}

impl PipelineRuntime {
    /// Resolves a pipeline's topics and queues, and registers it. Its plugin's contract has been checked.
    pub(super) async fn open(
        spec: &PipelineSpec,
        plugin: Plugin,
        native: Option<NativeFunction>,
        log: &Log,
        queues: &Queues,
        groups: &Groups,
        calls: Arc<Calls>,
    ) -> Result<Self, Error> {
        let (inputs, ports) = (sources(spec, log, queues)?, ports(spec, log, queues)?);
        let dead_letters = match spec.dead_letter_queue() {
            Some(name) => Some(match queues.queue(name) {
                Ok(queue) => queue,
                Err(_) => queues.ensure_queue(name, QueueConfig::default()).await?,
            }),
            None => None,
        };
        Self::check_state(log.store(), spec, &plugin)?;
        let stored = StoredPipeline {
            id: 0,
            group: spec.group.clone(),
            plugin: spec.plugin.clone(),
            plugin_digest: plugin.digest().to_string(),
            inputs: spec.inputs.clone(),
            numbered_inputs: Vec::new(),
            ports: spec
                .ports
                .iter()
                .map(|port| (port.name.clone(), port.target.clone()))
                .collect(),
            delivery: spec.delivery.to_string(),
            dead_letter: dead_letters.as_ref().map(|queue| queue.name().clone()),
            concurrency: spec.concurrency,
            retry_order: spec.retry.order,
            start: spec.start,
        };
        let stored = registry::register(log.store(), &spec.name, stored).await?;
        Ok(Self {
            spec: spec.clone(),
            id: stored.id,
            numbered_inputs: stored.numbered_inputs,
            plugin,
            native,
            trial: None,
            grants: grants_of(spec),
            limits: limits_of(spec),
            metrics: Arc::default(),
            log_limit: Arc::default(),
            calls,
            log: log.clone(),
            groups: groups.clone(),
            inputs,
            give_up_log: dead_letters
                .as_ref()
                .map(|queue| Arc::new(GiveUpLog::new(&spec.name, queue.name()))),
            dead_letters,
            ports,
        })
    }

    /// Checks that what state and timers the pipeline has are where its instances will look for them: with several
    /// instances a task, each keeps those of its own keys.
    ///
    /// # Errors
    /// [`Error::StateConcurrency`]
    pub(super) fn check_state(
        store: &Store,
        spec: &PipelineSpec,
        plugin: &Plugin,
    ) -> Result<(), Error> {
        if !plugin.keeps_state() {
            return Ok(());
        }
        let known = registry::stored(store)?;
        let Some((_, earlier)) = known.into_iter().find(|(name, _)| *name == spec.name) else {
            return Ok(());
        };
        let has_changed = earlier.concurrency != spec.concurrency;
        if has_changed
            && (TaskState::exists(store, earlier.id)? || timers::exist(store, earlier.id)?)
        {
            return Err(Error::StateConcurrency {
                name: spec.name.clone(),
                earlier: earlier.concurrency,
                concurrency: spec.concurrency,
            });
        }
        Ok(())
    }

    /// The same pipeline with another version of its plugin, which fits it. The plugin's metrics go on.
    pub(super) fn with_plugin(&self, plugin: Plugin, trial: Option<Arc<Trial>>) -> Self {
        Self {
            plugin,
            trial,
            ..self.clone()
        }
    }

    /// Number of tasks: as many as the topic with the most partitions has; one for a producer, and for a
    /// pipeline that reads queues only.
    pub(super) fn task_count(&self) -> u32 {
        let partitions = self.inputs.iter().map(|input| match input {
            Source::Topic(topic) => topic.partition_count(),
            Source::Queue(_) => 1,
        });
        partitions.max().unwrap_or(1)
    }

    /// What a task reads: the partition of its number in every topic that has it, and queues if it is the
    /// first; with the index of the input.
    pub(super) fn task_inputs(&self, task: u32) -> Vec<(u32, TaskInput)> {
        let read = |(index, input): (u32, &Source)| {
            let input = match input {
                Source::Topic(topic) => {
                    TaskInput::Partition(Arc::clone(topic.partition(task).ok()?))
                }
                Source::Queue(queue) if task == 0 => TaskInput::Queue(queue.clone()),
                Source::Queue(_) => return None,
            };
            Some((index, input))
        };
        (0u32..).zip(&self.inputs).filter_map(read).collect()
    }

    /// Where a task starts in a partition: at the group's committed offset, or as `start` says.
    pub(super) fn start_offset(&self, partition: &Partition) -> Result<u64, super::TaskError> {
        if let Some(committed) = self.groups.committed(&self.spec.group, partition)? {
            return Ok(committed.offset);
        }
        Ok(start_offset(&self.log, partition, self.spec.start)?)
    }

    /// Whether a run with several instances a task has processed records beyond the committed offset.
    pub(super) fn has_gaps(&self, task: u32) -> Result<bool, super::TaskError> {
        for (_, input) in self.task_inputs(task) {
            if let TaskInput::Partition(partition) = input
                && !self.groups.gaps(&self.spec.group, &partition)?.is_empty()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a run with several instances a task may have parked messages before those that they wait for had ended:
    /// these come out of their queue again.
    pub(super) fn has_overtaken(&self, task: u32) -> Result<bool, super::TaskError> {
        let queues = self
            .task_inputs(task)
            .into_iter()
            .filter_map(|(index, input)| {
                matches!(input, TaskInput::Queue(_)).then(|| self.input_number(index))
            });
        let queues: Vec<u32> = queues.collect();
        if queues.is_empty() || self.spec.retry.order == RetryOrder::None {
            return Ok(false);
        }
        let has_overtaken =
            |first: &ParkedRecord| queues.contains(&first.input) && first.has_only_waited();
        let store = self.log.store();
        Ok(Parked::any_first(store, self.id, task, has_overtaken)?)
    }

    /// The number by which parked records name an input, or timers.
    pub(super) fn input_number(&self, index: u32) -> u32 {
        let input = self.spec.inputs.get(index as usize);
        let mut numbered = self.numbered_inputs.iter();
        let number = input.and_then(|input| numbered.position(|known| known == input));
        number.map_or(index, |number| number as u32)
    }

    /// The index in `from` of the input that parked records name by this number, or timers.
    ///
    /// # Errors
    /// What the input was called, if `from` does not have it any more.
    pub(super) fn input_index(&self, number: u32) -> Result<u32, String> {
        if number == TIMERS_INPUT {
            return Ok(number);
        }
        let known = self.numbered_inputs.get(number as usize);
        let known = known.ok_or_else(|| format!("an input with the number {number}"))?;
        let index = self.spec.inputs.iter().position(|input| input == known);
        index.map_or_else(|| Err(format!("`{known}`")), |index| Ok(index as u32))
    }

    /// Where an instance for a partition runs.
    pub(super) fn instance_context(
        &self,
        partition: u32,
        metrics: &Arc<PluginMetrics>,
    ) -> InstanceContext {
        let slot = Arc::clone(&self.calls) as Arc<dyn ComputeSlot>;
        context_of(&self.spec, partition, metrics, &self.log_limit, Some(slot))
    }

    pub(super) fn outputs(&self) -> Outputs {
        let inputs = self.spec.inputs.iter();
        let are_queues = inputs.map(|input| matches!(input, Target::Queue(_)));
        let ports = self.ports.iter().cloned();
        Outputs::new(ports, are_queues.collect(), self.limits.output_bytes)
    }

    pub(super) fn state(&self, task: u32) -> Result<Arc<Mutex<TaskState>>, storage::Error> {
        let state = TaskState::open(self.log.store().clone(), self.id, task)?;
        Ok(Arc::new(Mutex::new(state)))
    }
}

/// What a pipeline reads.
fn sources(spec: &PipelineSpec, log: &Log, queues: &Queues) -> Result<Vec<Source>, Error> {
    let inputs = spec.inputs.iter().map(|input| {
        Ok(match input {
            Target::Topic(name) => Source::Topic(log.topic(name)?),
            Target::Queue(name) => Source::Queue(queues.queue(name)?),
        })
    });
    inputs.collect()
}

/// What a pipeline writes to.
fn ports(
    spec: &PipelineSpec,
    log: &Log,
    queues: &Queues,
) -> Result<Vec<(PortName, Destination)>, Error> {
    let ports = spec.ports.iter().map(|port| {
        let destination = match &port.target {
            Target::Topic(name) => Destination::Topic(log.topic(name)?),
            Target::Queue(name) => Destination::Queue(queues.queue(name)?),
        };
        Ok((port.name.clone(), destination))
    });
    ports.collect()
}
