//! `bench http`: producing and consuming over HTTP, against a server that does nothing with what it is sent.
//!
//! The server is `millstream serve`, a process of its own with a data directory of its own; the clients are
//! threads of this process, each with one connection. The plain side is the same clients with a server that
//! counts the lines of a request, and answers a fetch with lines that it has ready: what HTTP itself and the
//! clients take.

mod clients;
mod plain;

use anyhow::ensure;
use serde::Serialize;
use serde_json::json;

use self::clients::{Batches, TOPIC, consume, produce};
use self::plain::Plain;
use super::latency::{Latency, LatencyRecorder};
use super::report::{Bound, Figures, Report, rate};
use super::rounds::{Rounds, Side, order};
use super::scratch::Scratch;
use super::serve::Server;
use super::stored::StoredArgs;
use super::{CommonArgs, announce, warn_of_debug_build};

/// Records of 100 B a second that a client on the same machine is to produce, and to consume.
const LEAST_RECORDS_PER_S: f64 = 300_000.0;

/// The header of an answer that says at which offsets to go on.
const NEXT_OFFSETS: &str = "millstream-next-offsets";

/// Arguments of `bench http`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Records of a round
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Records of a request, and at most of an answer
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,
    /// Bytes of a value; keys, of which there are 10,000, have 16 more
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    /// Connections, and partitions: a consumer reads one
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
    #[command(flatten)]
    stored: StoredArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// One direction.
#[derive(Debug, Serialize)]
struct Case {
    direction: &'static str,
    plain_records_per_s: f64,
    records_per_s: f64,
    ratio: f64,
    plain_rounds: Rounds,
    rounds: Rounds,
    /// Of a request.
    latency: Latency,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "",
        "plain records/s",
        "records/s",
        "ratio",
        "request p50 / p99 / p99.9 / max",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.direction.to_owned(),
            self.plain_rounds.cell(rate),
            self.rounds.cell(rate),
            format!("{:.2}", self.ratio),
            self.latency.cell(),
        ]
    }
}

/// The rounds of one direction.
struct Measured {
    plain: Rounds,
    ours: Rounds,
    latencies: LatencyRecorder,
}

impl Measured {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            plain: Rounds::default(),
            ours: Rounds::default(),
            latencies: LatencyRecorder::new()?,
        })
    }

    fn add(&mut self, side: Side, round: &clients::Round) -> anyhow::Result<()> {
        match side {
            Side::Plain => self.plain.push(round.records_per_s()),
            Side::Ours => {
                self.ours.push(round.records_per_s());
                self.latencies.add(&round.latencies)?;
            }
        }
        Ok(())
    }

    fn case(&self, direction: &'static str) -> Case {
        Case {
            direction,
            plain_records_per_s: self.plain.median(),
            records_per_s: self.ours.median(),
            ratio: self.ours.ratio_to(&self.plain),
            plain_rounds: self.plain.clone(),
            rounds: self.ours.clone(),
            latency: self.latencies.summary(),
        }
    }
}

/// Runs the benchmark.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    let parent = args.stored.parent()?;
    let batches = Batches::new(args.records, args.batch, args.value_bytes, args.connections);
    let plain = Plain::start(&batches).await?;
    let (mut produced, mut consumed) = (Measured::new()?, Measured::new()?);
    for round in 0..args.stored.rounds {
        for side in order(round) {
            announce(&format!("{side:?}, round {}", round + 1));
            let scratch = Scratch::create(&parent)?;
            let both = tokio::task::block_in_place(|| -> anyhow::Result<_> {
                let server = match side {
                    Side::Plain => None,
                    Side::Ours => {
                        let data = scratch.path().join("data");
                        let server = Server::start(&data, args.stored.durability)?;
                        let topic = json!({ "name": TOPIC, "partitions": args.connections });
                        let topic = topic.to_string();
                        let path = "/v1/topics";
                        server.send("POST", path, "application/json", topic.as_bytes())?;
                        Some(server)
                    }
                };
                let url = server.as_ref().map_or(plain.url(), Server::url);
                let sent = produce(url, &batches)?;
                let received = consume(url, &batches)?;
                if let Some(server) = server {
                    server.stop()?;
                }
                Ok((sent, received))
            });
            let (sent, received) = both?;
            ensure!(
                sent.records == batches.record_count() && received.records == sent.records,
                "{} records were sent, {} acknowledged and {} received",
                batches.record_count(),
                sent.records,
                received.records
            );
            produced.add(side, &sent)?;
            consumed.add(side, &received)?;
        }
    }
    let settings = json!({
        "file_system": super::environment::file_system_of(&parent),
        "records": batches.record_count(),
        "batch": args.batch,
        "value_bytes": args.value_bytes,
        "connections": args.connections,
        "durability": args.stored.durability.to_string(),
        "rounds": args.stored.rounds,
    });
    let mut report = Report::new("http", settings);
    if args.value_bytes == 100 {
        for (what, measured) in [("produced", &produced), ("consumed", &consumed)] {
            let what = format!("records of 100 B {what} a second over HTTP");
            let median = measured.ours.median();
            report.bound(Bound::at_least(what, median, LEAST_RECORDS_PER_S));
        }
    }
    let cases = [produced.case("produce"), consumed.case("consume")];
    report.add("http", "JSON lines over HTTP/1.1", &cases)?;
    report.note(format!(
        "{} records a request, {} B each and a key of 16 B, {} connections of a client on the same machine, \
         durability {}. A request is answered when its records are stored.",
        args.batch, args.value_bytes, args.connections, args.stored.durability
    ));
    Ok(report)
}
