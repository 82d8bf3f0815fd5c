//! `bench queue`: enqueue, lease and acknowledge, with few and many messages waiting, and after many
//! have passed through; against a plain put and delete in RocksDB.
//!
//! The plain side writes one key for each message and deletes it, from one thread, and remembers where
//! the first message is; it knows no leases, no delivery counts and no redelivery. A lease of ours is
//! a commit, too: that a message is delivered is stored before it is handed out.

mod cases;
mod history;
mod load;

use std::path::PathBuf;

use serde_json::json;

use super::report::{Bound, Report};
use super::{CommonArgs, announce, scratch, warn_of_debug_build};
use crate::storage::Durability;

/// Arguments of `bench queue`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// A short run: a tenth of the messages, three rounds
    #[arg(long)]
    quick: bool,
    /// Folder for the data, on a disk; default: the system's for temporary files
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Messages that wait while it is measured: the few and the many
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [10_000, 1_000_000])]
    waiting: Vec<u64>,
    /// Messages that are enqueued, leased and acknowledged together, one or several
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 10, 100])]
    batch: Vec<usize>,
    /// Durabilities, one or several
    #[arg(long, value_name = "D,…", value_delimiter = ',', default_values_t = [Durability::Os, Durability::Sync])]
    durability: Vec<Durability>,
    /// Bytes of a message's value
    #[arg(long, value_name = "N", default_value_t = 100)]
    value_bytes: usize,
    /// Messages that go through in a round, in batches of 100; a fifth in batches of 10, a twentieth one
    /// by one; a twentieth of it under `sync`
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    messages: u64,
    /// How many workers enqueue, lease and acknowledge at the same time
    #[arg(long, value_name = "N", default_value_t = 4)]
    workers: usize,
    /// Millions of messages that pass through a queue which is compared with a fresh one; 0 leaves the
    /// comparison out
    #[arg(long, value_name = "N", default_value_t = 10)]
    history_millions: u64,
    /// Rounds of each comparison
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

impl Args {
    fn rounds(&self) -> u32 {
        if self.quick {
            self.rounds.min(3)
        } else {
            self.rounds
        }
    }

    fn messages(&self, batch: usize, durability: Durability) -> u64 {
        let part = match batch {
            0..=4 => 20,
            5..=49 => 5,
            _ => 1,
        };
        let part = part * if self.quick { 10 } else { 1 };
        let part = part
            * if durability == Durability::Sync {
                20
            } else {
                1
            };
        (self.messages / part).max(batch as u64 * 20)
    }
}

/// Runs the benchmark.
pub(super) async fn run(args: &Args) -> anyhow::Result<Report> {
    warn_of_debug_build();
    let parent = scratch::parent(args.dir.as_deref())?;
    let mut report = Report::new(
        "queue",
        json!({
            "file_system": super::environment::file_system_of(&parent),
            "waiting": args.waiting,
            "value_bytes": args.value_bytes,
            "messages": args.messages,
            "workers": args.workers,
            "quick": args.quick,
            "rounds": args.rounds(),
            "history_millions": args.history_millions,
        }),
    );
    let mut cases = Vec::new();
    for &durability in &args.durability {
        for &batch in &args.batch {
            announce(&format!("queue: batches of {batch}, {durability}"));
            cases.extend(cases::run(args, &parent, batch, durability).await?);
        }
    }
    add_bounds(&cases, &mut report);
    report.add("through", "Enqueue, lease and acknowledge", &cases)?;
    if args.history_millions > 0 {
        let millions = args.history_millions;
        announce(&format!("queue: {millions} million messages pass through"));
        let history = history::run(args, &parent).await?;
        report.bound(Bound::at_most(
            format!(
                "lease and acknowledge after {millions} million messages, in parts of a fresh queue"
            ),
            history.ratio,
            1.3,
        ));
        report.add("history", "Lease and acknowledge 100, os", &[history])?;
    }
    report.note(format!(
        "Messages/s: {} workers, each of which enqueues a batch, leases one and acknowledges it. Leasing \
         and acknowledging is measured with as many workers and without enqueuing, few and many waiting in \
         turns. Plain: \
         one thread that puts a key for each message, reads the first ones and deletes them.",
        args.workers
    ));
    Ok(report)
}

/// Under `sync` it is the disk that is measured, which is shared on many machines: no bound there.
fn add_bounds(cases: &[cases::Case], report: &mut Report) {
    for case in cases
        .iter()
        .filter(|case| case.batch == 100 && case.durability == "os")
    {
        match case.cost_ratio {
            None => report.bound(Bound::at_least(
                "messages/s, batches of 100, os",
                case.messages_per_s,
                800_000.0,
            )),
            Some(ratio) => report.bound(Bound::at_most(
                format!(
                    "lease and acknowledge 100 with {} waiting, in parts of the fewest, os",
                    case.waiting
                ),
                ratio,
                1.3,
            )),
        }
    }
}
