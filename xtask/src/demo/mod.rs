//! `cargo xtask demo`: the example `flights`, from events on disk to a checked table.
//!
//! It does nothing that the README does not tell people to do by hand: it calls `millstream`,
//! reads what it prints, and compares that with what a plain count over the file gives.

mod kills;
mod table;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::check::heading;
use crate::context::Context;
use crate::process::Cmd;
use crate::setup;
use kills::Kills;

/// Flights that come as they should; the others come broken, in a file of their own.
const GOOD_FLIGHTS: u64 = 336_676;
/// Flights in `broken.jsonl`.
const BROKEN_FLIGHTS: u64 = 100;

/// Sets up, builds, runs the example in an empty data directory, and compares. Kills `millstream` that many
/// times on the way.
pub fn run(context: &Context, kills: u32) -> Result<()> {
    setup::ensure(context, setup::RUN)?;
    println!("building millstream (release)");
    let demo = Demo {
        millstream: context.millstream()?,
        example: context.root.join("examples/flights"),
        data: context.cache.join("demo-data"),
    };
    remove_dir(&demo.data)?;
    let mut kills = Kills::new(kills);
    demo.produce(&mut kills)?;
    demo.run_first_version(&mut kills)?;
    demo.redrive(&mut kills)?;
    demo.run_second_version(&mut kills)?;
    if kills.asked() > 0 {
        println!("\nkilled {} times", kills.done());
    }
    demo.compare()
}

struct Demo {
    millstream: Cmd,
    example: PathBuf,
    data: PathBuf,
}

impl Demo {
    fn verb(&self, words: &[&str]) -> Cmd {
        let mut cmd = self.millstream.clone();
        cmd.args(words).arg("--data-dir").arg(&self.data);
        cmd
    }

    fn json(&self, words: &[&str]) -> Result<Value> {
        let mut cmd = self.verb(words);
        let printed = cmd.args(["--output", "json"]).output()?;
        serde_json::from_str(&printed).with_context(|| format!("reading what `{cmd}` printed"))
    }

    fn produce(&self, kills: &mut Kills) -> Result<()> {
        heading("producing flights");
        let mut produce = self.verb(&["produce", "topic:flights", "--key-field", "carrier"]);
        produce
            .arg("--file")
            .arg(self.example.join("nycflights13.jsonl.zst"))
            .args(["--max", &GOOD_FLIGHTS.to_string()])
            .arg("--manifest")
            .arg(self.example.join("millstream.toml"));
        if kills.asked() > 0 {
            // After a kill: whatever is there is left out.
            produce.arg("--resume");
        }
        kills.run(&produce, 1)?;

        heading("producing 100 flights that are broken");
        let mut produce = self.verb(&["produce", "topic:flights", "--key-field", "carrier"]);
        produce
            .arg("--file")
            .arg(self.example.join("broken.jsonl"))
            .run()
    }

    fn run_first_version(&self, kills: &mut Kills) -> Result<()> {
        heading("running the pipelines");
        let mut run = self.verb(&["run", "--until-idle"]);
        run.arg(self.example.join("millstream.toml"));
        kills.run(&run, 2)?;
        heading("dead letters");
        self.verb(&["dead-letter", "list", "carrier-delays", "--max", "3"])
            .run()?;
        let waiting = self.waiting("no-flights")?;
        println!("{waiting} flights are dead letters");
        ensure!(
            waiting == BROKEN_FLIGHTS,
            "{BROKEN_FLIGHTS} flights are broken"
        );
        Ok(())
    }

    fn redrive(&self, kills: &mut Kills) -> Result<()> {
        heading("sending the dead letters back");
        kills.run(&self.verb(&["dead-letter", "redrive", "carrier-delays"]), 1)
    }

    fn run_second_version(&self, kills: &mut Kills) -> Result<()> {
        heading("running the second version of the plugin, which takes them");
        let mut run = self.verb(&["run", "--until-idle"]);
        run.arg(self.example.join("millstream-v2.toml"));
        kills.run(&run, 1)?;
        let waiting = self.waiting("no-flights")?;
        ensure!(waiting == 0, "{waiting} dead letters are left");
        Ok(())
    }

    /// Messages of a queue.
    fn waiting(&self, queue: &str) -> Result<u64> {
        let described = self.json(&["queue", "describe", queue])?;
        let waiting = described["waiting"].as_u64();
        waiting.with_context(|| format!("no number `waiting` in {described}"))
    }

    fn compare(&self) -> Result<()> {
        heading("statistics per carrier");
        let consume = |topic: &str| {
            let words = ["consume", topic, "--from", "earliest", "--output", "json"];
            self.verb(&words)
        };
        let found = table::consume_table(&consume("topic:carrier-stats"))?;
        print!("{}", table::render(&found));
        let expected = table::read_expected(&self.example.join("flights-by-carrier.json"))?;
        let differences = table::differences(&found, &expected);
        let rebookings = consume("topic:rebookings").output()?.lines().count() as i64;
        let cancelled = table::cancelled(&expected);
        println!("\n{rebookings} cancelled flights went through the queue `rebook`");
        ensure!(
            rebookings == cancelled,
            "{cancelled} flights were cancelled"
        );
        let left = self.waiting("rebook")?;
        ensure!(left == 0, "{left} messages are left in the queue `rebook`");
        if differences.is_empty() {
            println!("This is exactly what examples/flights/flights-by-carrier.json says.");
            return Ok(());
        }
        println!("This differs from examples/flights/flights-by-carrier.json:");
        for difference in &differences {
            println!("  {difference}");
        }
        bail!("{} carrier(s) differ", differences.len())
    }
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
