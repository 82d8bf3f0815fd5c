//! What a task runs on a batch: an instance of the pipeline's plugin, or a native function.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::outputs::{OutputError, OutputRecord, Outputs};
use super::runtime::PipelineRuntime;
use super::task_state::TaskState;
use crate::model::HeadersRef;
use crate::plugin::{
    Columns, Fault, Instance, Moment, Output, PluginMetrics, RangeLimit, Readings, StateReader,
    TimerChange,
};
use crate::storage::Commit;
use crate::storage::schema::changelog::Change;

/// A function in the plugin's place: maps a value into a buffer, and says whether to send it on.
/// Benchmarks compare a plugin with it.
pub type NativeFunction = Arc<dyn Fn(&[u8], &mut Vec<u8>) -> bool + Send + Sync>;

/// What runs on a batch.
pub(super) enum Processor {
    Plugin(Box<Instance>),
    Native {
        function: NativeFunction,
        buffer: Vec<u8>,
    },
}

/// What a batch led to, before it is routed.
pub(super) enum Processed {
    Plugin(Box<Output>),
    Native,
}

/// What a change takes in a commit besides its key and its value.
const CHANGE_BYTES: usize = 32;

/// What a call has changed besides its outputs.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) state: Vec<Change>,
    pub(super) timers: Vec<TimerChange>,
}

impl Changes {
    /// What they take in a commit, about.
    pub(super) fn len_bytes(&self) -> usize {
        let value_bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let state = self.state.iter();
        let state = state.map(|(key, value)| key.len() + value_bytes(value) + CHANGE_BYTES);
        let timers = self.timers.iter();
        let timers =
            timers.map(|timer| timer.key.len() + value_bytes(&timer.payload) + CHANGE_BYTES);
        state.sum::<usize>() + timers.sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.is_empty() && self.timers.is_empty()
    }
}

impl Processed {
    /// Bytes of the keys, values and headers that the plugin returned.
    pub(super) fn size_bytes(&self) -> u64 {
        match self {
            Self::Plugin(output) => output.size_bytes() as u64,
            Self::Native => 0,
        }
    }

    /// Records that the plugin could not process.
    pub(super) fn failed_count(&self) -> usize {
        match self {
            Self::Plugin(output) => output.failed().len(),
            Self::Native => 0,
        }
    }

    /// Whether each of its records says from which record of the batch it comes.
    pub(super) fn has_sources(&self) -> bool {
        match self {
            Self::Plugin(output) => (0..output.len()).all(|at| output.source(at).is_some()),
            Self::Native => true,
        }
    }
}

/// The task's state as an instance reads it.
pub(super) struct SharedState(pub(super) Arc<Mutex<TaskState>>);

impl StateReader for SharedState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        self.0.lock().get(key).map_err(|error| error.to_string())
    }

    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        self.0
            .lock()
            .range(from, to, limit)
            .map_err(|error| error.to_string())
    }
}

impl Processor {
    /// Opens a processor of the pipeline for one partition. With other metrics than the pipeline's it
    /// is one whose results are thrown away, and its log lines are, too.
    pub(super) fn open(
        pipeline: &PipelineRuntime,
        partition: u32,
        state: &Arc<Mutex<TaskState>>,
        metrics: &Arc<PluginMetrics>,
    ) -> Result<Self, Fault> {
        if let Some(function) = &pipeline.native {
            return Ok(Self::Native {
                function: Arc::clone(function),
                buffer: Vec::new(),
            });
        }
        let context = pipeline.instance_context(partition, metrics);
        let state = Box::new(SharedState(Arc::clone(state)));
        let instance =
            pipeline
                .plugin
                .instantiate(context, &pipeline.grants, &pipeline.limits, state)?;
        Ok(Self::Plugin(Box::new(instance)))
    }

    /// Runs on a batch. Nothing of it is kept until its checkpoint.
    pub(super) fn process(&mut self, batch: &Columns) -> Result<Processed, Fault> {
        match self {
            Self::Plugin(instance) => Ok(Processed::Plugin(Box::new(instance.process(batch)?))),
            Self::Native { .. } => Ok(Processed::Native),
        }
    }

    /// What the linear memories of the instance take.
    pub(super) fn memory_bytes(&self) -> u64 {
        match self {
            Self::Plugin(instance) => instance.memory_bytes() as u64,
            Self::Native { .. } => 0,
        }
    }

    /// When the last call was. Exchanges what its clocks said for other memory.
    pub(super) fn last_call(&mut self, readings: &mut Readings) -> Moment {
        match self {
            Self::Plugin(instance) => {
                instance.swap_readings(readings);
                instance.moment()
            }
            Self::Native { .. } => Moment::default(),
        }
    }

    /// The index of the record on which the plugin has said, in the last call, that it traps. It may be wrong.
    pub(super) fn trapping_at(&self) -> Option<usize> {
        match self {
            Self::Plugin(instance) => instance.trapping_at(),
            Self::Native { .. } => None,
        }
    }

    /// Makes records.
    pub(super) fn produce(&mut self, max_records: u32) -> Result<Output, Fault> {
        match self {
            Self::Plugin(instance) => instance.produce(max_records),
            Self::Native { .. } => Ok(Output::default()),
        }
    }

    /// Drops, or no longer drops, what the plugin writes to stderr: a panic says the same in every part of
    /// a batch that holds the record. It is in the fault all the same.
    pub(super) fn mute_stderr(&mut self, is_muted: bool) {
        if let Self::Plugin(instance) = self {
            instance.mute_stderr(is_muted);
        }
    }

    /// The changes since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        Changes {
            timers: match self {
                Self::Plugin(instance) => instance.take_timer_changes(),
                Self::Native { .. } => Vec::new(),
            },
            state: self.take_state_changes(),
        }
    }

    /// The state changes since the last call.
    pub(super) fn take_state_changes(&mut self) -> Vec<Change> {
        match self {
            Self::Plugin(instance) => instance.take_state_changes(),
            Self::Native { .. } => Vec::new(),
        }
    }

    /// Adds what a batch led to to the commit, without the outputs of records that are not kept.
    pub(super) fn route(
        &mut self,
        processed: &Processed,
        batch: &Columns,
        is_kept: impl Fn(usize) -> bool,
        now_ms: u64,
        outputs: &mut Outputs,
        commit: &mut Commit,
    ) -> Result<(), OutputError> {
        match (self, processed) {
            (_, Processed::Plugin(output)) => {
                outputs.add_output(output, batch, is_kept, now_ms, commit)
            }
            (Self::Native { function, buffer }, Processed::Native) => {
                for index in 0..batch.len() {
                    buffer.clear();
                    if function(batch.value(index).unwrap_or_default(), buffer) {
                        let record = OutputRecord {
                            timestamp_ms: batch.timestamp_ms(index),
                            key: batch.key(index),
                            value: Some(buffer),
                            headers: HeadersRef::EMPTY,
                        };
                        outputs.add_record(&record, commit)?;
                    }
                }
                Ok(())
            }
            (Self::Plugin(_), Processed::Native) => Ok(()),
        }
    }
}
