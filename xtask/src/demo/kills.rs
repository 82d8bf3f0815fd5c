//! SIGKILL in the middle of the demo: a command is killed, and run again until it comes to its end.

use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use crate::process::Cmd;

/// Commands with a place in the order of kills: produce, run, run, redrive, run.
const PLACES: u32 = 5;
/// A kill comes this many ms after the command's start, at most; half of it if the command was quicker.
const LONGEST_MS: u64 = 150;

/// The kills of one demo.
pub struct Kills {
    asked: u32,
    done: u32,
    /// The next place.
    place: u32,
    random: u64,
}

impl Kills {
    /// So many kills, one after the other to each place.
    pub fn new(asked: u32) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            asked,
            done: 0,
            place: 0,
            random: now.map_or(1, |now| now.as_nanos() as u64) | 1,
        }
    }

    /// How many there are to be.
    pub fn asked(&self) -> u32 {
        self.asked
    }

    /// How many there were.
    pub fn done(&self) -> u32 {
        self.done
    }

    /// Runs a command that has `places` of the order: kills it as often as is its share, then lets it end.
    pub fn run(&mut self, cmd: &Cmd, places: u32) -> Result<()> {
        for place in self.place..self.place + places {
            let share = self.asked / PLACES + u32::from(place < self.asked % PLACES);
            for _ in 0..share {
                let mut longest_ms = LONGEST_MS;
                while !self.kill(cmd, longest_ms)? {
                    longest_ms = (longest_ms / 2).max(1);
                }
            }
        }
        self.place += places;
        cmd.run()
    }

    /// Returns whether the command was killed: it may come to its end before.
    fn kill(&mut self, cmd: &Cmd, longest_ms: u64) -> Result<bool> {
        let pause = Duration::from_millis(self.next() % longest_ms);
        let mut child = cmd
            .command()
            .spawn()
            .with_context(|| format!("starting `{cmd}`"))?;
        thread::sleep(pause);
        let ended = child.try_wait();
        if ended
            .with_context(|| format!("waiting for `{cmd}`"))?
            .is_some()
        {
            println!("it came to its end before the kill");
            return Ok(false);
        }
        // SIGKILL, on Unix.
        child.kill().with_context(|| format!("killing `{cmd}`"))?;
        child
            .wait()
            .with_context(|| format!("waiting for `{cmd}`"))?;
        self.done += 1;
        println!("\nkilled after {} ms", pause.as_millis());
        Ok(true)
    }

    /// Xorshift: any numbers do.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
