//! A history: what is sent, deployed and killed, all of it decided by a seed.

use std::time::Duration;

use super::checks;
use super::ledger::{Ledger, Told, When};
use super::scene::{Setting, VERSIONS_WITH_STATE};
use super::workload::Workload;
use crate::failpoints;
use crate::support::{Random, Sandbox, note};

/// Rounds of sending and running.
const ROUNDS: u64 = 6;
/// The round that comes to its end without a kill, so that each version has done something at the end.
const QUIET_ROUND: u64 = 3;
/// How long a thread has to come to a step again after it has said that it was there.
const TO_THE_NEXT: Duration = Duration::from_millis(30);

/// How a run ends.
enum Kill {
    /// After a time.
    After(Duration),
    /// While a thread stands at a step, when that was passed some times.
    At { step: &'static str, passes: u64 },
}

/// One history.
pub struct History {
    seed: u64,
    setting: Setting,
    sandbox: Sandbox,
    random: Random,
    workload: Workload,
    kill_count: u64,
}

impl History {
    /// One that the environment's seed decides, or else the time.
    pub fn new(setting: Setting) -> Self {
        let mut random = Random::from_environment();
        Self {
            seed: random.seed(),
            setting,
            sandbox: Sandbox::with_durability(setting.durability),
            workload: Workload::new(setting, &mut random),
            random,
            kill_count: 0,
        }
    }

    /// Runs it from its beginning to its end, and checks. Returns how many messages have expired.
    #[track_caller]
    pub fn unfold(mut self) -> usize {
        if self.setting.start == "latest" {
            self.deploy(1);
            self.workload.send_early(&self.sandbox, &mut self.random);
        }
        // Compiles both versions, so that runs to come start fast.
        for version in [1, 0] {
            self.deploy(version);
            self.sandbox.run_until_idle();
        }
        for round in 0..ROUNDS {
            self.workload.send(
                &self.sandbox,
                &mut self.random,
                self.setting.records / ROUNDS,
            );
            if round == QUIET_ROUND {
                self.deploy(0);
                self.sandbox.run_until_idle();
                self.check(When::Idle);
                continue;
            }
            for _ in 0..self.random.within(1..3) {
                let version = self.random.within(0..VERSIONS_WITH_STATE as u64);
                self.deploy(version as usize);
                self.kill_a_run();
            }
            self.check(When::Killed);
        }
        let records = self.setting.records / ROUNDS;
        self.workload.send(&self.sandbox, &mut self.random, records);
        self.deploy(1);
        self.sandbox.run_until_idle();
        self.check(When::Over)
    }

    fn deploy(&self, version: usize) {
        self.setting.deploy(&self.sandbox, version);
    }

    /// Returns how many messages have expired so far.
    #[track_caller]
    fn check(&self, when: When) -> usize {
        let told = Told {
            setting: self.setting,
            sent: self.workload.sent(),
            early_count: self.workload.early_count(),
            kill_count: self.kill_count,
            when,
        };
        let ledger = Ledger::read(&self.sandbox, told);
        checks::assert_holds(&ledger, self.seed);
        let expired_count = ledger.expired.len();
        if self.setting.time_to_live.is_some() {
            note(format_args!("{expired_count} messages have expired"));
        }
        expired_count
    }

    fn next_kill(&mut self) -> Kill {
        let steps = failpoints::STEPS;
        match self.random.within(0..3) {
            0 => Kill::After(self.random.within_ms(30..350)),
            _ => Kill::At {
                step: steps[self.random.within(0..steps.len() as u64) as usize],
                passes: self.random.within(1..60),
            },
        }
    }

    /// Starts a run and kills it, unless it is done before that.
    fn kill_a_run(&mut self) {
        let mut command = self
            .sandbox
            .command(&["run", "millstream.toml", "--until-idle"]);
        let kill = self.next_kill();
        let mut failpoints = "state::fold-now=20%return".to_owned();
        if let Kill::At { step, passes } = kill {
            failpoints.push_str(&format!(";{step}={passes}*off->1*print(is near)->pause"));
        }
        command
            .env("FAILPOINTS", failpoints)
            .env("RUST_LOG", "error,fail=info");
        let mut run = self.sandbox.start_command(command);
        let how = match kill {
            Kill::After(pause) => {
                std::thread::sleep(pause);
                format!("after {pause:?}")
            }
            Kill::At { step, passes } => {
                run.wait_for_error_or_end("is near");
                std::thread::sleep(TO_THE_NEXT);
                format!("at {step}, {passes}")
            }
        };
        let (was_killed, finished) = run.kill();
        if was_killed {
            self.kill_count += 1;
        } else {
            finished.expect_code(0);
        }
        note(format_args!("run killed {how}: {was_killed}"));
    }
}
