//! `bench plugin`: what a call into a plugin costs, against a native closure.
//!
//! Both sides start from filled [`Columns`](crate::plugin::Columns) and end with a complete output:
//! the native one calls a closure for every record and collects source indexes and new values; the
//! plugin's adds what the boundary takes: copying the columns into the guest, the guest's own work,
//! copying its output back and checking it.

mod component;
mod duel;
mod input;
mod native;
mod shipped;
mod state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;

use super::report::Report;
use super::{CommonArgs, warn_of_debug_build};
use crate::plugin::{EngineOptions, Plugin, PluginEngine};

/// Arguments of `bench plugin`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A component of your own; without it the shipped plugins are measured
    #[arg(value_name = "FILE.wasm")]
    file: Option<PathBuf>,
    /// Folder of the shipped plugins' components: passthrough.wasm, filter.wasm, map.wasm
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Component of the shipped plugin `passthrough`
    #[arg(long, value_name = "FILE")]
    passthrough: Option<PathBuf>,
    /// Component of the shipped plugin `filter`
    #[arg(long, value_name = "FILE")]
    filter: Option<PathBuf>,
    /// Component of the shipped plugin `map`
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Bytes of a value, one or several
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [100, 1024])]
    value_bytes: Vec<usize>,
    /// Records of a batch, one or several
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [64, 512, 4096])]
    batch: Vec<usize>,
    /// Rounds of each comparison
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each side runs in a round, in ms
    #[arg(long, value_name = "MS", default_value_t = 100)]
    round_ms: u64,
    #[command(flatten)]
    own: OwnArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// What a component of one's own may need.
#[derive(Debug, Clone, clap::Args)]
struct OwnArgs {
    /// Records from this file, one a line, instead of made-up ones (with FILE.wasm)
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The lines of --input are JSON objects and this field is the key
    #[arg(long, value_name = "NAME", requires = "input")]
    key_field: Option<String>,
    /// How many records; of --input, or made up (with FILE.wasm)
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    records: usize,
    /// Configuration of the plugin; may be given several times (with FILE.wasm)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_entry)]
    config: Vec<(String, String)>,
    /// Names of the plugin's output ports (with FILE.wasm)
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values_t = ["out".to_owned()])]
    ports: Vec<String>,
    /// What the plugin is granted: clocks, random (with FILE.wasm)
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = ["clocks", "random"])]
    allow: Vec<String>,
}

fn parse_entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Runs the benchmark. It keeps the thread busy.
pub(super) fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    if args.batch.contains(&0) {
        bail!("a batch has at least one record");
    }
    match &args.file {
        Some(file) => component::run(args, file),
        None => shipped::run(args),
    }
}

impl Args {
    fn round(&self) -> Duration {
        Duration::from_millis(self.round_ms)
    }
}

/// Compiles a component.
pub(super) fn load(engine: &PluginEngine, path: &Path) -> anyhow::Result<Plugin> {
    let wasm = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(engine.load(Bytes::from(wasm), &path.display().to_string())?)
}

/// An engine that compiles afresh, so that nothing is left behind.
pub(super) fn engine() -> anyhow::Result<PluginEngine> {
    Ok(PluginEngine::new(EngineOptions::default())?)
}

/// The component of a shipped plugin: the file given for it, or the one in the folder given.
pub(super) fn shipped_component(
    name: &str,
    file: Option<&Path>,
    folder: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    match (file, folder) {
        (Some(file), _) => Ok(file.to_owned()),
        (None, Some(folder)) => Ok(folder.join(format!("{name}.wasm"))),
        (None, None) => bail!(
            "where is the component of the plugin `{name}`? give --plugins DIR or --{name} FILE; `cargo xtask bench` builds it and does so"
        ),
    }
}

/// The bytes of the component of a shipped plugin.
pub(super) fn read_component(
    name: &str,
    file: Option<&Path>,
    folder: Option<&Path>,
) -> anyhow::Result<Vec<u8>> {
    let path = shipped_component(name, file, folder)?;
    std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The component of a shipped plugin, and an engine that has compiled it, so that no run does.
pub(super) fn compiled_component(
    name: &str,
    file: Option<&Path>,
    folder: Option<&Path>,
) -> anyhow::Result<(PathBuf, PluginEngine)> {
    let path = shipped_component(name, file, folder)?;
    let engine = engine()?;
    tokio::task::block_in_place(|| load(&engine, &path))?;
    Ok((path, engine))
}
