//! Runs two ways of processing the same batches in turns.

use std::time::{Duration, Instant};

use crate::bench::latency::{Latency, LatencyRecorder};
use crate::bench::rounds::{Rounds, Side, order};
use crate::plugin::Columns;

/// Shortest and longest stretch of single calls that are timed for the latencies.
const LATENCY_CALLS: (u32, u32) = (1_000, 20_000);

/// What a side does with a batch. What it makes must not be optimised away.
pub(super) type Process<'a> = &'a mut dyn FnMut(&Columns) -> anyhow::Result<()>;

/// One side's figures.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// ns for a record, one figure a round.
    pub(super) ns_per_record: Rounds,
    /// One call, that is one batch.
    pub(super) latency: Latency,
}

/// The figures of both.
#[derive(Debug, Clone)]
pub(super) struct Outcomes {
    pub(super) ours: Outcome,
    pub(super) plain: Outcome,
}

struct Contender<'a> {
    process: Process<'a>,
    /// Passes over the batches in a round.
    passes: u32,
    ns_per_record: Rounds,
}

/// Lets both sides process `batches` again and again, for `round` in each of `rounds` rounds.
///
/// Throughput is timed over whole rounds, since the clock itself costs as much as a small batch;
/// the latencies of single calls are taken afterwards.
pub(super) fn run(
    batches: &[Columns],
    rounds: u32,
    round: Duration,
    ours: Process<'_>,
    plain: Process<'_>,
) -> anyhow::Result<Outcomes> {
    let records: usize = batches.iter().map(Columns::len).sum();
    let mut ours = Contender::warm_up(ours, batches, round)?;
    let mut plain = Contender::warm_up(plain, batches, round)?;
    for number in 0..rounds {
        for side in order(number) {
            match side {
                Side::Ours => ours.run_round(batches, records)?,
                Side::Plain => plain.run_round(batches, records)?,
            }
        }
    }
    Ok(Outcomes {
        ours: ours.finish(batches, round)?,
        plain: plain.finish(batches, round)?,
    })
}

impl<'a> Contender<'a> {
    /// Runs for a while, and so finds out how many passes fill a round.
    fn warm_up(process: Process<'a>, batches: &[Columns], round: Duration) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut passes = 0;
        while start.elapsed() < round {
            for batch in batches {
                process(batch)?;
            }
            passes += 1;
        }
        let taken = start.elapsed().as_secs_f64();
        let passes = (f64::from(passes) * round.as_secs_f64() / taken).round() as u32;
        Ok(Self {
            process,
            passes: passes.max(1),
            ns_per_record: Rounds::default(),
        })
    }

    fn run_round(&mut self, batches: &[Columns], records: usize) -> anyhow::Result<()> {
        let start = Instant::now();
        for _ in 0..self.passes {
            for batch in batches {
                (self.process)(batch)?;
            }
        }
        let records = records as f64 * f64::from(self.passes);
        self.ns_per_record
            .push(start.elapsed().as_secs_f64() * 1e9 / records.max(1.0));
        Ok(())
    }

    fn finish(self, batches: &[Columns], round: Duration) -> anyhow::Result<Outcome> {
        let (least, most) = LATENCY_CALLS;
        let mut recorder = LatencyRecorder::new()?;
        let begin = Instant::now();
        for (count, batch) in (0..most).zip(batches.iter().cycle()) {
            if count >= least && begin.elapsed() > round {
                break;
            }
            let start = Instant::now();
            (self.process)(batch)?;
            recorder.record(start.elapsed());
        }
        Ok(Outcome {
            ns_per_record: self.ns_per_record,
            latency: recorder.summary(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plugin::input;

    #[test]
    fn both_sides_run_and_a_failure_ends_it() {
        let batches = input::synthetic(20, 8, 3);
        let (mut ours_calls, mut plain_calls) = (0, 0);
        let outcomes = run(
            &batches,
            3,
            Duration::from_millis(1),
            &mut |_| {
                ours_calls += 1;
                Ok(())
            },
            &mut |_| {
                plain_calls += 1;
                Ok(())
            },
        );
        let outcomes = outcomes.unwrap();
        assert!(ours_calls >= 1_000 && plain_calls >= 1_000);
        assert!(outcomes.ours.latency.count >= 1_000);
        let failed = run(
            &batches,
            1,
            Duration::from_millis(1),
            &mut |_| Err(anyhow::anyhow!("a fault")),
            &mut |_| Ok(()),
        );
        assert_eq!(failed.unwrap_err().to_string(), "a fault");
    }
}
