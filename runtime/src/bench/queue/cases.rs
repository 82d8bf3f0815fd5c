//! Few and many messages waiting, and the plain side.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;

use super::Args;
use super::load::Subject;
use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::report::{Figures, rate};
use crate::bench::rounds::{Rounds, Side, order};
use crate::bench::scratch::Scratch;
use crate::storage::{Durability, PlainQueue};

/// Turns of the latency's measurement, at most.
const LATENCY_TURNS: u64 = 2_000;

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
    latency: Latency,
    /// The median latency in parts of that with the fewest waiting.
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
        "lease + acknowledge: p50 / p99 / p99.9 / max",
        "p50 in parts of the first",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.waiting.to_string(),
            self.batch.to_string(),
            self.durability.clone(),
            self.plain_rounds.cell(rate),
            self.rounds.cell(rate),
            format!("{:.2}", self.ratio),
            self.latency.cell(),
            self.cost_ratio
                .map_or_else(|| "1".to_owned(), |ratio| format!("{ratio:.2}")),
        ]
    }
}

/// What is measured of one number of waiting messages.
struct Waiting {
    count: u64,
    ours: Rounds,
    plain: Rounds,
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
            latency: LatencyRecorder::new()?,
        });
    }
    let (messages, value) = (
        args.messages(batch, durability),
        vec![b'x'; args.value_bytes],
    );
    for round in 0..args.rounds() {
        for waiting in &mut measured {
            for side in order(round) {
                let scratch = Scratch::create(parent)?;
                match side {
                    Side::Plain => {
                        let sync = durability == Durability::Sync;
                        let path = scratch.path();
                        let per_s = tokio::task::block_in_place(|| {
                            plain(path, sync, waiting.count, messages, batch, &value)
                        })?;
                        waiting.plain.push(per_s);
                    }
                    Side::Ours => {
                        let subject = Subject::open(scratch.path(), durability).await?;
                        subject.preload(waiting.count, &value).await?;
                        let taken = subject
                            .through(messages, batch, args.workers, &value)
                            .await?;
                        waiting.ours.push(messages as f64 / taken.as_secs_f64());
                        let turns = (messages / batch as u64).min(LATENCY_TURNS);
                        subject
                            .latency(turns, batch, &value, &mut waiting.latency)
                            .await?;
                        subject.close();
                    }
                }
            }
        }
    }
    let first_p50_us = measured.first().map(|first| first.latency.summary().p50_us);
    let cases = measured.into_iter().enumerate().map(|(at, waiting)| {
        let latency = waiting.latency.summary();
        Case {
            waiting: waiting.count,
            batch,
            durability: durability.to_string(),
            messages_per_s: waiting.ours.median(),
            plain_messages_per_s: waiting.plain.median(),
            ratio: waiting.ours.ratio_to(&waiting.plain),
            rounds: waiting.ours,
            plain_rounds: waiting.plain,
            latency,
            cost_ratio: first_p50_us
                .filter(|_| at > 0)
                .map(|first| latency.p50_us / first),
        }
    });
    Ok(cases.collect())
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
