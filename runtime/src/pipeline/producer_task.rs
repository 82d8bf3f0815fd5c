//! The task of a pipeline without input: ask the plugin for records, make a checkpoint.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::block_in_place;

use super::TaskError;
use super::call_counts::{Call, CallMeter, InstanceUse};
use super::call_trace::CallTrace;
use super::checkpoint::Checkpoints;
use super::control::TaskControl;
use super::outputs::{OutputError, Outputs};
use super::processor::Processor;
use super::runtime::PipelineRuntime;
use super::status::{Counts, TaskStatus};
use super::task_state::TaskState;
use crate::plugin::{Columns, Fault, Output};
use crate::storage::Commit;
use crate::trace;

/// The longest pause between two calls of a producer that has nothing.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// The shortest.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// What a call led to.
enum Produced {
    /// So many records.
    Records(u64),
    /// An output takes nothing now.
    Blocked(String),
}

/// A producer's only task.
pub(super) struct ProducerTask {
    pipeline: Arc<PipelineRuntime>,
    state: Arc<Mutex<TaskState>>,
    processor: Processor,
    meter: CallMeter,
    memory: InstanceUse,
    outputs: Outputs,
    checkpoints: Checkpoints,
    control: Arc<TaskControl>,
    status: Arc<TaskStatus>,
}

impl ProducerTask {
    /// Opens the plugin.
    pub(super) fn open(
        pipeline: Arc<PipelineRuntime>,
        control: Arc<TaskControl>,
        status: Arc<TaskStatus>,
    ) -> Result<Self, TaskError> {
        let state = pipeline.state(0)?;
        let processor =
            Processor::open(&pipeline, 0, &state, &pipeline.metrics).map_err(TaskError::Open)?;
        let mut memory = InstanceUse::new(&status);
        memory.note(&processor);
        Ok(Self {
            meter: CallMeter::new(),
            memory,
            outputs: pipeline.outputs(),
            checkpoints: Checkpoints::new(pipeline.log.store().clone()),
            pipeline,
            state,
            processor,
            control,
            status,
        })
    }

    /// Runs until it is told to stop or fails. What is under way is finished before it returns.
    pub(super) async fn run(mut self) -> Result<(), TaskError> {
        let mut stop = self.control.subscribe();
        let ended = self.run_until_stopped(&mut stop).await;
        // A checkpoint that failed is the cause of whatever came after it.
        self.checkpoints.settle(&self.status).await?;
        ended
    }

    async fn run_until_stopped(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let shortest = self
            .pipeline
            .spec
            .batch
            .max_wait
            .clamp(MIN_PAUSE, MAX_PAUSE);
        let mut pause = shortest;
        while !*stop.borrow_and_update() {
            self.swap_if_asked().await?;
            let mut commit = Commit::new();
            let records = {
                let _running = self.pipeline.calls.start().await;
                block_in_place(|| self.call(&mut commit))?
            };
            let records = match records {
                Produced::Records(count) => count,
                Produced::Blocked(reason) => {
                    // The instance is as it was before the call: it makes the same records again.
                    self.checkpoints.settle(&self.status).await?;
                    let has_made = tokio::select! {
                        made = self.outputs.make_room() => made?,
                        _ = stop.changed() => true,
                    };
                    if has_made {
                        continue;
                    }
                    if pause == shortest {
                        tracing::info!(pipeline = %self.pipeline.spec.name, reason, "waiting for an output");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        _ = stop.changed() => {}
                    }
                    pause = (pause * 2).min(MAX_PAUSE);
                    continue;
                }
            };
            let counts = Counts {
                records_out: records,
                ..Counts::default()
            };
            self.checkpoints
                .submit(commit, counts, &self.status)
                .await?;
            if records > 0 {
                pause = shortest;
                continue;
            }
            self.checkpoints.settle(&self.status).await?;
            self.status.set_idle(true);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => {}
            }
            self.status.set_idle(false);
            pause = (pause * 2).min(MAX_PAUSE);
        }
        Ok(())
    }

    /// Goes on with another version of the plugin, if that is asked for.
    async fn swap_if_asked(&mut self) -> Result<(), TaskError> {
        if !self.control.has_swap() {
            return Ok(());
        }
        self.checkpoints.settle(&self.status).await?;
        let _running = self.pipeline.calls.start().await;
        let Some(swap) = self.control.take_swap() else {
            return Ok(());
        };
        let pipeline = Arc::clone(&swap.pipeline);
        let opened =
            block_in_place(|| Processor::open(&pipeline, 0, &self.state, &pipeline.metrics));
        match opened {
            Ok(processor) => {
                self.processor = processor;
                self.control.set_trial(pipeline.trial.clone());
                self.pipeline = pipeline;
                swap.answer(Ok(()));
            }
            Err(fault) => swap.answer(Err(fault)),
        }
        Ok(())
    }

    fn call(&mut self, commit: &mut Commit) -> Result<Produced, TaskError> {
        let max_records = self.pipeline.spec.batch.max_records;
        let tracer = trace::active();
        let traced = tracer.and_then(CallTrace::begin_producing);
        let begun = self.meter.begin();
        let produced = self.processor.produce(max_records);
        let taken = self.meter.end(&begun);
        self.status.note_call(&Call {
            records: produced.as_ref().map_or(0, Output::len) as u64,
            output_bytes: produced.as_ref().map_or(0, Output::size_bytes) as u64,
            ..taken
        });
        if let (Some(tracer), Some(traced)) = (tracer, &traced)
            && produced.as_ref().map_or(true, |output| !output.is_empty())
        {
            traced.end_producing(tracer, &self.pipeline, produced.as_ref());
        }
        self.outputs.set_trace(traced);
        self.memory.note(&self.processor);
        let output = produced
            .inspect_err(|fault| self.status.note_fault(fault))
            .map_err(TaskError::Producer)?;
        let now_ms = self.pipeline.log.store().clock().now_ms();
        let added = self
            .outputs
            .add_output(&output, &Columns::new(), |_| true, now_ms, commit)
            .and_then(|()| self.outputs.finish(commit));
        match added {
            Ok(_) => {}
            Err(OutputError::Blocked { reason }) => {
                self.outputs.discard();
                *commit = Commit::new();
                self.processor =
                    Processor::open(&self.pipeline, 0, &self.state, &self.pipeline.metrics)
                        .map_err(TaskError::Open)?;
                self.memory.note(&self.processor);
                return Ok(Produced::Blocked(reason));
            }
            Err(OutputError::Record { reason, .. }) => {
                let fault = Fault::Output { reason };
                self.status.note_fault(&fault);
                return Err(TaskError::Producer(fault));
            }
        }
        let changes = self.processor.take_state_changes();
        self.state.lock().apply(changes, commit);
        Ok(Produced::Records(output.len() as u64))
    }
}
