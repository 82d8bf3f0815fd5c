//! `bench poison`: what records that fail cost those that do not.
//!
//! Topic → plugin → topic, exactly once, with the plugin `testing-flaky`, which fails a record as often
//! as its value says. The same pipeline on the same number of records without a failure is the other
//! side, in turns. The time counts until every record has its outcome, the last retry included.
//!
//! And what a key that fails all the time does to the latency of the others (`hot_key.rs`).

mod hot_key;
mod run;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::plugin::compiled_component;
use super::report::{Bound, Figures, Report, rate};
use super::rounds::Rounds;
use super::stored::StoredArgs;
use super::{CommonArgs, announce, warn_of_debug_build};
use crate::plugin::PluginEngine;

/// Arguments of `bench poison`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folder of the components, in which testing_flaky.wasm is
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Component of the plugin `testing-flaky`
    #[arg(long, value_name = "FILE")]
    flaky: Option<PathBuf>,
    /// Records in the input topic
    ///
    /// A case has fewer if that many would be more than 500 that trap, or 500 that its partition waits for.
    #[arg(long, value_name = "N", default_value_t = 500_000)]
    records: u64,
    /// Bytes of a value; keys, of which there are 10,000, have 16 more
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    /// Partitions of both topics
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// Who waits for a record that is tried again, one or several
    #[arg(long, value_name = "ORDER,…", value_delimiter = ',', default_values = ["key", "partition", "none"])]
    order: Vec<String>,
    /// What is measured, one or both
    #[arg(long, value_name = "PART,…", value_delimiter = ',', value_enum, default_values_t = [Part::Mixes, Part::HotKey])]
    part: Vec<Part>,
    #[command(flatten)]
    hot_key: hot_key::HotKeyArgs,
    #[command(flatten)]
    stored: StoredArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Most records of a run that trap, or that a whole partition waits for: each takes some ms, whatever else
/// there is, so that more of them make the run longer and the figure no better.
const MAX_COSTLY_RECORDS: u64 = 500;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The throughput with some records that fail.
    Mixes,
    /// The latency of the others when one key fails all the time.
    HotKey,
}

/// Which records fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    /// One in so many traps whenever it is tried.
    Traps(u64),
    /// One in so many asks for another attempt, once.
    Retries(u64),
}

impl Trouble {
    const ALL: [Trouble; 4] = [
        Trouble::Nothing,
        Trouble::Traps(1000),
        Trouble::Traps(100),
        Trouble::Retries(100),
    ];

    /// How many records a run has, of which at most `records` are wanted.
    fn records(self, records: u64, order: &str) -> u64 {
        match self {
            Self::Traps(every) => records.min(every * MAX_COSTLY_RECORDS),
            Self::Retries(every) if order == "partition" => records.min(every * MAX_COSTLY_RECORDS),
            Self::Nothing | Self::Retries(_) => records,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Traps(1000) => "0.1 % trap",
            Self::Traps(_) => "1 % trap",
            Self::Retries(_) => "1 % retry once",
        }
    }
}

/// One mix of records under one order.
#[derive(Debug, Serialize)]
struct Case {
    order: String,
    trouble: &'static str,
    records: u64,
    records_per_s: f64,
    rounds: Rounds,
    /// In parts of the same without a failure.
    ratio: f64,
    retries: u64,
    dead_letters: u64,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "order",
        "failing",
        "records",
        "records/s",
        "in parts of none",
        "retries",
        "dead letters",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.order.clone(),
            self.trouble.to_owned(),
            self.records.to_string(),
            self.rounds.cell(rate),
            format!("{:.2}", self.ratio),
            self.retries.to_string(),
            self.dead_letters.to_string(),
        ]
    }
}

/// Runs the benchmark.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    let parent = args.stored.parent()?;
    let (component, engine) = compiled_component(
        "testing_flaky",
        args.flaky.as_deref(),
        args.plugins.as_deref(),
    )?;
    let settings = json!({
        "file_system": super::environment::file_system_of(&parent),
        "records": args.records,
        "value_bytes": args.value_bytes,
        "partitions": args.partitions,
        "durability": args.stored.durability.to_string(),
        "rounds": args.stored.rounds,
    });
    let mut report = Report::new("poison", settings);
    if args.part.contains(&Part::Mixes) {
        run_mixes(args, &parent, &component, &engine, &mut report).await?;
    }
    if args.part.contains(&Part::HotKey) {
        hot_key::run(args, &parent, &component, &engine, &mut report).await?;
    }
    Ok(report)
}

/// Measures the throughput of each mix under each order.
async fn run_mixes(
    args: &Args,
    parent: &Path,
    component: &Path,
    engine: &PluginEngine,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut cases = Vec::new();
    for order in &args.order {
        let setup = run::Setup {
            args,
            order,
            parent,
            component,
            engine,
        };
        let mut measured = Trouble::ALL.map(|_| run::Totals::default());
        for round in 1..=args.stored.rounds {
            for (trouble, totals) in Trouble::ALL.into_iter().zip(&mut measured) {
                announce(&format!("order {order}, {}, round {round}", trouble.name()));
                setup.run(trouble, totals).await?;
            }
        }
        let plain = measured.first().map(|totals| totals.rounds.clone());
        for (trouble, totals) in Trouble::ALL.into_iter().zip(measured) {
            let ratio = plain.as_ref().map(|plain| totals.rounds.ratio_to(plain));
            cases.push(Case {
                order: order.clone(),
                trouble: trouble.name(),
                records: trouble.records(args.records, order),
                records_per_s: totals.rounds.median(),
                ratio: ratio.unwrap_or_default(),
                retries: totals.retries,
                dead_letters: totals.dead_letters,
                rounds: totals.rounds,
            });
        }
    }
    add_bounds(&cases, report);
    report.add("poison", "Topic → flaky → topic, exactly once", &cases)?;
    report.note(format!(
        "Records of {} B, 10,000 keys, {} partitions, durability {}; retry.initial 10 ms, max-attempts 2. \
         What traps is tried twice and becomes a dead letter.",
        args.value_bytes, args.partitions, args.stored.durability
    ));
    Ok(())
}

fn add_bounds(cases: &[Case], report: &mut Report) {
    let bounds = [
        (Trouble::Retries(100), 0.7, "1 % retryable"),
        (Trouble::Traps(1000), 0.3, "0.1 % trapping"),
    ];
    for case in cases.iter().filter(|case| case.order == "key") {
        for (trouble, least, what) in bounds {
            if case.trouble == trouble.name() {
                let what = format!("{what}, order key: in parts of none");
                report.bound(Bound::at_least(what, case.ratio, least));
            }
        }
    }
}
