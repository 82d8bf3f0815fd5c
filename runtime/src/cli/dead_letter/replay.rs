//! `millstream dead-letter replay`: one record again, with what the plugin saw when it failed on it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use tokio::task::block_in_place;

use super::exported;
use super::replay_view::{Component, ReplayView};
use crate::cli::GlobalArgs;
use crate::cli::client::Client;
use crate::cli::exit::{Ending, Usage};
use crate::cli::open::Access;
use crate::cli::output::Output;
use crate::cli::progress;
use crate::manifest;
use crate::model::{PipelineName, RecordRef};
use crate::pipeline::Replay;
use crate::plugin::{EngineOptions, PluginEngine};
use crate::queue::letter::DeadLetter;
use crate::server::{LetterView, Source};

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub(in crate::cli) struct ReplayArgs {
    /// The dead letters, as queue:NAME or the name of the pipeline that has given up on them
    #[arg(
        required_unless_present = "from_export",
        conflicts_with = "from_export"
    )]
    source: Option<Source>,

    /// Its id, as `list` shows it
    id: u64,

    /// Take it from a file that `export` has written; needs no data directory
    #[arg(long, value_name = "FILE")]
    from_export: Option<PathBuf>,

    /// The component to run, such as the one that failed, or a new one
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,

    /// The manifest that names the pipeline's plugin [default: millstream.toml]
    #[arg(long, value_name = "FILE", conflicts_with = "plugin")]
    manifest: Option<PathBuf>,
}

/// Runs a record again.
pub(super) async fn run(
    args: &ReplayArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    match (&args.from_export, &args.source) {
        (Some(file), _) => {
            let exported = exported::find(file, args.id).await?;
            replay(args, &exported.record(), output)
        }
        (None, Some(source)) => {
            // Compiling a large component takes a while: somebody else may want the directory.
            let line = line_of(source, args.id, global).await?;
            let read = |mistake| anyhow!("the server's answer is not what was expected:{mistake}");
            let exported = exported::Exported::read(&line, args.id).map_err(read)?;
            replay(args, &exported.record(), output)
        }
        (None, None) => {
            Err(Usage("name the dead letters, or --from-export FILE".to_owned()).into())
        }
    }
}

/// A letter as `export` writes it.
async fn line_of(source: &Source, id: u64, global: &GlobalArgs) -> anyhow::Result<Bytes> {
    let client = Client::connect(global, Access::Existing)?;
    let source = source.to_string();
    // It says what is wrong if there is no such letter.
    let path = format!("/v1/dead-letters/{id}");
    let query = [("source", source.as_str())];
    let _: LetterView = client.get(&path, &query).await?;
    let (from, max) = (id.to_string(), "1");
    let query = [("source", source.as_str()), ("from", &from), ("max", max)];
    let answer = client.fetch("/v1/dead-letters/export", &query).await?;
    Ok(answer.body)
}

fn replay(
    args: &ReplayArgs,
    message: &RecordRef<'_>,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let cannot = || format!("cannot replay dead letter {}", args.id);
    let replay = Replay::of(message).with_context(cannot)?;
    let path = component_path(args, replay.pipeline())?;
    let (plugin, replayed) = block_in_place(|| {
        let wasm =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let engine = PluginEngine::new(EngineOptions::default()).context("cannot run plugins")?;
        let plugin = engine.load(Bytes::from(wasm), &path.display().to_string())?;
        let replayed = replay.run(&plugin).with_context(cannot)?;
        anyhow::Ok((plugin, replayed))
    })?;
    let letter = DeadLetter::read(message.headers);
    let component = Component::new(&path, plugin.digest().as_str(), letter.plugin);
    if let Some(warning) = component.warning() {
        progress::note(&warning);
    }
    let view = ReplayView::new(args.id, &letter, component, &replay, &replayed);
    output.result(&view, |output| view.write(output))?;
    Ok(match replayed.outcome.is_success() {
        true => Ending::Done,
        false => Ending::RecordFailed,
    })
}

/// The component that is named, or that of the pipeline in a manifest.
fn component_path(args: &ReplayArgs, pipeline: &PipelineName) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.plugin {
        return Ok(path.clone());
    }
    let path = match &args.manifest {
        Some(path) => path.as_path(),
        None if Path::new(manifest::FILE_NAME).is_file() => Path::new(manifest::FILE_NAME),
        None => {
            return Err(Usage(format!(
                "which component is to run? There is no {} here; name the component with --plugin, or a manifest with --manifest",
                manifest::FILE_NAME
            ))
            .into());
        }
    };
    let manifest = manifest::load(path)?;
    let mut pipelines = manifest.pipelines.iter();
    let spec = pipelines.find(|spec| spec.name == *pipeline);
    let spec = spec.ok_or_else(|| {
        Usage(format!(
            "{} has no pipeline `{pipeline}`, which gave up on the record; name the component with --plugin",
            path.display()
        ))
    })?;
    let mut plugins = manifest.plugins.iter();
    let plugin = plugins.find(|plugin| plugin.name == spec.plugin);
    let plugin =
        plugin.with_context(|| format!("the manifest declares no plugin `{}`", spec.plugin))?;
    Ok(plugin.path.clone())
}
