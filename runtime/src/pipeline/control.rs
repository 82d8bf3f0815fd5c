//! How the supervisor reaches a running task: to end it, or to give it another version of its plugin.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::runtime::PipelineRuntime;
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

    /// The task has ended. Whoever waits for an answer learns it.
    pub(super) fn close(&self) {
        let mut wish = self.wish.lock();
        wish.is_over = true;
        wish.swap = None;
    }
}
