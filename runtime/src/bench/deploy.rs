//! `bench deploy`: what deploys under load do to the latency of records.
//!
//! Topic → plugin → topic, exactly once, on what a server runs pipelines with. Records come at an even rate and
//! say when they were sent; meanwhile one version of the plugin after the other is uploaded, compiled and
//! deployed to all tasks. The other side is the same without a deploy. As many must come out as were sent; that each does so
//! once is what the tests of deploys show.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::task::block_in_place;

use super::data::Data;
use super::latency::{Latency, LatencyRecorder};
use super::paced::{Disturbance, Latencies, OutputReaders, PacedSender};
use super::plugin::{engine, read_component};
use super::report::{Bound, Figures, Report};
use super::rounds::{Side, order};
use super::scratch::Scratch;
use super::stored::StoredArgs;
use super::{CommonArgs, announce, warn_of_debug_build};
use crate::deploy::{Deployments, Mode, Outcome, SignatureRules};
use crate::model::PluginName;
use crate::plugin::PluginEngine;

/// What the p99 of records that are under way during a deploy may be, in parts of normal.
const MAX_P99_RATIO: f64 = 5.0;
/// Deploys of a minute that are to be possible.
const DEPLOYS_A_MINUTE: f64 = 50.0;

/// Arguments of `bench deploy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder of the components, in which passthrough.wasm is
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Component of the plugin `passthrough`
    #[arg(long, value_name = "FILE")]
    passthrough: Option<PathBuf>,
    /// Deploys of a round, evenly over its time
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..))]
    deploys: u32,
    /// How long a round takes, in seconds
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Records a second; several rates are measured one after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [100_000, 300_000], value_parser = clap::value_parser!(u64).range(200..))]
    rate: Vec<u64>,
    /// Bytes of a value, besides the time; keys, of which there are 10,000, have 16 more
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    /// Partitions of both topics
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    #[command(flatten)]
    stored: StoredArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Records of one kind.
#[derive(Debug, Serialize)]
struct Case {
    /// Records a second.
    rate: u64,
    records: &'static str,
    /// From sending to the output topic.
    latency: Latency,
    /// In parts of that without deploys.
    p99_ratio: f64,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "records/s",
        "records",
        "count",
        "latency p50 / p99 / p99.9 / max",
        "p99 in parts of normal",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.rate.to_string(),
            self.records.to_owned(),
            self.latency.count.to_string(),
            self.latency.cell(),
            format!("{:.2}", self.p99_ratio),
        ]
    }
}

/// Runs the benchmark.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    let parent = args.stored.parent()?;
    let component = read_component(
        "passthrough",
        args.passthrough.as_deref(),
        args.plugins.as_deref(),
    )?;
    let engine = engine()?;
    let setup = Setup {
        args,
        parent: &parent,
        component: &component,
        engine: &engine,
    };
    let mut measured = Vec::new();
    for rate in &args.rate {
        measured.push(setup.measure(*rate).await?);
    }
    report(args, &parent, &measured)
}

/// What deploys do at one rate.
struct Measured {
    rate: u64,
    normal: Latency,
    deployed: Latencies,
    /// How long each deploy took.
    taken: LatencyRecorder,
}

impl Measured {
    fn cases(&self) -> [Case; 3] {
        let case = |records, latency: Latency| Case {
            rate: self.rate,
            records,
            latency,
            p99_ratio: latency.p99_us / self.normal.p99_us.max(1.0),
        };
        [
            case("without deploys", self.normal),
            case("all, with deploys", self.deployed.all.summary()),
            case(
                "under way during a deploy",
                self.deployed.disturbed.summary(),
            ),
        ]
    }
}

fn report(args: &Args, parent: &Path, measured: &[Measured]) -> anyhow::Result<Report> {
    let settings = json!({
        "file_system": super::environment::file_system_of(parent),
        "deploys": args.deploys,
        "seconds": args.seconds,
        "rate": args.rate,
        "value_bytes": args.value_bytes,
        "partitions": args.partitions,
        "durability": args.stored.durability.to_string(),
        "rounds": args.stored.rounds,
    });
    let mut report = Report::new("deploy", settings);
    let mut cases = Vec::new();
    for of in measured {
        let [normal, all, disturbed] = of.cases();
        let what = format!(
            "p99 of records under way during a deploy, in parts of normal, at {} records/s",
            of.rate
        );
        report.bound(Bound::at_most(what, disturbed.p99_ratio, MAX_P99_RATIO));
        let taken = of.taken.summary();
        report.bound(Bound::at_least(
            format!(
                "deploys that a minute has time for, by the p99 of one, at {} records/s",
                of.rate
            ),
            60.0e6 / taken.p99_us.max(1.0),
            DEPLOYS_A_MINUTE,
        ));
        report.note(format!(
            "At {} records/s a deploy, from the upload of a component that was never compiled before to the last task \
             that runs it, took {} (p50 / p99 / p99.9 / max). As many records came out as were sent.",
            of.rate,
            taken.cell()
        ));
        cases.extend([normal, all, disturbed]);
    }
    let title = format!(
        "topic → passthrough → topic, exactly once, {} deploys in {} s",
        args.deploys, args.seconds
    );
    report.add("deploy", title, &cases)?;
    Ok(report)
}

/// What all runs share.
struct Setup<'a> {
    args: &'a Args,
    parent: &'a Path,
    component: &'a [u8],
    engine: &'a PluginEngine,
}

impl Setup<'_> {
    /// All rounds of both sides at `rate` records a second.
    async fn measure(&self, rate: u64) -> anyhow::Result<Measured> {
        let mut normal = LatencyRecorder::new()?;
        let mut deployed = Latencies::new()?;
        let mut taken = LatencyRecorder::new()?;
        for round in 0..self.args.stored.rounds {
            for side in order(round) {
                announce(&format!("{rate} records/s, {side:?}, round {}", round + 1));
                match side {
                    Side::Plain => normal.add(&self.run(rate, None).await?.all)?,
                    Side::Ours => {
                        deployed.add(&self.run(rate, Some((round, &mut taken))).await?)?;
                    }
                }
            }
        }
        Ok(Measured {
            rate,
            normal: normal.summary(),
            deployed,
            taken,
        })
    }

    /// One round: with the number of the round and how long deploys took, or without any.
    async fn run(
        &self,
        rate: u64,
        deploys: Option<(u32, &mut LatencyRecorder)>,
    ) -> anyhow::Result<Latencies> {
        let scratch = Scratch::create(self.parent)?;
        let Data {
            log,
            queues,
            groups,
        } = Data::open(scratch.path(), self.args.stored.options())?;
        let deployments = Deployments::open(
            &log,
            &queues,
            &groups,
            self.engine,
            SignatureRules::default(),
        )
        .await?;
        let name: PluginName = "passthrough".parse()?;
        let first = version(self.component, "0");
        deployments.upload(&name, first, None, None).await?;
        deployments.apply(&self.manifest(), None).await?;
        let [input, output] = [log.topic(&"in".parse()?)?, log.topic(&"out".parse()?)?];
        let start = Instant::now();
        let disturbance = Arc::new(Disturbance::default());
        let readers = OutputReaders::start(log.store(), &output, start, &disturbance)?;
        let mut sender = PacedSender::new(&log, input.clone(), self.args.value_bytes, start);
        let duration = Duration::from_secs(self.args.seconds);
        let is_over = AtomicBool::new(false);
        let sending = async {
            let sent = sender.send_for(duration, rate, |_| None).await;
            is_over.store(true, Ordering::Release);
            sent
        };
        let deploying = async {
            let Some((round, taken)) = deploys else {
                return Ok(());
            };
            let mut ticks = tokio::time::interval(duration / self.args.deploys.max(1));
            for number in 0..self.args.deploys {
                ticks.tick().await;
                // How long each takes tells the rest.
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                let wasm = version(self.component, &format!("{round} {number}"));
                let began = Instant::now();
                disturbance.begin();
                let uploaded = deployments.upload(&name, wasm, None, None).await?;
                let digest = uploaded.version.digest;
                let deploy = deployments.deploy(&name, &digest, Mode::All, None).await?;
                disturbance.end(start);
                taken.record(began.elapsed());
                ensure!(deploy.outcome == Outcome::Succeeded, "{deploy:?}");
            }
            Ok(())
        };
        let (sent, deployed) = tokio::join!(sending, deploying);
        let sent = sent?;
        deployed?;
        let latencies = readers.wait_for(sent).await?;
        deployments.stop().await;
        block_in_place(|| drop((deployments, log, groups, queues, sender, input, output)));
        Ok(latencies)
    }

    fn manifest(&self) -> String {
        let partitions = self.args.partitions;
        format!(
            "name = \"bench\"\n\
             [topics.in]\npartitions = {partitions}\n\
             [topics.out]\npartitions = {partitions}\n\
             [plugins.passthrough]\n\
             [pipelines.passthrough]\nfrom = \"topic:in\"\nplugin = \"passthrough\"\nto = \"topic:out\"\n"
        )
    }
}

/// The component with a custom section more, and so with another digest: what it does is the same.
fn version(component: &[u8], name: &str) -> Bytes {
    // Section 0, its length, the length of its name, and the name: all below 128, so that a byte holds them.
    let name = &name.as_bytes()[..name.len().min(100)];
    let len = name.len() as u8;
    let mut wasm = Vec::with_capacity(component.len() + name.len() + 3);
    wasm.extend_from_slice(component);
    wasm.extend_from_slice(&[0, len + 1, len]);
    wasm.extend_from_slice(name);
    wasm.into()
}
