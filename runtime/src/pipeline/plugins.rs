//! The plugins of a manifest: loaded, and held against the pipelines that use them.
//!
//! A plugin that cannot be loaded, or does not fit a pipeline, keeps that pipeline from running and
//! no other: [`Refusal`].

use std::path::Path;

use bytes::Bytes;
use hashbrown::HashMap;

use super::opening::grants_of;
use crate::manifest::{PipelineSpec, PluginSpec, ResolvedManifest, RetryOrder};
use crate::model::PluginName;
use crate::plugin::{self, Plugin, PluginEngine};

/// Why a pipeline's plugin cannot run in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refusal {
    /// Its file cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's message.
        reason: String,
    },
    /// It cannot be loaded.
    #[error(transparent)]
    Plugin(#[from] plugin::Error),
    /// It does not export what the pipeline calls, or imports what it does not grant.
    #[error("{}", sentence(.0))]
    Misfit(Vec<Misfit>),
    /// The manifest does not declare it.
    #[error("the manifest does not declare it")]
    Undeclared,
}

/// One thing that keeps a plugin from fitting a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// What is missing or not granted.
    pub what: String,
    /// What to do about it, if `what` does not say it.
    pub help: Option<String>,
}

/// Loaded plugins.
pub struct Plugins {
    engine: PluginEngine,
    by_name: HashMap<PluginName, Result<Plugin, Refusal>>,
}

impl Plugins {
    /// Loads all plugins of a manifest. Compiling one that is not cached takes up to some seconds.
    pub fn load(engine: &PluginEngine, manifest: &ResolvedManifest) -> Self {
        let loaded = |spec: &PluginSpec| (spec.name.clone(), load(engine, spec));
        Self {
            engine: engine.clone(),
            by_name: manifest.plugins.iter().map(loaded).collect(),
        }
    }

    /// Plugins that come from elsewhere than files, by their names in the manifest; or why one does not.
    pub fn loaded(
        engine: &PluginEngine,
        plugins: impl IntoIterator<Item = (PluginName, Result<Plugin, Refusal>)>,
    ) -> Self {
        Self {
            engine: engine.clone(),
            by_name: plugins.into_iter().collect(),
        }
    }

    /// A plugin by its name in the manifest, whether or not it fits a pipeline.
    ///
    /// # Errors
    /// Why it could not be loaded.
    pub fn plugin(&self, name: &PluginName) -> Result<&Plugin, Refusal> {
        match self.by_name.get(name) {
            Some(Ok(plugin)) => Ok(plugin),
            Some(Err(refusal)) => Err(refusal.clone()),
            None => Err(Refusal::Undeclared),
        }
    }

    /// The plugin of a pipeline, which it fits.
    ///
    /// # Errors
    /// Why it cannot run in the pipeline.
    pub fn plugin_for(&self, spec: &PipelineSpec) -> Result<&Plugin, Refusal> {
        let plugin = self.plugin(&spec.plugin)?;
        check_fit(spec, plugin)?;
        Ok(plugin)
    }

    /// Whether any pipeline of the manifest can run, or it has none.
    pub fn fit_any(&self, manifest: &ResolvedManifest) -> bool {
        let pipelines = &manifest.pipelines;
        pipelines.is_empty() || pipelines.iter().any(|spec| self.plugin_for(spec).is_ok())
    }

    /// Keeps compiled code in `dir` from now on, and that of these plugins at once.
    pub fn use_cache(&self, dir: &Path) {
        let loaded = self
            .by_name
            .values()
            .filter_map(|plugin| plugin.as_ref().ok());
        self.engine.use_cache(dir, loaded);
    }

    /// Most instances that live at the same time.
    pub(super) fn max_instances(&self) -> u32 {
        self.engine.max_instances()
    }
}

/// Checks that a plugin can run in a pipeline.
///
/// # Errors
/// [`Refusal::Misfit`] with all that is in the way.
pub fn check_fit(spec: &PipelineSpec, plugin: &Plugin) -> Result<(), Refusal> {
    let misfits = misfits(spec, plugin);
    match misfits.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Misfit(misfits)),
    }
}

fn load(engine: &PluginEngine, spec: &PluginSpec) -> Result<Plugin, Refusal> {
    let path = spec.path.display().to_string();
    let wasm = std::fs::read(&spec.path).map_err(|error| Refusal::Unreadable {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    Ok(engine.load(Bytes::from(wasm), &path)?)
}

/// What a plugin lacks for a pipeline.
fn misfits(spec: &PipelineSpec, plugin: &Plugin) -> Vec<Misfit> {
    let misfit = |what: &str, help: &str| Misfit {
        what: what.to_owned(),
        help: Some(help.to_owned()),
    };
    let mut misfits = Vec::new();
    if let Err(denied) = plugin.check_grants(&grants_of(spec)) {
        misfits.push(Misfit {
            what: denied.to_string(),
            help: None,
        });
    }
    if spec.is_producer() && !plugin.is_producer() {
        misfits.push(misfit(
            "the pipeline has no `from`, and the plugin is no producer: it does not export millstream:plugin/producer",
            "add `from = \"topic:…\"`, or use a producer plugin",
        ));
    }
    if !spec.is_producer() && !plugin.is_consumer() {
        misfits.push(misfit(
            "the pipeline has a `from`, and the plugin is no consumer: it does not export millstream:plugin/consumer",
            "remove `from` to run a producer, or use a consumer plugin",
        ));
    }
    if spec.concurrency > 1 && plugin.keeps_state() && spec.retry.order == RetryOrder::None {
        misfits.push(misfit(
            "the plugin keeps state or timers, and with `concurrency` and `retry.order = \"none\"` nothing says which of its instances has those of a record",
            "leave `retry.order` at \"key\", or use a plugin that imports neither millstream:plugin/state nor millstream:plugin/timers (in Rust: `stateless_consumer!`)",
        ));
    }
    misfits
}

fn sentence(misfits: &[Misfit]) -> String {
    let texts = misfits.iter().map(|misfit| match &misfit.help {
        Some(help) => format!("{}; {help}", misfit.what),
        None => misfit.what.clone(),
    });
    texts.collect::<Vec<_>>().join("; ")
}
