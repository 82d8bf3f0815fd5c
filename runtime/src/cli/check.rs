//! `millstream check`: a manifest and its plugins, which are opened once, without a data directory.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::exit::{BadManifest, Ending};
use super::output::{self, Output};
use crate::manifest::{
    self, PipelineSpec, PluginSpec, Problem, QueueSpec, ResolvedManifest, TopicSpec,
};
use crate::pipeline::{self, Plugins, Refusal};
use crate::plugin::{CONTRACT, EngineOptions, Plugin, PluginEngine};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The manifest, usually millstream.toml
    manifest: PathBuf,
}

/// Checks a manifest, opens its plugins, and shows it with every default filled in.
pub(super) fn run(args: &CheckArgs, output: &mut Output) -> anyhow::Result<Ending> {
    let manifest = manifest::load(&args.manifest)?;
    // Compiling and opening take their time, and a plugin may wait for a service.
    let plugins = tokio::task::block_in_place(|| load_plugins(&manifest))?;
    output.result(&document(&manifest, &plugins), |output| {
        output.write(manifest.to_string().as_bytes())?;
        write_fits(&manifest, &plugins, output)
    })?;
    Ok(Ending::Done)
}

/// Says of each pipeline that its plugin fits it, as a comment: what is printed is a manifest still.
fn write_fits(
    manifest: &ResolvedManifest,
    plugins: &Plugins,
    output: &mut Output,
) -> Result<(), output::Error> {
    for spec in &manifest.pipelines {
        if let Ok(plugin) = plugins.plugin(&spec.plugin) {
            output.line(format_args!(
                "# pipeline {}: plugin {} fits and opens ({CONTRACT}, digest {})",
                spec.name,
                spec.plugin,
                plugin.digest()
            ))?;
        }
    }
    Ok(())
}

/// Loads all plugins, holds them against the pipelines that use them, and opens them with what those configure.
///
/// # Errors
/// Every problem found, each with its place in the manifest.
fn load_plugins(manifest: &ResolvedManifest) -> anyhow::Result<Plugins> {
    let engine = PluginEngine::new(EngineOptions::default())?;
    let plugins = Plugins::load(&engine, manifest);
    let mut problems = Vec::new();
    for spec in &manifest.plugins {
        if let Err(refusal) = plugins.plugin(&spec.name) {
            problems.push(manifest.problem(&spec.place, refusal.to_string()));
        }
    }
    for spec in &manifest.pipelines {
        match plugins.plugin_for(spec) {
            Ok(plugin) => {
                if let Err(error) = pipeline::open_once(spec, plugin) {
                    problems.push(manifest.problem(&spec.place, error.to_string()));
                }
            }
            Err(Refusal::Misfit(misfits)) => {
                problems.extend(misfits.into_iter().map(|misfit| {
                    let problem = manifest.problem(&spec.place, misfit.what);
                    match misfit.help {
                        Some(help) => problem.with_help(help),
                        None => problem,
                    }
                }));
            }
            // What cannot be loaded has been told above.
            Err(_) => {}
        }
    }
    if problems.is_empty() {
        return Ok(plugins);
    }
    problems.sort_by_key(|problem| (problem.place().line, problem.place().column));
    let rendered: Vec<_> = problems.iter().map(Problem::to_string).collect();
    Err(BadManifest(rendered.join("\n\n")).into())
}

fn document(manifest: &ResolvedManifest, plugins: &Plugins) -> Value {
    let plugin = |spec: &PluginSpec| {
        let plugin = plugins.plugin(&spec.name).ok();
        json!({
            "name": spec.name,
            "path": spec.path,
            "digest": plugin.map(|plugin| plugin.digest().as_str()),
            "contract": plugin.map(|_| CONTRACT),
            "is_consumer": plugin.map(Plugin::is_consumer),
            "is_producer": plugin.map(Plugin::is_producer),
        })
    };
    let external = manifest.external_targets.iter().map(|named| &named.target);
    json!({
        "name": manifest.name,
        "path": manifest.path,
        "topics": manifest.topics.iter().map(topic_document).collect::<Vec<_>>(),
        "external_targets": external.collect::<Vec<_>>(),
        "queues": manifest.queues.iter().map(queue_document).collect::<Vec<_>>(),
        "plugins": manifest.plugins.iter().map(plugin).collect::<Vec<_>>(),
        "pipelines": manifest.pipelines.iter().map(pipeline_document).collect::<Vec<_>>(),
    })
}

fn topic_document(topic: &TopicSpec) -> Value {
    json!({
        "name": topic.name,
        "partitions": topic.partitions,
        "cleanup": topic.cleanup.as_str(),
        "retention_ms": topic.retention_ms,
        "retention_bytes": topic.retention_bytes,
        "compression": topic.compression.map_or("producer", |compression| compression.as_str()),
        "tombstone_delay_ms": topic.tombstone_delay_ms,
        "min_cleanable_dirty_ratio": topic.min_cleanable_dirty_ratio,
        "max_batch_bytes": topic.max_batch_bytes,
    })
}

fn queue_document(queue: &QueueSpec) -> Value {
    json!({
        "name": queue.name,
        "visibility_timeout_ms": queue.visibility_timeout_ms,
        "max_deliveries": queue.max_deliveries,
        "dead_letter": queue.dead_letter,
        "delay_ms": queue.delay_ms,
        "deduplication_window_ms": queue.deduplication_window_ms,
        "time_to_live_ms": queue.time_to_live_ms,
        "max_length": queue.max_length,
        "max_length_policy": queue.max_length_policy.as_str(),
        "groups": queue.groups.as_str(),
        "default_priority": queue.default_priority,
    })
}

fn pipeline_document(pipeline: &PipelineSpec) -> Value {
    let ports = pipeline
        .ports
        .iter()
        .map(|port| json!({ "port": port.name, "target": port.target }));
    let config = pipeline
        .config
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())));
    let group = (!pipeline.is_producer()).then_some(&pipeline.group);
    json!({
        "name": pipeline.name,
        "inputs": pipeline.inputs,
        "group": group,
        "start": group.map(|_| pipeline.start.to_string()),
        "plugin": pipeline.plugin,
        "outputs": ports.collect::<Vec<_>>(),
        "delivery": group.map(|_| pipeline.delivery.as_str()),
        "concurrency": pipeline.concurrency,
        "batch": {
            "max_records": pipeline.batch.max_records,
            "max_bytes": group.map(|_| pipeline.batch.max_bytes),
            "max_wait_ms": pipeline.batch.max_wait.as_secs_f64() * 1000.0,
        },
        "retry": group.map(|_| json!({
            "max_attempts": pipeline.retry.max_attempts,
            "initial_ms": pipeline.retry.initial.as_secs_f64() * 1000.0,
            "multiplier": pipeline.retry.multiplier,
            "max_ms": pipeline.retry.max.as_secs_f64() * 1000.0,
            "jitter": pipeline.retry.jitter.as_str(),
            "order": pipeline.retry.order.as_str(),
        })),
        "dead_letter": group.map(|_| pipeline.dead_letter.to_string()),
        "limits": {
            "memory_bytes": pipeline.limits.memory_bytes,
            "deadline_ms": pipeline.limits.deadline.as_secs_f64() * 1000.0,
            "output_bytes": pipeline.limits.output_bytes,
        },
        "config": config.collect::<serde_json::Map<_, _>>(),
        "allow": {
            "clocks": pipeline.allow.clocks,
            "random": pipeline.allow.random,
            "http": pipeline.allow.http.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
    })
}
