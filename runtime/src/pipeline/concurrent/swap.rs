//! Another version of the plugin for a task with several instances: lane by lane, each at its own batch
//! boundary, while the others run.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::pipeline::control::{Swap, TaskControl};
use crate::pipeline::runtime::PipelineRuntime;
use crate::plugin::Fault;

/// A swap that is under way.
pub(super) struct LaneSwap {
    swap: Swap,
    lanes: JoinHandle<Result<(), Fault>>,
}

impl LaneSwap {
    /// Asks all lanes to go on with the other version.
    pub(super) fn start(
        swap: Swap,
        lanes: Vec<Arc<TaskControl>>,
        from: Arc<PipelineRuntime>,
    ) -> Self {
        let to = Arc::clone(&swap.pipeline);
        Self {
            swap,
            lanes: tokio::spawn(swap_lanes(lanes, from, to)),
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.lanes.is_finished()
    }

    /// Waits until all lanes have swapped, or none has. Whoever drops this future can ask again.
    pub(super) async fn finished(&mut self) -> Result<(), Fault> {
        match (&mut self.lanes).await {
            Ok(result) => result,
            Err(error) => Err(ended(&error.to_string())),
        }
    }

    /// Says how it went. Returns the version with which the task goes on, if it is the other one.
    pub(super) fn answer(self, result: Result<(), Fault>) -> Option<Arc<PipelineRuntime>> {
        let swapped = result.is_ok().then(|| Arc::clone(&self.swap.pipeline));
        self.swap.answer(result);
        swapped
    }
}

async fn swap_lanes(
    lanes: Vec<Arc<TaskControl>>,
    from: Arc<PipelineRuntime>,
    to: Arc<PipelineRuntime>,
) -> Result<(), Fault> {
    let asked: Vec<_> = lanes
        .into_iter()
        .map(|lane| (lane.ask_swap(Arc::clone(&to)), lane))
        .collect();
    let mut result = Ok(());
    let mut swapped = Vec::new();
    for (answer, lane) in asked {
        match answer.await {
            Ok(Ok(())) => swapped.push(lane),
            Ok(Err(fault)) => result = Err(fault),
            Err(_) => result = Err(ended("a lane ended before its turn")),
        }
    }
    if result.is_err() {
        for lane in swapped {
            if let Ok(Err(fault)) = lane.ask_swap(Arc::clone(&from)).await {
                tracing::error!(pipeline = %from.spec.name, %fault, "an instance keeps the version that was to be taken back: the one before it does not open any more");
            }
        }
    }
    result
}

fn ended(reason: &str) -> Fault {
    Fault::Instantiate {
        reason: format!("the task ended: {reason}"),
    }
}
