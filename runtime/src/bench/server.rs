//! `bench server`: how long `millstream serve` takes to start with a lot of data, and what it takes of the machine
//! while it has nothing to do.
//!
//! The other side of the start is a server without data, that of idleness a server without pipelines.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use tokio::task::block_in_place;

use super::plugin::read_component;
use super::report::{Bound, Figures, Report};
use super::rounds::{Rounds, Side, order};
use super::scratch::Scratch;
use super::serve::Server;
use super::stored::StoredArgs;
use super::synthetic::Records;
use super::{CommonArgs, announce, process, warn_of_debug_build};
use crate::log::{Log, Producer, TopicConfig};
use crate::model::HeadersRef;
use crate::storage::Store;

/// How long a start with 1 GB may take.
const MAX_START_S: f64 = 2.0;
/// What an idle server with 100 pipelines may take.
const MAX_IDLE_MIB: f64 = 200.0;
const MAX_IDLE_CPU_PERCENT: f64 = 2.0;
/// The size of a bounded start.
const GB: u64 = 1_000_000_000;
/// Pipelines of a bounded idleness.
const BOUNDED_PIPELINES: u32 = 100;
/// How long a server is left alone before its idleness is measured.
const SETTLING: Duration = Duration::from_secs(5);

/// Arguments of `bench server`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder of the components, in which passthrough.wasm is
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Component of the plugin `passthrough`
    #[arg(long, value_name = "FILE")]
    passthrough: Option<PathBuf>,
    /// Bytes of data to start with: keys and values of records of 116 B, in 16 partitions
    #[arg(long, value_name = "N", default_value_t = GB)]
    data_bytes: u64,
    /// Pipelines that have nothing to do
    #[arg(long, value_name = "N", default_value_t = BOUNDED_PIPELINES, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pipelines: u32,
    /// For how many seconds a server is idle
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    idle_seconds: u64,
    #[command(flatten)]
    stored: StoredArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// What was measured of one thing.
#[derive(Debug, Serialize)]
struct Case {
    what: String,
    unit: &'static str,
    plain: f64,
    ours: f64,
    plain_rounds: Rounds,
    rounds: Rounds,
}

impl Case {
    fn new(what: String, unit: &'static str, plain: &Rounds, ours: &Rounds) -> Self {
        Self {
            what,
            unit,
            plain: plain.median(),
            ours: ours.median(),
            plain_rounds: plain.clone(),
            rounds: ours.clone(),
        }
    }
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &["", "without", "with", "difference"];

    fn cells(&self) -> Vec<String> {
        let shown = |figure: f64| format!("{figure:.2} {}", self.unit);
        vec![
            self.what.clone(),
            self.plain_rounds.cell(shown),
            self.rounds.cell(shown),
            shown(self.ours - self.plain),
        ]
    }
}

/// The rounds of both sides.
#[derive(Default)]
struct Sides {
    plain: Rounds,
    ours: Rounds,
}

impl Sides {
    fn of(&mut self, side: Side) -> &mut Rounds {
        match side {
            Side::Plain => &mut self.plain,
            Side::Ours => &mut self.ours,
        }
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
    let (mut start, mut memory, mut cpu) = (Sides::default(), Sides::default(), Sides::default());
    for round in 0..args.stored.rounds {
        for side in order(round) {
            announce(&format!("{side:?}, round {}", round + 1));
            let scratch = Scratch::create(&parent)?;
            if side == Side::Ours {
                // Anew each time: a server that has ended leaves nothing in the write-ahead log.
                fill(&scratch.path().join("data"), args).await?;
            }
            block_in_place(|| -> anyhow::Result<()> {
                start.of(side).push(start_seconds(scratch.path(), args)?);
                let idle = Scratch::create(&parent)?;
                let pipelines = match side {
                    Side::Plain => 0,
                    Side::Ours => args.pipelines,
                };
                let (mib, percent) = idle_costs(idle.path(), pipelines, args, &component)?;
                memory.of(side).push(mib);
                cpu.of(side).push(percent);
                Ok(())
            })?;
        }
    }
    let settings = json!({
        "file_system": super::environment::file_system_of(&parent),
        "data_bytes": args.data_bytes,
        "pipelines": args.pipelines,
        "idle_seconds": args.idle_seconds,
        "durability": args.stored.durability.to_string(),
        "rounds": args.stored.rounds,
    });
    let mut report = Report::new("server", settings);
    if args.data_bytes >= GB {
        let what = "seconds until a server with 1 GB is ready";
        report.bound(Bound::at_most(what, start.ours.median(), MAX_START_S));
    }
    if args.pipelines >= BOUNDED_PIPELINES {
        let what = "memory of an idle server with 100 pipelines, MiB";
        report.bound(Bound::at_most(what, memory.ours.median(), MAX_IDLE_MIB));
        let what = "CPU of an idle server with 100 pipelines, % of a core";
        report.bound(Bound::at_most(
            what,
            cpu.ours.median(),
            MAX_IDLE_CPU_PERCENT,
        ));
    }
    let data = format!("start with {} MB of data", args.data_bytes / 1_000_000);
    let idle = |what: &str| format!("{what}, idle, {} pipelines", args.pipelines);
    let cases = [
        Case::new(data, "s", &start.plain, &start.ours),
        Case::new(idle("memory"), "MiB", &memory.plain, &memory.ours),
        Case::new(idle("CPU"), "% of a core", &cpu.plain, &cpu.ours),
    ];
    report.add("server", "`millstream serve`, without and with", &cases)?;
    report.note(
        "A start is from the process's first moment until /readyz says yes, with the write-ahead log of the last writes \
         to be read; the files may be in the page cache.",
    );
    Ok(report)
}

/// Fills a data directory, and closes it.
async fn fill(path: &Path, args: &Args) -> anyhow::Result<()> {
    const VALUE_BYTES: usize = 100;
    let log = Log::open(block_in_place(|| Store::open(path, args.stored.options()))?)?;
    let config = TopicConfig {
        partitions: 16,
        retention_ms: None,
        ..TopicConfig::default()
    };
    let topic = log.create_topic(&"events".parse()?, config).await?;
    let mut source = Records::new(VALUE_BYTES, 1);
    let mut producer = Producer::new(log.clone(), topic);
    let mut written = 0;
    while written < args.data_bytes {
        let (key, value) = source.next();
        written += (key.len() + value.len()) as u64;
        producer
            .send(None, 1, Some(key), Some(value), HeadersRef::EMPTY)
            .await?;
    }
    producer.flush().await?;
    block_in_place(|| drop((producer, log)));
    Ok(())
}

fn start_seconds(folder: &Path, args: &Args) -> anyhow::Result<f64> {
    let began = Instant::now();
    let server = Server::start(&folder.join("data"), args.stored.durability)?;
    server.send("GET", "/readyz", "text/plain", b"")?;
    let seconds = began.elapsed().as_secs_f64();
    server.stop()?;
    Ok(seconds)
}

/// Memory in MiB and CPU in percent of a core of a server with so many pipelines that have nothing to do.
fn idle_costs(
    folder: &Path,
    pipelines: u32,
    args: &Args,
    component: &[u8],
) -> anyhow::Result<(f64, f64)> {
    let server = Server::start(&folder.join("data"), args.stored.durability)?;
    if pipelines > 0 {
        let path = "/v1/plugins/passthrough/versions";
        server.send("POST", path, "application/wasm", component)?;
        let manifest = manifest(pipelines);
        server.send(
            "POST",
            "/v1/manifests",
            "application/toml",
            manifest.as_bytes(),
        )?;
    }
    thread::sleep(SETTLING);
    let id = server.process_id();
    let (before, began) = (process::cpu_time_of(id), Instant::now());
    thread::sleep(Duration::from_secs(args.idle_seconds));
    let cpu = process::cpu_time_of(id).saturating_sub(before);
    let percent = cpu.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let mib = process::memory_bytes_of(id) as f64 / f64::from(1 << 20);
    server.stop()?;
    Ok((mib, percent))
}

fn manifest(pipelines: u32) -> String {
    let mut text = "name = \"bench\"\n[topics.in]\npartitions = 1\n[topics.out]\npartitions = 1\n\
        [plugins.passthrough]\n"
        .to_owned();
    for number in 0..pipelines {
        text += &format!(
            "[pipelines.idle-{number}]\nfrom = \"topic:in\"\nplugin = \"passthrough\"\nto = \"topic:out\"\n"
        );
    }
    text
}
