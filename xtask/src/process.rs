//! Running other programs, with errors that name the command.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A command to run; what the builders of `std` do, with better errors.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    dir: Option<PathBuf>,
}

impl Cmd {
    /// A command without arguments. A bare name is looked up on `PATH`.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
        }
    }

    /// Adds one argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        for arg in args {
            self.arg(arg);
        }
        self
    }

    /// Sets a variable for the command.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.env
            .push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes a variable away from the command.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// The folder to run in.
    pub fn dir(&mut self, dir: impl AsRef<Path>) -> &mut Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Runs it with our own input and output; any exit code but 0 is an error.
    pub fn run(&self) -> Result<()> {
        let status = self.status()?;
        self.expect_success(status)
    }

    /// Runs it with our own input and output and returns how it ended.
    pub fn status(&self) -> Result<ExitStatus> {
        self.command()
            .status()
            .with_context(|| format!("starting `{self}`"))
    }

    /// Runs it and returns its standard output; its standard error is shown as it comes.
    pub fn output(&self) -> Result<String> {
        let output = self
            .command()
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("starting `{self}`"))?;
        self.expect_success(output.status)?;
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` printed bytes that are not UTF-8"))
    }

    /// Runs it, shows its standard output as it comes, and returns that and how it ended.
    pub fn shown(&self) -> Result<(String, ExitStatus)> {
        let mut child = self
            .command()
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{self}`"))?;
        let stdout = child.stdout.take();
        let stdout = stdout.with_context(|| format!("`{self}` has no standard output"))?;
        let mut text = String::new();
        for line in BufReader::new(stdout).lines() {
            let line = line.with_context(|| format!("reading from `{self}`"))?;
            println!("{line}");
            text.push_str(&line);
            text.push('\n');
        }
        let status = child.wait();
        Ok((
            text,
            status.with_context(|| format!("waiting for `{self}`"))?,
        ))
    }

    /// Runs it quietly: its standard output if it could be started and succeeded, else `None`.
    /// For questions of the kind "is it there?".
    pub fn probe(&self) -> Option<String> {
        let output = self.command().stdin(Stdio::null()).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it as [`Cmd::run`] does, and stops it when it takes longer than `limit`.
    pub fn run_within(&self, limit: Duration) -> Result<()> {
        let mut child = self
            .command()
            .spawn()
            .with_context(|| format!("starting `{self}`"))?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child
                .try_wait()
                .with_context(|| format!("waiting for `{self}`"))?
            {
                return self.expect_success(status);
            }
            if Instant::now() >= deadline {
                child.kill().with_context(|| format!("stopping `{self}`"))?;
                child
                    .wait()
                    .with_context(|| format!("waiting for `{self}`"))?;
                bail!(
                    "`{self}` took longer than {} s and was stopped",
                    limit.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The `std` command, for callers that need its pipes.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Turns any ending but exit code 0 into an error that names the command.
    pub fn expect_success(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            Ok(())
        } else {
            bail!("`{self}` failed ({status})")
        }
    }
}

/// As one would type it; the variables are left out.
impl std::fmt::Display for Cmd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str());
        write!(f, "{}", name.to_string_lossy())?;
        for arg in &self.args {
            write!(f, " {}", shell_quote(&arg.to_string_lossy()))?;
        }
        Ok(())
    }
}

/// `word` as a POSIX shell reads it back.
pub fn shell_quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./=:,+@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Is `program` found on `PATH`?
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Can someone answer a question?
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_as_one_would_type_them() {
        let mut cmd = Cmd::new("/usr/bin/cargo");
        cmd.args(["test", "--package", "two words"]).arg("it's");
        assert_eq!(
            cmd.to_string(),
            r"cargo test --package 'two words' 'it'\''s'"
        );
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = Cmd::new("false").run().unwrap_err();
        assert!(error.to_string().starts_with("`false` failed"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err();
        assert_eq!(error.to_string(), "starting `no-such-program-here`");
    }

    #[test]
    fn a_slow_command_is_stopped() {
        let error = Cmd::new("sleep")
            .arg("30")
            .run_within(Duration::from_millis(100))
            .unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
    }
}
