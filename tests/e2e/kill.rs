//! SIGKILL at random moments of a run: the results are those of a run without.
//!
//! A kill counts as one in the middle of a run if the run had committed some progress and had not
//! finished; each test goes on until it has its number of those, and together they are 30 at least.
//! Kills at other moments (while the process starts, say) happen as well and must do no harm either.
//!
//! What these checks catch was tried by breaking the engine by hand, one break at a time. The
//! counting runs fail when the group's offset is committed apart from the outputs (records are
//! counted twice, or missing), when the state is, when a checkpoint does not write its changelog,
//! when folding the changelog leaves out the folded values (counts start again at 1), and when a
//! partition's new end is not stored with its batches (records are overwritten).

use crate::flights;
use crate::support::counting::{self, Workload};
use crate::support::records::assert_dense;
use crate::support::{Random, Sandbox, note};

/// Kills in the middle of a run, per test.
const COUNTING_OS_KILLS: u32 = 14;
const COUNTING_SYNC_KILLS: u32 = 10;
const FLIGHTS_KILLS: u32 = 8;
const _: () = assert!(COUNTING_OS_KILLS + COUNTING_SYNC_KILLS + FLIGHTS_KILLS >= 30);

/// Kills of any kind, per kill in the middle of a run, after which a test gives up.
const MAX_ATTEMPTS: u32 = 12;
/// The longest time before a kill, at first; it grows when one comes too early, and shrinks when
/// one comes too late.
const FIRST_WINDOW_MS: u64 = 400;

/// Kills runs of a pipeline of the sandbox's manifest.
struct Killer<'a> {
    sandbox: &'a Sandbox,
    pipeline: &'a str,
    random: Random,
    window_ms: u64,
    /// Records that wait.
    lag_records: u64,
    attempts: u32,
}

impl<'a> Killer<'a> {
    fn new(sandbox: &'a Sandbox, pipeline: &'a str) -> Self {
        Self {
            sandbox,
            pipeline,
            random: Random::from_environment(),
            window_ms: FIRST_WINDOW_MS,
            lag_records: u64::MAX,
            attempts: 0,
        }
    }

    /// Records of the pipeline's inputs that it has not processed.
    fn measure_lag(&mut self) -> u64 {
        let description = self.sandbox.json(&["pipeline", "describe", self.pipeline]);
        self.lag_records = description["lag_records"].as_u64().unwrap();
        self.lag_records
    }

    /// Starts a run and kills it; returns whether that was in the middle.
    fn kill_a_run(&mut self) -> bool {
        self.attempts += 1;
        let before = self.measure_lag();
        let run = self.sandbox.start(&["run", "millstream.toml"]);
        let after = self.random.within_ms(0..self.window_ms);
        std::thread::sleep(after);
        let (was_killed, finished) = run.kill();
        assert!(
            was_killed,
            "the run ended by itself:\n{}\n{}",
            finished.stdout, finished.stderr
        );
        let left = self.measure_lag();
        if left == 0 {
            self.window_ms -= self.window_ms / 5;
        } else if left == before {
            self.window_ms += self.window_ms / 5;
        }
        note(format_args!(
            "kill {} after {after:?}: lag {before} -> {left}",
            self.attempts
        ));
        0 < left && left < before
    }
}

fn kill_counting_runs(durability: &'static str, seed: u64, kills: u32, refill: u64) {
    let sandbox = Sandbox::with_durability(durability);
    sandbox.manifest(counting::MANIFEST);
    // Compiles the plugins, so that the runs to come start fast.
    sandbox.run_until_idle();
    let mut workload = Workload::new(seed);
    workload.produce(&sandbox, refill);
    let mut killer = Killer::new(&sandbox, "count");
    let mut landed = 0;
    while landed < kills {
        assert!(
            killer.attempts < kills * MAX_ATTEMPTS,
            "only {landed} of {} kills came in the middle of a run",
            killer.attempts
        );
        if killer.lag_records < refill / 2 {
            workload.produce(&sandbox, refill);
        }
        landed += u32::from(killer.kill_a_run());
    }
    sandbox.run_until_idle();
    note(format_args!("{} records", workload.total()));
    workload.assert_counted_once(&sandbox);
    assert_eq!(killer.measure_lag(), 0);
}

#[test]
fn runs_killed_under_durability_os_count_every_record_once() {
    kill_counting_runs("os", 1, COUNTING_OS_KILLS, 20_000);
}

#[test]
fn runs_killed_under_durability_sync_count_every_record_once() {
    kill_counting_runs("sync", 2, COUNTING_SYNC_KILLS, 10_000);
}

/// The example's pipeline with small batches, and an output of which nothing is compacted away.
const FLIGHTS: &str = r#"
name = "flights"

[topics.flights]
partitions = 4

[topics.carrier-stats]

[plugins.carrier-delays]
path = "{carrier-delays}"

[pipelines.carrier-delays]
from = "topic:flights"
plugin = "carrier-delays"
to = { stats = "topic:carrier-stats" }
batch = { max-records = 16, max-wait = "0s" }
limits = { deadline = "30s" }
"#;

#[test]
fn flights_give_the_same_table_after_kills() {
    let mut landed = 0;
    // On a fast machine the flights may be through before all kills have come: then once more.
    while landed < FLIGHTS_KILLS {
        let sandbox = Sandbox::new();
        sandbox.manifest(FLIGHTS);
        sandbox.run_until_idle();
        flights::produce_flights(&sandbox, "millstream.toml");
        let mut killer = Killer::new(&sandbox, "carrier-delays");
        while landed < FLIGHTS_KILLS && killer.lag_records > 0 {
            assert!(
                killer.attempts < FLIGHTS_KILLS * MAX_ATTEMPTS,
                "only {landed} kills came in the middle of a run"
            );
            landed += u32::from(killer.kill_a_run());
        }
        sandbox.run_until_idle();
        let statistics = sandbox.consume("carrier-stats");
        assert_dense(&statistics);
        flights::assert_statistics(&statistics);
    }
}
