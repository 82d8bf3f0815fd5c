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
        if let Some(status) = ended.with_context(|| format!("waiting for `{cmd}`"))? {
            // What fails after a kill, and not when it is run again, has failed.
            cmd.expect_success(status)?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Longer than any kill takes to come.
    const SLOW: &str = "3";

    /// A command that takes that many seconds, and then adds a line to a file.
    fn command(done: &Path, seconds: &str) -> Cmd {
        let mut cmd = Cmd::new("sh");
        cmd.args(["-c", "sleep $1 && echo done >> $0"]);
        cmd.arg(done).arg(seconds);
        cmd
    }

    /// How often a command has come to its end.
    fn ends(done: &Path) -> usize {
        fs::read_to_string(done).map_or(0, |text| text.lines().count())
    }

    #[test]
    fn kills_come_to_each_place_in_turn_and_each_command_comes_to_its_end_once() {
        let temp = tempfile::tempdir().unwrap();
        let mut kills = Kills::new(7);
        // The second command has two places: that of the two kills beyond the first five, and one of the others.
        for (number, (places, done)) in [(1, 2), (2, 5), (1, 6), (1, 7)].into_iter().enumerate() {
            let file = temp.path().join(number.to_string());
            kills.run(&command(&file, SLOW), places).unwrap();
            assert_eq!(kills.done(), done);
            assert_eq!(ends(&file), 1);
        }
    }

    #[test]
    fn a_command_is_killed_however_quick_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("done");
        let mut kills = Kills::new(5);
        kills.run(&command(&file, "0"), PLACES).unwrap();
        assert_eq!(kills.done(), 5);
        assert!(ends(&file) >= 1);
    }

    #[test]
    fn without_kills_a_command_runs_once() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("done");
        let mut kills = Kills::new(0);
        kills.run(&command(&file, "0"), PLACES).unwrap();
        assert_eq!((kills.done(), ends(&file)), (0, 1));
    }

    #[test]
    fn a_command_that_fails_once_has_failed() {
        let temp = tempfile::tempdir().unwrap();
        let mut cmd = Cmd::new("sh");
        let file = temp.path().join("done");
        // It fails once there is a file. Most often that is before the kill; if not, it fails after it.
        cmd.args([
            "-c",
            "[ -e $0 ] && { echo again >> $0; exec sleep 0.2; }; echo failed > $0; exit 3",
        ]);
        cmd.arg(&file);
        let ran = Kills::new(1).run(&cmd, PLACES);
        // If the kill came between the file and the end, it was started a second time only.
        let said = std::fs::read_to_string(&file).unwrap();
        assert!(ran.is_err() || said.ends_with("again\n"), "{said}");
    }
}
