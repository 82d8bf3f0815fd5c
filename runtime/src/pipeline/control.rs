//! How the supervisor reaches a running task: to end it, or to give it another version of its plugin.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::runtime::PipelineRuntime;
use super::shadow::Shadow;
use super::trial::Trial;
use crate::plugin::Fault;

/// What a task is asked to do at its next batch boundary.
#[derive(Debug)]
pub(super) struct TaskControl {
    /// Whether it is to end. A wish of another kind shows as a change of the same value, so that whatever
    /// the task waits for, it looks up.
    stop: watch::Sender<bool>,
    wish: Mutex<Wish>,
}

#[derive(Debug, Default)]
struct Wish {
    swap: Option<Swap>,
    /// The shadow that is to run beside the task, or none any more.
    shadow: Option<Option<Arc<Shadow>>>,
    /// What the task tries out now.
    trial: Option<Arc<Trial>>,
    /// The task has ended: nobody will do anything about a wish.
    is_over: bool,
}

/// Another version of the pipeline, with which a task is to go on.
#[derive(Debug)]
pub(super) struct Swap {
    /// The pipeline with the other plugin.
    pub(super) pipeline: Arc<PipelineRuntime>,
    reply: oneshot::Sender<Result<(), Fault>>,
}

impl Swap {
    /// Says how it went; after a fault the task goes on as before.
    pub(super) fn answer(self, result: Result<(), Fault>) {
        // Whoever asked may have gone.
        let _ = self.reply.send(result);
    }
}

impl TaskControl {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            stop: watch::Sender::new(false),
            wish: Mutex::default(),
        })
    }

    /// Whether the task is to end; it changes with every wish.
    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Ends the task at its next batch boundary.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Asks the task to go on with another version. The answer never comes if the task ends before.
    pub(super) fn ask_swap(
        &self,
        pipeline: Arc<PipelineRuntime>,
    ) -> oneshot::Receiver<Result<(), Fault>> {
        let (reply, answer) = oneshot::channel();
        {
            let mut wish = self.wish.lock();
            if !wish.is_over {
                wish.swap = Some(Swap { pipeline, reply });
            }
        }
        self.stop.send_modify(|_| {});
        answer
    }

    /// Asks the task to run a shadow beside it from now on, or none any more.
    pub(super) fn ask_shadow(&self, shadow: Option<Arc<Shadow>>) {
        self.wish.lock().shadow = Some(shadow);
        self.stop.send_modify(|_| {});
    }

    /// The shadow that is wished for; `None` if nothing is.
    pub(super) fn take_shadow(&self) -> Option<Option<Arc<Shadow>>> {
        self.wish.lock().shadow.take()
    }

    /// Takes a wish back that the task has not got to. Returns whether there was one.
    pub(super) fn withdraw_swap(&self) -> bool {
        self.take_swap().is_some()
    }

    /// The version that the task is to go on with, if there is such a wish.
    pub(super) fn take_swap(&self) -> Option<Swap> {
        self.wish.lock().swap.take()
    }

    /// Whether there is such a wish.
    pub(super) fn has_swap(&self) -> bool {
        self.wish.lock().swap.is_some()
    }

    /// Notes what the task tries out from now on.
    pub(super) fn set_trial(&self, trial: Option<Arc<Trial>>) {
        self.wish.lock().trial = trial;
    }

    /// What the task tries out, or did when it ended.
    pub(super) fn trial(&self) -> Option<Arc<Trial>> {
        self.wish.lock().trial.clone()
    }

    /// The task has ended. Whoever waits for an answer learns it.
    pub(super) fn close(&self) {
        let mut wish = self.wish.lock();
        wish.is_over = true;
        wish.swap = None;
        wish.shadow = None;
    }
}
