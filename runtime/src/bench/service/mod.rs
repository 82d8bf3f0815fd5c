//! `bench service`: a consumer that calls a slow service for each record, with many instances a partition against
//! one.
//!
//! Topic → plugin → topic with one partition, exactly once, with the plugin `testing-calls-service`: each record
//! is a request, to a service on this machine that takes its time. The other side is the same pipeline without
//! `concurrency`, in turns.

mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde::Serialize;
use serde_json::json;

use self::server::Server;
use super::data::Data;
use super::plugin::compiled_component;
use super::report::{Bound, Figures, Report, rate};
use super::rounds::{Rounds, Side, order};
use super::scratch::Scratch;
use super::stored::StoredArgs;
use super::synthetic::Records;
use super::{CommonArgs, announce, warn_of_debug_build};
use crate::log::{Log, Producer, Topic};
use crate::manifest::{self, ResolvedManifest};
use crate::model::HeadersRef;
use crate::pipeline::{Pipelines, Plugins};
use crate::plugin::PluginEngine;

/// When every record happened, in ms since the epoch.
const TIMESTAMP_MS: u64 = 1_700_000_000_000;
/// Records a second in one partition that `concurrency = 64` and 50 ms a call are to reach.
const LEAST_RECORDS_PER_S: f64 = 1_000.0;

/// Arguments of `bench service`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder of the components, in which testing_calls_service.wasm is
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Component of the plugin `testing-calls-service`
    #[arg(long, value_name = "FILE")]
    calls_service: Option<PathBuf>,
    /// How long the service takes for a request, in ms
    #[arg(long, value_name = "MS", default_value_t = 50)]
    service_ms: u64,
    /// Instances of the plugin in the partition, against one
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1024))]
    concurrency: u32,
    /// Records for each instance
    #[arg(long, value_name = "N", default_value_t = 100)]
    records: u64,
    /// Bytes of a value, and so of a request and a response; keys, of which there are 10,000, have 16 more
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    #[command(flatten)]
    stored: StoredArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// One number of instances.
#[derive(Debug, Serialize)]
struct Case {
    concurrency: u32,
    records: u64,
    records_per_s: f64,
    rounds: Rounds,
    /// In parts of the records a second if nothing but the service took any time.
    of_possible: f64,
    /// In parts of one instance.
    ratio: f64,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "concurrency",
        "records",
        "records/s",
        "of what the service allows",
        "ratio to one instance",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.concurrency.to_string(),
            self.records.to_string(),
            self.rounds.cell(rate),
            format!("{:.2}", self.of_possible),
            format!("{:.1}", self.ratio),
        ]
    }
}

/// Runs the benchmark.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    let parent = args.stored.parent()?;
    let (component, engine) = compiled_component(
        "testing_calls_service",
        args.calls_service.as_deref(),
        args.plugins.as_deref(),
    )?;
    let server = Server::start(Duration::from_millis(args.service_ms)).await?;
    let setup = Setup {
        args,
        parent: &parent,
        component: &component,
        engine: &engine,
        authority: server.authority(),
    };
    let (mut one, mut many) = (Rounds::default(), Rounds::default());
    for round in 0..args.stored.rounds {
        for side in order(round) {
            let (concurrency, rounds) = match side {
                Side::Plain => (1, &mut one),
                Side::Ours => (args.concurrency, &mut many),
            };
            announce(&format!("concurrency {concurrency}, round {}", round + 1));
            rounds.push(setup.run(concurrency).await?);
        }
    }
    let settings = json!({
        "file_system": super::environment::file_system_of(&parent),
        "service_ms": args.service_ms,
        "value_bytes": args.value_bytes,
        "durability": args.stored.durability.to_string(),
        "rounds": args.stored.rounds,
    });
    let mut report = Report::new("service", settings);
    let possible = |concurrency| f64::from(concurrency) * 1_000.0 / args.service_ms.max(1) as f64;
    let cases = [(1, &one), (args.concurrency, &many)].map(|(concurrency, rounds)| Case {
        concurrency,
        records: args.records * u64::from(concurrency),
        records_per_s: rounds.median(),
        of_possible: rounds.median() / possible(concurrency),
        ratio: rounds.ratio_to(&one),
        rounds: rounds.clone(),
    });
    if (args.service_ms, args.concurrency) == (50, 64) {
        let what = "records a second in one partition, concurrency 64, 50 ms a call";
        report.bound(Bound::at_least(what, many.median(), LEAST_RECORDS_PER_S));
    }
    let title = "Topic → calls a service → topic, one partition, exactly once";
    report.add("service", title, &cases)?;
    report.note(format!(
        "A service on this machine that takes {} ms for each request, which it shares the cores with; requests and \
         responses of {} B, durability {}.",
        args.service_ms, args.value_bytes, args.stored.durability
    ));
    Ok(report)
}

/// What all runs share.
struct Setup<'a> {
    args: &'a Args,
    parent: &'a Path,
    component: &'a Path,
    engine: &'a PluginEngine,
    authority: String,
}

impl Setup<'_> {
    /// Works off a backlog with so many instances; returns the records a second.
    async fn run(&self, concurrency: u32) -> anyhow::Result<f64> {
        let records = self.args.records * u64::from(concurrency);
        let scratch = Scratch::create(self.parent)?;
        let manifest = self.manifest(scratch.path(), concurrency)?;
        let Data {
            log,
            queues,
            groups,
        } = Data::open(scratch.path(), self.args.stored.options())?;
        crate::pipeline::ensure_topics(&log, &manifest).await?;
        self.fill(&log, &log.topic(&"in".parse()?)?, records)
            .await?;
        let plugins = tokio::task::block_in_place(|| Plugins::load(self.engine, &manifest));
        let start = Instant::now();
        let pipelines = Pipelines::start(&log, &queues, &groups, &plugins, &manifest).await?;
        pipelines.wait_until_idle().await;
        let taken = start.elapsed();
        let progress = pipelines.progress();
        if let Some(failure) = pipelines.stop().await.first() {
            bail!("{failure}");
        }
        ensure!(
            progress.records_out == records && progress.retries == 0,
            "of {records} records {} came out, and {} attempts failed",
            progress.records_out,
            progress.retries
        );
        tokio::task::block_in_place(|| drop((log, groups, queues, pipelines)));
        Ok(records as f64 / taken.as_secs_f64())
    }

    async fn fill(&self, log: &Log, topic: &Topic, records: u64) -> anyhow::Result<()> {
        let mut source = Records::new(self.args.value_bytes, 1);
        let mut producer = Producer::new(log.clone(), topic.clone());
        for _ in 0..records {
            let (key, value) = source.next();
            let no_headers = HeadersRef::EMPTY;
            producer
                .send(None, TIMESTAMP_MS, Some(key), Some(value), no_headers)
                .await?;
        }
        producer.flush().await?;
        Ok(())
    }

    /// The manifest of the pipeline, read from a file like any other.
    fn manifest(&self, folder: &Path, concurrency: u32) -> anyhow::Result<ResolvedManifest> {
        let path = folder.join(manifest::FILE_NAME);
        let plugin = std::path::absolute(self.component)?;
        let plugin = serde_json::to_string(&plugin.display().to_string())?;
        let authority = &self.authority;
        // A batch of one instance takes as long as its calls.
        let text = format!(
            "name = \"bench\"\n\
             [topics.in]\npartitions = 1\n\
             [topics.out]\npartitions = 1\n\
             [plugins.calls]\npath = {plugin}\n\
             [pipelines.calls]\nfrom = \"topic:in\"\nplugin = \"calls\"\n\
             to = \"topic:out\"\nconcurrency = {concurrency}\n\
             limits = {{ deadline = \"10m\" }}\n\
             allow = {{ http = [\"{authority}\"] }}\n\
             config = {{ url = \"http://{authority}/\", timeout-ms = 30000 }}\n"
        );
        std::fs::write(&path, text)?;
        Ok(manifest::load(&path)?)
    }
}
