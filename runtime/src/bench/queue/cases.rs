//! Few and many messages waiting, and the plain side.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;

use super::Args;
use super::load::{Subject, taking};
use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::report::{Figures, rate};
use crate::bench::rounds::{Rounds, Side, order};
use crate::bench::scratch::Scratch;
use crate::storage::{Durability, PlainQueue};

/// Turns in which leasing and acknowledging is measured, at most.
const TURNS: u64 = 40;

/// The figures of one case.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    pub(super) waiting: u64,
    pub(super) batch: usize,
    pub(super) durability: String,
    pub(super) messages_per_s: f64,
    plain_messages_per_s: f64,
    ratio: f64,
    rounds: Rounds,
    plain_rounds: Rounds,
    /// Of leasing and acknowledging a batch, while several workers do.
    cost: Latency,
    latency: Latency,
    /// The median cost in parts of that with the fewest waiting.
    pub(super) cost_ratio: Option<f64>,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "waiting",
        "batch",
        "durability",
        "plain messages/s",
        "messages/s",
        "ratio",
        "lease + acknowledge: µs a batch",
        "in parts of the first",
        "its latency: p50 / p99 / p99.9 / max",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.waiting.to_string(),
            self.batch.to_string(),
            self.durability.clone(),
            self.plain_rounds.cell(rate),
            self.rounds.cell(rate),
            format!("{:.2}", self.ratio),
            format!("{:.1}", self.cost.p50_us),
            self.cost_ratio
                .map_or_else(|| "1".to_owned(), |ratio| format!("{ratio:.2}")),
            self.latency.cell(),
        ]
    }
}

/// What is measured of one number of waiting messages.
struct Waiting {
    count: u64,
    ours: Rounds,
    plain: Rounds,
    cost: LatencyRecorder,
    latency: LatencyRecorder,
}

/// Runs the cases of a batch size and a durability.
pub(super) async fn run(
    args: &Args,
    parent: &Path,
    batch: usize,
    durability: Durability,
) -> anyhow::Result<Vec<Case>> {
    let mut measured = Vec::new();
    for &count in &args.waiting {
        measured.push(Waiting {
            count,
            ours: Rounds::default(),
            plain: Rounds::default(),
            cost: LatencyRecorder::new()?,
            latency: LatencyRecorder::new()?,
        });
    }
    let (messages, value) = (
        args.messages(batch, durability),
        vec![b'x'; args.value_bytes],
    );
    for round in 0..args.rounds() {
        let mut open = Vec::new();
        for waiting in &mut measured {
            for side in order(round) {
                let scratch = Scratch::create(parent)?;
                let path = scratch.path();
                match side {
                    Side::Plain => {
                        let sync = durability == Durability::Sync;
                        let per_s = tokio::task::block_in_place(|| {
                            plain(path, sync, waiting.count, messages, batch, &value)
                        })?;
                        waiting.plain.push(per_s);
                    }
                    Side::Ours => {
                        let subject = Subject::open(path, durability).await?;
                        subject.preload(waiting.count, &value).await?;
                        let through = subject.through(messages, batch, args.workers, &value);
                        let per_s = messages as f64 / through.await?.as_secs_f64();
                        waiting.ours.push(per_s);
                        open.push((subject, scratch));
                    }
                }
            }
        }
        let turns = (messages / batch as u64 / 100).clamp(2, TURNS);
        let subjects: Vec<_> = open.iter().map(|(subject, _)| subject).collect();
        let taken = taking(&subjects, turns, batch, args.workers, &value).await?;
        for (waiting, taking) in measured.iter_mut().zip(&taken) {
            waiting.cost.add(&taking.cost)?;
            waiting.latency.add(&taking.latency)?;
        }
        for (subject, _scratch) in open {
            subject.close();
        }
    }
    Ok(figures(measured, batch, durability))
}

fn figures(measured: Vec<Waiting>, batch: usize, durability: Durability) -> Vec<Case> {
    let first_us = measured.first().map(|first| first.cost.summary().p50_us);
    let cases = measured.into_iter().enumerate().map(|(at, waiting)| {
        let cost = waiting.cost.summary();
        Case {
            waiting: waiting.count,
            batch,
            durability: durability.to_string(),
            messages_per_s: waiting.ours.median(),
            plain_messages_per_s: waiting.plain.median(),
            ratio: waiting.ours.ratio_to(&waiting.plain),
            rounds: waiting.ours,
            plain_rounds: waiting.plain,
            cost,
            latency: waiting.latency.summary(),
            cost_ratio: first_us.filter(|_| at > 0).map(|first| cost.p50_us / first),
        }
    });
    cases.collect()
}

/// Messages a second of the plain side.
fn plain(
    path: &Path,
    sync: bool,
    waiting: u64,
    messages: u64,
    batch: usize,
    value: &[u8],
) -> anyhow::Result<f64> {
    let mut queue = PlainQueue::open(path, sync)?;
    let mut left = waiting;
    while left > 0 {
        let now = left.min(10_000);
        queue.put(value, now)?;
        left -= now;
    }
    let turns = (messages / batch as u64).max(1);
    let begin = Instant::now();
    for _ in 0..turns {
        queue.put(value, batch as u64)?;
        let taken = queue.take(batch as u64)?;
        ensure!(
            taken == batch as u64,
            "{taken} of {batch} messages were there"
        );
    }
    Ok((turns * batch as u64) as f64 / begin.elapsed().as_secs_f64())
}
