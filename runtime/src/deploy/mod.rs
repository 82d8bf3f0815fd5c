//! What a server remembers, and what is deployed to it: uploaded plugins, applied manifests, deploys.
//!
//! [`Deployments`] stands above [`Pipelines`]: it keeps components as files (`components.rs`) and everything
//! else as small records (`records.rs`), starts what was applied when a server starts
//! ([`Deployments::restore`]), and gives running pipelines other versions of their plugins (`rollout.rs`). A command
//! that finds no server does all that is not about running itself with the same code
//! ([`Deployments::open_offline`]): it takes effect when a server starts.
//!
//! # What holds
//!
//! - A component is on the disk before a record names it; a record names the current version in the same commit
//!   that says that its deploy has succeeded. Whenever the process is killed, the next start runs either the
//!   old version or the new one, on all tasks, and the deploy's record says which.
//! - What was applied runs again after a restart; one manifest that cannot keeps no other from it.
//! - Every change runs to its end, also if whoever asked for it goes away.

mod canary;
mod checkpoints;
mod components;
mod error;
mod in_use;
mod manifests;
mod parked;
mod plugins;
mod records;
mod rollout;
mod shadow;
mod shared_plugin;
mod signatures;
mod state;
mod under_way;
mod unfinished;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, block_in_place};

pub use self::canary::{CanaryReport, Sample};
use self::checkpoints::Checkpoints;
pub use self::checkpoints::Maintenance;
use self::components::Components;
pub use self::error::Error;
pub use self::in_use::{TargetUser, check_unused};
pub use self::manifests::{ManifestView, NotRestored};
pub use self::plugins::{PluginView, Uploaded, VersionView};
pub use self::records::{AppliedManifest, Deploy, Mode, Outcome, PluginVersion, Report};
pub use self::shadow::{Difference, ShadowReport};
pub use self::shared_plugin::PluginUsers;
pub use self::signatures::SignatureRules;
pub use self::state::{Missing, Unsent};
pub use self::unfinished::{check_copy_whole, check_whole};
use crate::group::Groups;
use crate::log::Log;
use crate::model::{PipelineName, PluginName};
use crate::pipeline::{Failure, Pipelines};
use crate::plugin::{Digest, Plugin, PluginEngine};
use crate::queue::Queues;
use crate::storage::Store;

/// Compiled plugins that are kept in memory, besides those that are current.
const MAX_LOADED: usize = 32;

/// Components that are compiled at a time for those who upload or look at them.
const MAX_COMPILES: usize = 2;

/// What a process is about that opens a data directory and runs no pipelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline {
    /// It only looks. What a killed process has left is neither cleared away nor gone on with.
    Looking,
    /// It changes what was deployed.
    Changing,
}

/// What a server runs. Clones share it.
#[derive(Clone)]
pub struct Deployments {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    log: Log,
    queues: Queues,
    engine: PluginEngine,
    pipelines: Pipelines,
    components: Components,
    checkpoints: Checkpoints,
    signatures: SignatureRules,
    /// Whether nothing is changed.
    only_looks: bool,
    /// The right to compile for somebody who asks: that takes much memory, and all processors by itself.
    compiles: Arc<Semaphore>,
    /// Compiled plugins that are in use, by digest.
    loaded: Mutex<HashMap<Digest, Plugin>>,
    /// One change of the records at a time.
    changes: Arc<tokio::sync::Mutex<()>>,
    /// Set once everything is being stopped: nothing is changed any more.
    closed: Mutex<Option<OwnedMutexGuard<()>>>,
    /// Whether that has begun.
    is_stopping: AtomicBool,
    next_deploy: AtomicU64,
    /// The deploys that are under way.
    under_way: Mutex<HashMap<PluginName, UnderWay>>,
    /// Changes whenever one ends.
    ended: watch::Sender<u64>,
}

/// A deploy that takes its time.
struct UnderWay {
    id: u64,
    /// Says that it is to end early.
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Deployments {
    /// Reads what was deployed to a data directory; nothing runs before [`restore`](Self::restore). Deploys that
    /// were under way when the process ended count as interrupted. Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// Whatever is wrong with the data directory.
    pub async fn open(
        log: &Log,
        queues: &Queues,
        groups: &Groups,
        engine: &PluginEngine,
        signatures: SignatureRules,
    ) -> Result<Self, Error> {
        let pipelines = Pipelines::new(log, queues, groups, engine.max_instances());
        Self::open_with(log, queues, engine, signatures, pipelines, false).await
    }

    /// As [`open`](Self::open), for a process that runs no pipelines: what is changed takes effect when a server
    /// starts on the data directory. Deploys that were under way when the process ended are left as they are by who is
    /// [`Offline::Looking`], and must not change anything then. A canary and a shadow wait for a server
    /// ([`begin_waiting`](Self::begin_waiting)).
    ///
    /// # Errors
    /// Whatever is wrong with the data directory.
    pub async fn open_offline(
        log: &Log,
        queues: &Queues,
        groups: &Groups,
        engine: &PluginEngine,
        signatures: SignatureRules,
        about: Offline,
    ) -> Result<Self, Error> {
        let pipelines = Pipelines::offline(log, queues, groups);
        let only_looks = about == Offline::Looking;
        Self::open_with(log, queues, engine, signatures, pipelines, only_looks).await
    }

    async fn open_with(
        log: &Log,
        queues: &Queues,
        engine: &PluginEngine,
        signatures: SignatureRules,
        pipelines: Pipelines,
        only_looks: bool,
    ) -> Result<Self, Error> {
        let store = log.store().clone();
        let components = block_in_place(|| Components::open(store.path()))?;
        if !only_looks {
            let plugins = records::plugins(&store)?;
            let versions = plugins.iter().flat_map(|(_, plugin)| &plugin.versions);
            let named: HashSet<Digest> = versions.map(|version| version.digest.clone()).collect();
            block_in_place(|| components.delete_others(&named))?;
        }
        let next_deploy = records::deploys(&store)?
            .last()
            .map_or(1, |deploy| deploy.id + 1);
        let opened = Self {
            shared: Arc::new(Shared {
                pipelines,
                checkpoints: Checkpoints::new(store.path()),
                signatures,
                only_looks,
                store,
                log: log.clone(),
                queues: queues.clone(),
                engine: engine.clone(),
                components,
                compiles: Arc::new(Semaphore::new(MAX_COMPILES)),
                loaded: Mutex::default(),
                changes: Arc::default(),
                closed: Mutex::default(),
                is_stopping: AtomicBool::new(false),
                next_deploy: AtomicU64::new(next_deploy),
                under_way: Mutex::default(),
                ended: watch::Sender::new(0),
            }),
        };
        if !only_looks {
            opened.end_interrupted().await?;
        }
        Ok(opened)
    }

    /// The pipelines that run: how they are. Change them through [`Deployments`], which remembers it.
    pub fn pipelines(&self) -> &Pipelines {
        &self.shared.pipelines
    }

    /// Ends what is under way, which takes canaries back, and all tasks at their next batch boundary, after their
    /// checkpoints. Returns what has failed.
    pub async fn stop(&self) -> Vec<Failure> {
        self.shared.is_stopping.store(true, Ordering::Release);
        loop {
            self.stop_all().await;
            let is_closed = self.shared.closed.lock().is_some();
            if is_closed {
                break;
            }
            // A change that comes later would start what is being stopped: it waits until the process ends.
            let changes = Arc::clone(&self.shared.changes).lock_owned().await;
            // The change that was waited for may have begun something.
            if self.shared.under_way.lock().is_empty() {
                *self.shared.closed.lock() = Some(changes);
            }
        }
        self.shared.pipelines.stop().await
    }

    /// Keeps everything from being applied, deployed, paused or resumed until what is returned is dropped.
    pub async fn hold(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.shared.changes).lock_owned().await
    }

    /// Runs a change to its end, also if whoever asked for it goes away.
    async fn to_its_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        match tokio::spawn(change).await {
            Ok(result) => result,
            Err(error) => Err(Error::Panicked(error.to_string())),
        }
    }

    /// The compiled plugin of a digest, which is kept for the next time.
    fn load(&self, name: &PluginName, digest: &Digest) -> Result<Plugin, Error> {
        if let Some(plugin) = self.shared.loaded.lock().get(digest) {
            return Ok(plugin.clone());
        }
        let plugin = self.compile(name, digest)?;
        self.keep_loaded(&plugin)?;
        Ok(plugin)
    }

    /// Keeps a compiled plugin for the next time that it is asked for.
    fn keep_loaded(&self, plugin: &Plugin) -> Result<(), Error> {
        if self.shared.loaded.lock().len() >= MAX_LOADED {
            self.unload_others(&[])?;
        }
        let mut loaded = self.shared.loaded.lock();
        loaded.insert(plugin.digest().clone(), plugin.clone());
        Ok(())
    }

    fn compile(&self, name: &PluginName, digest: &Digest) -> Result<Plugin, Error> {
        block_in_place(|| {
            let wasm = self.shared.components.read(digest)?;
            Ok(self.shared.engine.load(wasm, name.as_str())?)
        })
    }

    /// Drops compiled plugins that are neither current nor among `kept`.
    fn unload_others(&self, kept: &[&Digest]) -> Result<(), Error> {
        let plugins = records::plugins(&self.shared.store)?;
        let current: HashSet<Digest> = plugins
            .into_iter()
            .map(|(_, plugin)| plugin.current)
            .collect();
        let mut loaded = self.shared.loaded.lock();
        loaded.retain(|digest, _| current.contains(digest) || kept.contains(&digest));
        Ok(())
    }

    /// The pipelines of running manifests that use a plugin.
    fn users(&self, name: &PluginName) -> Vec<PipelineName> {
        let pipelines = self.shared.pipelines.plugin_users(name);
        pipelines.into_iter().map(|spec| spec.name).collect()
    }

    /// Waits for its turn to compile.
    async fn may_compile(&self) -> Option<OwnedSemaphorePermit> {
        let compiles = Arc::clone(&self.shared.compiles);
        // It is never closed.
        compiles.acquire_owned().await.ok()
    }

    fn now_ms(&self) -> u64 {
        self.shared.store.clock().now_ms()
    }

    fn next_deploy_id(&self) -> u64 {
        self.shared.next_deploy.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
pub(crate) mod tests;
