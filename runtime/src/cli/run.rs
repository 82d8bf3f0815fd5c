//! `millstream run`: the pipelines of a manifest, until they are idle or the process is told to stop.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::client::Client;
use super::exit::Ending;
use super::interrupt::Interrupt;
use super::open::{self, Access, DataDirectory};
use super::output::Output;
use super::plugin_metrics::{self, PluginMetric};
use super::progress::{self, Progress, Unit};
use super::telemetry::LogFormat;
use super::traces::TraceArgs;
use super::{DEFAULT_DATA_DIR, GlobalArgs};
use crate::log::{Log, Maintenance};
use crate::manifest::{self, ResolvedManifest};
use crate::model::PipelineName;
use crate::pipeline::{self, Failure, Pipelines, Plugins};
use crate::plugin::{EngineOptions, PluginEngine};
use crate::queue;
use crate::storage::{self, layout};

/// How often progress and failures are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often progress is logged, at level info.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long whoever holds the data directory has to say that it is a server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Instances beyond those of the tasks.
const SPARE_INSTANCES: u64 = 64;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The manifest, usually millstream.toml
    manifest: PathBuf,
    /// End once everything there is has been processed. Timers that are not due yet fire in a later run
    #[arg(long)]
    until_idle: bool,

    #[command(flatten)]
    traces: TraceArgs,
}

/// What a run has done.
#[derive(Debug, Serialize)]
struct Summary {
    /// `idle`, `stopped` or `failed`.
    outcome: &'static str,
    records_in: u64,
    /// Timers handled.
    timers: u64,
    records_out: u64,
    lag_records: u64,
    /// Records that wait to be tried again.
    parked_records: u64,
    /// Failures after which a record is, or was, tried again.
    retries: u64,
    /// Records given up on.
    dead_letters: u64,
    seconds: f64,
    records_per_second: u64,
    failures: Vec<FailureView>,
    /// What the plugins count of their own.
    metrics: Vec<PluginMetric>,
}

#[derive(Debug, Serialize)]
struct FailureView {
    pipeline: PipelineName,
    /// None if the pipeline did not start.
    partition: Option<u32>,
    error: String,
}

/// The maintenance of topics and queues; it ends when this is dropped.
struct Upkeep {
    topics: Maintenance,
    queues: queue::Maintenance,
    log: Log,
}

impl Upkeep {
    fn start(data: &DataDirectory) -> Self {
        Self {
            topics: Maintenance::start(data.log.clone()),
            queues: queue::Maintenance::start(data.queues.clone()),
            log: data.log.clone(),
        }
    }

    /// Goes over everything once more: where pipelines run for a short time only, again and again, what is due to go would
    /// stay for ever otherwise. A signal ends it early, and nothing else: the records have been processed.
    async fn finish(self, interrupt: &Interrupt) {
        let before = start_offsets(&self.log);
        let finished = async { tokio::join!(self.topics.finish(), self.queues.finish()) };
        tokio::select! {
            biased;
            () = interrupt.requested() => {}
            _ = finished => {}
        }
        let deleted = start_offsets(&self.log).saturating_sub(before);
        if deleted > 0 {
            // What the run has just written may be among them: it has the times of what it was made of.
            progress::note(&format!(
                "{deleted} records went that were older, or more, than the retention of their topics allows"
            ));
        }
    }
}

/// Where the partitions of all topics start, together: it grows with each record that retention deletes.
fn start_offsets(log: &Log) -> u64 {
    let topics = log.topics();
    let partitions = topics.iter().flat_map(|topic| topic.partitions());
    partitions.map(|partition| partition.start_offset()).sum()
}

/// Runs the pipelines of a manifest.
pub(super) async fn run(
    args: RunArgs,
    global: &GlobalArgs,
    output: &mut Output,
) -> anyhow::Result<Ending> {
    let manifest = manifest::load(&args.manifest)?;
    let interrupt = Interrupt::listen("finishing the batches in hand")?;
    // Dropped last, when nothing makes spans any more.
    let _traces = args.traces.start()?;
    let (plugins, data) = match load(&manifest, global) {
        Ok(loaded) => loaded,
        Err(error) => return Err(name_server(error, &args.manifest, global).await),
    };
    let mut printer = FailurePrinter::new(global);
    let Some(data) = data else {
        let failures = Pipelines::refused(&plugins, &manifest);
        printer.print(&failures);
        return finish(&Summary::of_refused(&failures), output, Ending::Failed);
    };
    let started = Instant::now();
    let pipelines =
        Pipelines::start(&data.log, &data.queues, &data.groups, &plugins, &manifest).await?;
    // Only now: a run that cannot start deletes nothing.
    let upkeep = Upkeep::start(&data);

    let mut watch = Watch::new(&pipelines, &manifest, global, printer);
    let end = watch.until_end(args.until_idle, &interrupt).await;
    let elapsed = started.elapsed();
    let Watch {
        mut printer, bar, ..
    } = watch;
    drop(bar);
    let metrics = plugin_metrics::of(&pipelines);
    let failures = pipelines.stop().await;
    let progress = pipelines.progress();
    printer.print(&failures);
    match (failures.is_empty(), end) {
        (true, End::Idle) => upkeep.finish(&interrupt).await,
        _ => drop(upkeep),
    }

    let summary = Summary {
        outcome: match (failures.is_empty(), end) {
            (false, _) => "failed",
            (true, End::Idle) => "idle",
            (true, End::Interrupted | End::NothingRuns) => "stopped",
        },
        records_in: progress.records_in,
        timers: progress.timers,
        records_out: progress.records_out,
        lag_records: progress.lag_records,
        parked_records: progress.parked_records,
        retries: progress.retries,
        dead_letters: progress.dead_letters,
        seconds: elapsed.as_secs_f64(),
        // Producers have no input.
        records_per_second: match progress.records_in {
            0 => progress::per_second(progress.records_out, elapsed),
            records_in => progress::per_second(records_in, elapsed),
        },
        failures: failures.iter().map(FailureView::of).collect(),
        metrics,
    };
    let ending = match (failures.is_empty(), end) {
        (false, _) => Ending::Failed,
        (true, End::Interrupted) if args.until_idle => Ending::Interrupted,
        (true, _) => Ending::Done,
    };
    finish(&summary, output, ending)
}

/// Loads the plugins and opens the data directory; none is given back if no pipeline can run, and then nothing is changed
/// in it. One that does not exist yet is created last: a manifest that cannot run leaves nothing behind.
fn load(
    manifest: &ResolvedManifest,
    global: &GlobalArgs,
) -> anyhow::Result<(Plugins, Option<DataDirectory>)> {
    let existing = match open::is_missing(&global.data_dir) {
        true => None,
        false => Some(DataDirectory::open(global, Access::Create)?),
    };
    manifest
        .check_external_targets(|target| existing.as_ref().is_some_and(|data| data.has(target)))?;
    let cache_dir = global.data_dir.join(layout::PLUGIN_CACHE);
    let log = existing.as_ref().map(|data| &data.log);
    let engine = PluginEngine::new(EngineOptions {
        cache_dir: existing.is_some().then(|| cache_dir.clone()),
        max_instances: max_instances(pipeline::instance_count(manifest, log)),
    })
    .context("cannot run plugins")?;
    let plugins = tokio::task::block_in_place(|| Plugins::load(&engine, manifest));
    if !plugins.fit_any(manifest) {
        return Ok((plugins, None));
    }
    if existing.is_some() {
        return Ok((plugins, existing));
    }
    Pipelines::check_room(&plugins, manifest)?;
    let created = DataDirectory::open(global, Access::Create)?;
    tokio::task::block_in_place(|| plugins.use_cache(&cache_dir));
    Ok((plugins, Some(created)))
}

/// Says how the server that holds the data directory, if it is one, is made to run the manifest.
async fn name_server(error: anyhow::Error, manifest: &Path, global: &GlobalArgs) -> anyhow::Error {
    let data_dir = &global.data_dir;
    let is_locked = matches!(error.downcast_ref(), Some(storage::Error::Locked { .. }));
    if !is_locked || !is_served(global).await {
        return error;
    }
    let mut apply = format!("millstream apply {}", manifest.display());
    if data_dir != Path::new(DEFAULT_DATA_DIR) {
        apply.push_str(&format!(" --data-dir {}", data_dir.display()));
    }
    error.context(format!(
        "run needs the data directory for itself, and a server holds it; `{apply}` makes that server run the manifest"
    ))
}

/// Whether a server holds the data directory. One that was killed may have left its address behind for whoever holds it
/// now, so it is asked.
async fn is_served(global: &GlobalArgs) -> bool {
    let local = GlobalArgs {
        server: None,
        ..global.clone()
    };
    match Client::connect(&local, Access::Existing) {
        Ok(client @ Client::Remote(_)) => {
            let answered = tokio::time::timeout(ANSWER_TIMEOUT, client.fetch("/livez", &()));
            answered.await.is_ok_and(|answered| answered.is_ok())
        }
        Ok(Client::Embedded(_)) | Err(_) => false,
    }
}

/// How many instances the engine has room for: what the tasks need, and some that look for the
/// record on which a plugin fails.
fn max_instances(needed: u64) -> u32 {
    let with_spare = needed.saturating_add(SPARE_INSTANCES);
    u32::try_from(with_spare)
        .unwrap_or(u32::MAX)
        .max(EngineOptions::default().max_instances)
}

fn finish(summary: &Summary, output: &mut Output, ending: Ending) -> anyhow::Result<Ending> {
    output.result(summary, |output| {
        output.line(format_args!(
            "{}: {} records in, {} records out, {:.3} s, {} records/s",
            summary.outcome,
            summary.records_in,
            summary.records_out,
            summary.seconds,
            summary.records_per_second
        ))?;
        if summary.timers > 0 {
            output.line(format_args!("{} timers", summary.timers))?;
        }
        if summary.retries + summary.dead_letters + summary.parked_records > 0 {
            output.line(format_args!(
                "{} retries, {} records wait for one, {} dead letters",
                summary.retries, summary.parked_records, summary.dead_letters
            ))?;
        }
        summary
            .metrics
            .iter()
            .try_for_each(|metric| output.line(format_args!("{metric}")))
    })?;
    Ok(ending)
}

impl Summary {
    /// Of a run in which no pipeline could start.
    fn of_refused(failures: &[Failure]) -> Self {
        Self {
            outcome: "failed",
            records_in: 0,
            timers: 0,
            records_out: 0,
            lag_records: 0,
            parked_records: 0,
            retries: 0,
            dead_letters: 0,
            seconds: 0.0,
            records_per_second: 0,
            failures: failures.iter().map(FailureView::of).collect(),
            metrics: Vec::new(),
        }
    }
}

impl FailureView {
    fn of(failure: &Failure) -> Self {
        Self {
            pipeline: failure.pipeline.clone(),
            partition: failure.partition,
            error: failure.error.to_string(),
        }
    }
}

/// Why a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything there is has been processed.
    Idle,
    /// A signal came.
    Interrupted,
    /// All pipelines have stopped with a failure.
    NothingRuns,
}

/// Watches running pipelines.
struct Watch<'a> {
    pipelines: &'a Pipelines,
    pipeline_count: usize,
    printer: FailurePrinter,
    bar: Progress,
    started: Instant,
    next_log: Instant,
}

impl<'a> Watch<'a> {
    fn new(
        pipelines: &'a Pipelines,
        manifest: &ResolvedManifest,
        global: &GlobalArgs,
        printer: FailurePrinter,
    ) -> Self {
        let started = Instant::now();
        Self {
            pipelines,
            pipeline_count: manifest.pipelines.len(),
            printer,
            bar: Progress::start(global, Unit::Records, Some(0), None),
            started,
            next_log: started + LOG_INTERVAL,
        }
    }

    /// Waits for the end of the run, showing what goes on.
    async fn until_end(&mut self, until_idle: bool, interrupt: &Interrupt) -> End {
        let pipelines = self.pipelines;
        let idle = async {
            match until_idle {
                true => pipelines.wait_until_idle().await,
                false => std::future::pending().await,
            }
        };
        tokio::pin!(idle);
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                () = interrupt.requested() => return End::Interrupted,
                () = &mut idle => return End::Idle,
                _ = ticks.tick() => self.show(),
            }
            let failures = pipelines.failures();
            self.printer.print(&failures);
            let stopped: BTreeSet<_> = failures.iter().map(|failure| &failure.pipeline).collect();
            if stopped.len() == self.pipeline_count && self.pipeline_count > 0 {
                return End::NothingRuns;
            }
        }
    }

    fn show(&mut self) {
        let progress = self.pipelines.progress();
        if self.bar.is_due() {
            let text = format!(
                "{} in, {} out, {}, lag {}",
                indicatif::HumanCount(progress.records_in),
                indicatif::HumanCount(progress.records_out),
                progress::rate(progress.records_in, self.started.elapsed()),
                indicatif::HumanCount(progress.lag_records),
            );
            let length = progress.records_in + progress.lag_records;
            self.bar.show(progress.records_in, Some(length), text);
        }
        if Instant::now() >= self.next_log {
            self.next_log += LOG_INTERVAL;
            tracing::info!(
                records_in = progress.records_in,
                timers = progress.timers,
                records_out = progress.records_out,
                lag_records = progress.lag_records,
                parked_records = progress.parked_records,
                retries = progress.retries,
                dead_letters = progress.dead_letters,
                "running"
            );
        }
    }
}

/// Prints each failure once.
struct FailurePrinter {
    printed: usize,
    /// In JSON the failures are log lines, which somebody collects.
    is_silent: bool,
}

impl FailurePrinter {
    fn new(global: &GlobalArgs) -> Self {
        Self {
            printed: 0,
            is_silent: global.log_format == LogFormat::Json,
        }
    }

    /// Prints what is new. Failures are only ever added.
    fn print(&mut self, failures: &[Failure]) {
        for failure in failures.iter().skip(self.printed) {
            if !self.is_silent {
                progress::note(&format!("error: {failure}"));
            }
        }
        self.printed = self.printed.max(failures.len());
    }
}
