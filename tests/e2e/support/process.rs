//! Child processes with a time limit, their output in files, so that no pipe can fill up.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// After this a command is taken for hung: it is killed, and the test fails.
pub const TIME_LIMIT: Duration = Duration::from_secs(300);
/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(2);

/// A started command. It is killed when this is dropped.
pub struct Running {
    child: Child,
    line: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// A command that has ended.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it had to say beside.
    pub stderr: String,
    line: String,
}

impl Running {
    /// Starts a command; its output goes to `<name>.out` and `<name>.err` in `folder`.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Self {
        let line = format!("{command:?}");
        let [stdout, stderr] = ["out", "err"].map(|end| folder.join(format!("{name}.{end}")));
        command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        Self {
            child,
            line,
            stdout,
            stderr,
        }
    }

    /// SIGKILL. Returns whether that ended it: it may have ended by itself just before.
    pub fn kill(mut self) -> (bool, Finished) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        (status.code().is_none(), self.finished(status))
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        self.signal("-INT");
    }

    /// SIGTERM, as a service manager sends it.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGKILL, while others still look at it: [`kill`](Self::kill) says whether that ended it.
    pub fn strike(&self) {
        self.signal("-KILL");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{}: kill {name}", self.line);
    }

    /// Waits for its end.
    pub fn wait(self) -> Finished {
        self.watch(|_| {})
    }

    /// Waits for its end and returns the most memory that it had at a time, in bytes.
    pub fn wait_for_peak_memory(self) -> (Finished, u64) {
        let mut peak_bytes = 0;
        let finished = self.watch(|pid| {
            peak_bytes = peak_memory_bytes(pid).unwrap_or(0).max(peak_bytes);
        });
        (finished, peak_bytes)
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The greatest resident size so far, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        peak_memory_bytes(self.child.id()).unwrap_or(0)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if the command has one and this is the first call.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("no standard input")
    }

    /// Waits until this text is in what it says on standard error.
    pub fn wait_for_error(&mut self, text: &str) {
        self.wait_until(text, |running| read(&running.stderr).contains(text));
    }

    /// Waits until this text is in what it says on standard error, or it has ended.
    pub fn wait_for_error_or_end(&mut self, text: &str) {
        let deadline = Instant::now() + TIME_LIMIT;
        while !self.has_ended() && !read(&self.stderr).contains(text) {
            assert!(Instant::now() < deadline, "{}: hangs", self.line);
            std::thread::sleep(POLL);
        }
    }

    /// Waits until something is so, while it runs; `what` that is, for the message.
    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + TIME_LIMIT;
        while !is_so(self) {
            assert!(
                Instant::now() < deadline && !self.has_ended(),
                "{}: never came to `{what}`:\n{}\n{}",
                self.line,
                read(&self.stdout),
                read(&self.stderr)
            );
            std::thread::sleep(POLL);
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn watch(mut self, mut look: impl FnMut(u32)) -> Finished {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            look(self.child.id());
            if let Some(status) = self.child.try_wait().unwrap() {
                return self.finished(status);
            }
            if Instant::now() >= deadline {
                let line = self.line.clone();
                let (_, finished) = self.kill();
                panic!(
                    "{line} did not end within {TIME_LIMIT:?}:\n{}\n{}",
                    finished.stdout, finished.stderr
                );
            }
            std::thread::sleep(POLL);
        }
    }

    fn finished(&self, status: ExitStatus) -> Finished {
        Finished {
            status,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            line: self.line.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Asserts the exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "{}: {}\n{}\n{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// The last number of acknowledged records that a `produce` has told while it ran.
    pub fn acknowledged_records(&self) -> u64 {
        let words: Vec<&str> = self.stderr.split_whitespace().collect();
        words
            .windows(3)
            .filter(|words| words[0] == "acknowledged" && words[2].starts_with("records"))
            .map(|words| words[1].parse().unwrap())
            .next_back()
            .unwrap_or(0)
    }

    /// Asserts that it failed: with an exit code other than 0, or by a signal.
    #[track_caller]
    pub fn expect_failure(self) -> Self {
        assert!(
            !self.status.success(),
            "{} succeeded:\n{}\n{}",
            self.line,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts that all of these are in what it said on standard error.
    #[track_caller]
    pub fn expect_error(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{}: no `{part}` in:\n{}",
                self.line,
                self.stderr
            );
        }
        self
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

/// The most memory that a process has had, from `/proc`; `None` when it is gone.
fn peak_memory_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
