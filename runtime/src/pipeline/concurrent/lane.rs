//! A lane: one instance of a plugin, and the batches that it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::manifest::Delivery;
use crate::pipeline::TaskError;
use crate::pipeline::batch_run::Batch;
use crate::pipeline::batch_runner::BatchRunner;
use crate::pipeline::control::TaskControl;

/// One lane.
pub(super) struct Lane {
    batches: mpsc::Sender<Batch>,
    running: JoinHandle<Result<(), TaskError>>,
    control: Arc<TaskControl>,
    is_free: bool,
    /// Whether none of its checkpoints is under way.
    is_settled: Arc<AtomicBool>,
}

/// A batch that a lane has run.
pub(super) struct Done {
    pub(super) lane: u32,
    pub(super) record_count: usize,
    pub(super) took: Duration,
    pub(super) result: Result<(), TaskError>,
}

impl Lane {
    pub(super) fn start(
        number: u32,
        runner: BatchRunner,
        done: mpsc::UnboundedSender<Done>,
    ) -> Self {
        let (batches, to_run) = mpsc::channel(1);
        let control = Arc::clone(&runner.control);
        let is_settled = Arc::new(AtomicBool::new(true));
        let settled = Arc::clone(&is_settled);
        Self {
            batches,
            running: tokio::spawn(run(number, runner, to_run, done, settled)),
            control,
            is_free: true,
            is_settled,
        }
    }
}

async fn run(
    lane: u32,
    mut runner: BatchRunner,
    mut batches: mpsc::Receiver<Batch>,
    done: mpsc::UnboundedSender<Done>,
    is_settled: Arc<AtomicBool>,
) -> Result<(), TaskError> {
    let control = Arc::clone(&runner.control);
    let mut stop = control.subscribe();
    loop {
        stop.mark_unchanged();
        runner.swap_if_asked().await;
        let batch = tokio::select! {
            biased;
            batch = batches.recv() => batch,
            // Nothing to do: what was done last should count as done.
            settled = runner.settle_checkpoint() => {
                settled?;
                is_settled.store(true, Ordering::Release);
                tokio::select! {
                    biased;
                    batch = batches.recv() => batch,
                    // Another version, or the end: then there will be no more batches.
                    _ = stop.changed() => continue,
                }
            }
        };
        let Some(batch) = batch else {
            return runner.settle_checkpoint().await;
        };
        is_settled.store(false, Ordering::Release);
        let started = Instant::now();
        let mut result = match runner.pipeline.spec.delivery {
            Delivery::AtMostOnce => runner.run_batch_once(&batch, &stop).await,
            Delivery::ExactlyOnce | Delivery::AtLeastOnce => runner.run_batch(&batch, &stop).await,
        };
        let took = started.elapsed();
        if runner.has_parked && result.is_ok() {
            // Parked records are read from the store when they are due.
            result = runner.settle_checkpoint().await;
        }
        let is_over = result.is_err();
        let report = Done {
            lane,
            record_count: batch.columns.len(),
            took,
            result,
        };
        if done.send(report).is_err() || is_over {
            return runner.settle_checkpoint().await;
        }
    }
}

/// The lanes of a task.
pub(super) struct Lanes(Vec<Lane>);

impl Lanes {
    pub(super) fn new(lanes: Vec<Lane>) -> Self {
        Self(lanes)
    }

    /// The lanes that have nothing to do.
    pub(super) fn all_free(&self) -> Vec<u32> {
        let numbered = (0..).zip(&self.0);
        let free = numbered.filter(|(_, lane)| lane.is_free);
        free.map(|(number, _)| number).collect()
    }

    pub(super) fn any_free(&self) -> bool {
        self.0.iter().any(|lane| lane.is_free)
    }

    /// Whether none has anything to do.
    pub(super) fn are_free(&self) -> bool {
        self.0.iter().all(|lane| lane.is_free)
    }

    /// Whether all that they have done is in the store: a message behind one that a checkpoint under way
    /// acknowledges can be leased after it only.
    pub(super) fn are_settled(&self) -> bool {
        let mut lanes = self.0.iter();
        lanes.all(|lane| lane.is_settled.load(Ordering::Acquire))
    }

    pub(super) fn free(&mut self, lane: u32) {
        if let Some(lane) = self.0.get_mut(lane as usize) {
            lane.is_free = true;
        }
    }

    /// Gives a free lane a batch.
    pub(super) fn send(&mut self, lane: u32, batch: Batch) -> Result<(), TaskError> {
        let Some(lane) = self.0.get_mut(lane as usize) else {
            return Ok(());
        };
        lane.is_free = false;
        let sent = lane.batches.try_send(batch);
        sent.map_err(|_| TaskError::Panicked("a lane has ended".to_owned()))
    }

    /// How each lane is reached.
    pub(super) fn controls(&self) -> Vec<Arc<TaskControl>> {
        self.0
            .iter()
            .map(|lane| Arc::clone(&lane.control))
            .collect()
    }

    /// Ends all lanes at their next batch boundary, after their checkpoints.
    pub(super) async fn finish(
        &mut self,
        done: &mut mpsc::UnboundedReceiver<Done>,
    ) -> Result<(), TaskError> {
        let mut result = Ok(());
        for lane in &self.0 {
            lane.control.stop();
        }
        for mut lane in self.0.drain(..) {
            // Without a sender it has nothing to wait for.
            let (nobody, _) = mpsc::channel(1);
            drop(std::mem::replace(&mut lane.batches, nobody));
            let ended = match (&mut lane.running).await {
                Ok(ended) => ended,
                Err(error) if error.is_panic() => Err(TaskError::panicked(error.into_panic())),
                Err(_) => Ok(()),
            };
            result = result.and(ended);
        }
        while let Ok(report) = done.try_recv() {
            result = result.and(report.result);
        }
        result
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.running.abort();
    }
}
