//! A folder of its own for each test: a data directory, a manifest, files to produce.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tempfile::TempDir;

use super::plugins;
use super::{Consumed, Finished, Running};

/// A temporary folder; it goes with this value. A test that has gone well leaves a data directory with which
/// nothing is wrong: `millstream verify` says so in the end.
pub struct Sandbox {
    folder: TempDir,
    commands: AtomicU32,
    durability: &'static str,
    is_damaged: AtomicBool,
}

impl Sandbox {
    /// An empty folder. Commands run with durability `os`.
    pub fn new() -> Self {
        Self::with_durability("os")
    }

    /// An empty folder whose commands run with this durability.
    pub fn with_durability(durability: &'static str) -> Self {
        Self {
            folder: tempfile::Builder::new()
                .prefix("millstream-e2e-")
                .tempdir()
                .unwrap(),
            commands: AtomicU32::new(0),
            durability,
            is_damaged: AtomicBool::new(false),
        }
    }

    /// The test damages the data directory on purpose.
    pub fn will_be_damaged(&self) {
        self.is_damaged.store(true, Ordering::Relaxed);
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The data directory; the first command that needs it creates it.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes lines to a file.
    pub fn write_lines(
        &self,
        name: &str,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> PathBuf {
        let mut text = String::new();
        for line in lines {
            text.push_str(line.as_ref());
            text.push('\n');
        }
        self.write(name, text)
    }

    /// Writes `millstream.toml`. In the text, `{testing-traps}` and the like become the paths of
    /// the components.
    #[track_caller]
    pub fn manifest(&self, text: &str) -> PathBuf {
        let mut manifest = String::new();
        let mut rest = text;
        while let Some((before, quoted)) = rest.split_once("\"{") {
            let (package, after) = quoted.split_once("}\"").expect("`{` without `}`");
            let path = plugins::component(package);
            manifest.push_str(before);
            manifest.push_str(&format!("{:?}", path.to_str().unwrap()));
            rest = after;
        }
        manifest.push_str(rest);
        self.write("millstream.toml", manifest)
    }

    /// Writes the manifest of a pipeline `suspect` from `in` to `out`, with this plugin and these further
    /// settings.
    #[track_caller]
    pub fn wire_suspect(&self, plugin: &str, partitions: u32, settings: &str) {
        // A call does not fail for the time that others take from it on a busy machine.
        let limits = match settings.contains("limits") {
            true => "",
            false => "limits.deadline = \"60s\"",
        };
        self.manifest(&format!(
            r#"
name = "suspect"

[topics.in]
partitions = {partitions}

[topics.out]
partitions = {partitions}

[plugins.suspect]
path = "{{{plugin}}}"

[pipelines.suspect]
from = "topic:in"
plugin = "suspect"
to = "topic:out"
{limits}
{settings}
"#
        ));
    }

    /// `millstream` with these arguments, on the sandbox's data directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare_command(arguments);
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--durability", self.durability]);
        command
    }

    /// `millstream` with these arguments and no other.
    pub fn bare_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .env_remove("FAILPOINTS")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .env_remove("RUST_LOG");
        command
    }

    /// Starts a command.
    pub fn start_command(&self, command: Command) -> Running {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        Running::start(command, self.folder.path(), &format!("command-{number}"))
    }

    /// Starts `millstream` with these arguments.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_command(self.command(arguments))
    }

    /// Runs `millstream` with these arguments to its end, whatever that is.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.start(arguments).wait()
    }

    /// Runs `millstream` with these arguments; it has to succeed. Returns what it printed.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        self.run(arguments).expect_code(0).stdout
    }

    /// Runs `millstream` with these arguments and `--output json`.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<&str> = arguments
            .iter()
            .copied()
            .chain(["--output", "json"])
            .collect();
        let output = self.succeed(&arguments);
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
    }

    /// Runs the manifest until everything is processed.
    #[track_caller]
    pub fn run_until_idle(&self) -> Finished {
        self.run(&["run", "millstream.toml", "--until-idle"])
            .expect_code(0)
    }

    /// Produces a file of JSON lines to a topic of the manifest; `key` is the field of the key.
    #[track_caller]
    pub fn produce_file(&self, topic: &str, file: &Path, key: Option<&str>) {
        let target = format!("topic:{topic}");
        let file = file.to_str().unwrap();
        let mut arguments = vec!["produce", &target, "--file", file];
        arguments.extend(["--manifest", "millstream.toml"]);
        if let Some(field) = key {
            arguments.extend(["--key-field", field]);
        }
        self.succeed(&arguments);
    }

    /// Produces JSON lines to a topic of the manifest; `key` is the field of the key.
    #[track_caller]
    pub fn produce(
        &self,
        topic: &str,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
        key: Option<&str>,
    ) {
        let file = self.write_lines("produce.jsonl", lines);
        self.produce_file(topic, &file, key);
    }

    /// Produces a file of records, written as `consume` prints them, to a topic of the manifest.
    #[track_caller]
    pub fn produce_records(&self, topic: &str, file: &Path) {
        let target = format!("topic:{topic}");
        let file = file.to_str().unwrap();
        let arguments = ["produce", &target, "--format", "record", "--file", file];
        self.succeed(&[&arguments[..], &["--manifest", "millstream.toml"]].concat());
    }

    /// All records of a topic, partition after partition.
    #[track_caller]
    pub fn consume(&self, topic: &str) -> Vec<Consumed> {
        let source = format!("topic:{topic}");
        let output = self.succeed(&["consume", &source, "--from", "earliest", "--output", "json"]);
        let mut records = Consumed::parse_lines(&output);
        for record in &records {
            assert_eq!(record.topic, topic);
        }
        records.sort_by_key(|record| record.partition);
        records
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let is_whole = !self.is_damaged.load(Ordering::Relaxed);
        if !is_whole || std::thread::panicking() || !self.data_dir().join("FORMAT").exists() {
            return;
        }
        let verified = self.run(&["verify", "--output", "json"]);
        if verified.stderr.contains("is in use") {
            // Whoever holds it was there before the sandbox, and ends after it.
            super::note("the data directory was not verified: it is still in use");
            return;
        }
        verified.expect_code(0);
    }
}
