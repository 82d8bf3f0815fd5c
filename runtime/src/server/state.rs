//! What all handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};

use super::access::{Standing, Tokens};
use super::backups::Backups;
use super::dead_letters::Redrives;
use super::intake::Intake;
use super::outlet::Outlet;
use super::problem::{Code, Problem};
use super::requests::RequestMetrics;
use super::waiting::Waiting;
use crate::deploy::Deployments;
use crate::group::Groups;
use crate::log::Log;
use crate::model::PipelineName;
use crate::pipeline::{PipelineState, Pipelines};
use crate::queue::Queues;
use crate::storage::DEFAULT_MIN_FREE_DISK_BYTES;

/// What the API works on: an open data directory.
#[derive(Clone)]
pub struct Data {
    /// Its topics.
    pub log: Log,
    /// Its queues.
    pub queues: Queues,
    /// Its consumer groups.
    pub groups: Groups,
}

#[cfg(test)]
impl Data {
    /// What is in a store.
    pub(super) fn of(store: crate::storage::Store) -> Self {
        Self {
            groups: Groups::new(store.clone()),
            queues: Queues::open(store.clone()).unwrap(),
            log: Log::open(store).unwrap(),
        }
    }
}

/// What a server takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of the bodies of all requests under way.
    pub inflight_bytes: usize,
    /// Bytes of the answers that clients have not read yet.
    pub unread_bytes: usize,
    /// Bytes of an uploaded component.
    pub plugin_bytes: usize,
    /// Connections at a time; more wait to be accepted.
    pub connections: usize,
    /// Consumers that wait for records or messages at a time.
    pub waiting_consumers: usize,
    /// Free bytes on the disk of the data directory below which the server is not ready.
    pub free_disk_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            inflight_bytes: 256 << 20,
            unread_bytes: 256 << 20,
            plugin_bytes: 128 << 20,
            connections: 10_000,
            waiting_consumers: 5_000,
            free_disk_bytes: DEFAULT_MIN_FREE_DISK_BYTES,
        }
    }
}

/// Tells that the server goes down. Clones tell the same.
#[derive(Clone, Debug)]
pub(super) struct Stopping(Arc<watch::Sender<bool>>);

impl Stopping {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// From now on whoever waits answers with what it has.
    pub(super) fn begin(&self) {
        self.0.send_replace(true);
    }
}

/// What all handlers share.
#[derive(Clone)]
pub(super) struct State(Arc<Shared>);

/// Its fields.
pub(super) struct Shared {
    pub(super) data: Data,
    pub(super) tokens: Tokens,
    pub(super) limits: Limits,
    /// Requests that have nothing to answer yet.
    pub(super) waiting: Waiting,
    /// What was deployed, and runs; nothing of it runs within a command that works on its own data directory, and most
    /// commands do without.
    deployments: Option<Deployments>,
    pub(super) redrives: Redrives,
    pub(super) backups: Backups,
    pub(super) intake: Intake,
    /// What clients have not read yet.
    pub(super) unread: Outlet,
    stopping: Stopping,
    /// Whether what was applied has been started.
    is_started: AtomicBool,
    /// Requests under way.
    requests: watch::Sender<usize>,
    pub(super) request_metrics: RequestMetrics,
}

impl std::ops::Deref for State {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Pipelines that stand still.
pub(super) struct Suspended {
    pipelines: Option<Pipelines>,
    names: Vec<PipelineName>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Suspended {
    /// Whether none had to.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Whatever keeps one from starting.
    pub(super) async fn resume(mut self) -> Result<(), Problem> {
        let names = std::mem::take(&mut self.names);
        let mut result = Ok(());
        if let Some(pipelines) = &self.pipelines {
            for name in names {
                result = result.and(pipelines.resume(&name).await);
            }
        }
        self.held = None;
        Ok(result?)
    }
}

impl Drop for Suspended {
    /// Whatever went wrong in between, they go on.
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.names);
        let held = self.held.take();
        if let (Some(pipelines), false) = (self.pipelines.take(), names.is_empty()) {
            tokio::spawn(async move {
                let _held = held;
                for name in names {
                    if let Err(error) = pipelines.resume(&name).await {
                        tracing::error!(pipeline = %name, %error, "the pipeline could not be resumed");
                    }
                }
            });
        }
    }
}

/// A request that counts until it is answered.
pub(super) struct UnderWay(State);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests.send_modify(|count| *count -= 1);
    }
}

impl State {
    pub(super) fn new(
        data: Data,
        tokens: Tokens,
        deployments: Option<Deployments>,
        limits: Limits,
        stopping: Stopping,
    ) -> Self {
        Self(Arc::new(Shared {
            data,
            tokens,
            waiting: Waiting::new(limits.waiting_consumers),
            intake: Intake::new(limits.inflight_bytes),
            unread: Outlet::new(limits.unread_bytes),
            limits,
            redrives: Redrives::default(),
            backups: Backups::default(),
            is_started: AtomicBool::new(false),
            deployments,
            stopping,
            requests: watch::Sender::new(0),
            request_metrics: RequestMetrics::default(),
        }))
    }

    /// What was applied has been started.
    pub(super) fn started(&self) {
        self.is_started.store(true, Ordering::Release);
    }

    /// Whether what was applied has been started.
    pub(super) fn is_started(&self) -> bool {
        self.is_started.load(Ordering::Acquire)
    }

    /// Whether the server goes down.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.0.borrow()
    }

    /// Returns when the server goes down.
    pub(super) async fn stopping(&self) {
        let mut stopping = self.stopping.0.subscribe();
        // The sender lives as long as this.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    }

    /// Returns when whoever waits is to stop waiting: the server goes down.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`]: it would not be let in any more.
    pub(super) async fn let_go(&self, standing: &Standing) -> Result<(), Problem> {
        tokio::select! {
            () = self.stopping() => Ok(()),
            problem = standing.ended() => Err(problem),
        }
    }

    /// Counts a request until what is returned is dropped.
    pub(super) fn request_started(&self) -> UnderWay {
        self.requests.send_modify(|count| *count += 1);
        UnderWay(self.clone())
    }

    /// Returns when no request is under way any more, or `grace` is over.
    pub(super) async fn requests_done(&self, grace: Duration) {
        let mut requests = self.requests.subscribe();
        let done = requests.wait_for(|count| *count == 0);
        if tokio::time::timeout(grace, done).await.is_err() {
            tracing::warn!("requests were still under way when the server went down");
        }
    }

    /// Lets pipelines stand still, at a batch boundary, until what is returned is resumed. What has not run before does
    /// not run then.
    ///
    /// # Errors
    /// [`Code::Conflict`]: one takes part in a canary or a shadow, which standing still would end. Whatever keeps one from
    /// stopping.
    pub(super) async fn suspend(&self, pipelines: &[PipelineName]) -> Result<Suspended, Problem> {
        let mut suspended = Suspended {
            pipelines: self.pipelines().cloned(),
            names: Vec::new(),
            held: None,
        };
        let (Some(deployments), Some(running)) = (&self.deployments, self.pipelines()) else {
            return Ok(suspended);
        };
        // Nothing else may start or stop them meanwhile.
        suspended.held = Some(deployments.hold().await);
        deployments.check_not_tried(pipelines)?;
        for name in pipelines {
            match running.current_state(name) {
                Some(PipelineState::Running) => {
                    running.pause(name).await?;
                    suspended.names.push(name.clone());
                }
                // Tasks of one that has failed may still be at a batch.
                Some(_) => running.suspend(name).await,
                None => {}
            }
        }
        Ok(suspended)
    }

    /// Keeps everything from being applied, starting or stopping until what is returned is dropped.
    pub(super) async fn hold_pipelines(&self) -> Option<OwnedMutexGuard<()>> {
        match &self.deployments {
            Some(deployments) => Some(deployments.hold().await),
            None => None,
        }
    }

    /// The pipelines that were applied; none within a command that does without.
    pub(super) fn pipelines(&self) -> Option<&Pipelines> {
        self.deployments.as_ref().map(Deployments::pipelines)
    }

    /// What was deployed.
    ///
    /// # Errors
    /// [`Code::Internal`] within a command that does without: a bug.
    pub(super) fn deployments(&self) -> Result<&Deployments, Problem> {
        self.deployments.as_ref().ok_or_else(|| {
            Problem::new(
                Code::Internal,
                "the command has not opened what was deployed; this is a bug of millstream, please report it",
            )
        })
    }
}

/// Does work to its end, also if whoever asked for it goes away: between a commit and what it changes in memory nothing
/// may be dropped, nor what is held until the commit has been written.
pub(super) async fn to_its_end<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(Problem::new(
            Code::Internal,
            format!("the work ended early: {error}; this is a bug of millstream, please report it"),
        )),
    }
}
