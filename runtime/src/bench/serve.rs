//! `millstream serve`, as a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use ureq::Agent;

use crate::storage::Durability;

/// A running server. It ends when this is dropped.
pub(super) struct Server {
    process: Child,
    url: String,
}

impl Server {
    /// Starts a server on a data directory, and waits until it listens.
    pub(super) fn start(data: &Path, durability: Durability) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program is not found again")?;
        let mut command = Command::new(program);
        command
            .arg("--data-dir")
            .arg(data)
            .args(["--durability", &durability.to_string()])
            .args(["--quiet", "serve", "--listen", "127.0.0.1:0"]);
        Self::of(command)
    }

    /// Starts a server with a command, and waits until it listens.
    fn of(mut command: Command) -> anyhow::Result<Self> {
        let process = command
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start `millstream serve`")?;
        // From here on it ends with this value, whatever goes wrong.
        let mut server = Self {
            process,
            url: String::new(),
        };
        let mut line = String::new();
        if let Some(stdout) = server.process.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut line);
            read.context("cannot read what `millstream serve` says")?;
        }
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            bail!(
                "`millstream serve` said `{}` and not where it listens",
                line.trim()
            );
        };
        url.clone_into(&mut server.url);
        Ok(server)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The number of its process.
    pub(super) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Asks for something: `path` with a body of a media type.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        media_type: &str,
        body: &[u8],
    ) -> anyhow::Result<()> {
        let agent = Agent::config_builder().proxy(None).build().new_agent();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", media_type)
            .body(body.to_vec())?;
        let sent = agent.run(request);
        sent.with_context(|| format!("the server refused {method} {path}"))?;
        Ok(())
    }

    /// Tells the server to end, and waits for it.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let id = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(id) = id {
            kill_process(id, Signal::TERM)?;
        }
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_says_something_else_ends() {
        for says in ["nothing\\n", "\\377\\n"] {
            let folder = tempfile::tempdir().unwrap();
            let pid = folder.path().join("pid");
            let mut command = Command::new("sh");
            command
                .args([
                    "-c",
                    "echo $$ > \"$1\"; printf \"$2\"; exec sleep 600",
                    "sh",
                ])
                .args([pid.as_os_str(), says.as_ref()]);
            let failed = Server::of(command).err();
            assert!(failed.is_some(), "{says}");
            let pid = std::fs::read_to_string(pid).unwrap();
            let process = Path::new("/proc").join(pid.trim());
            assert!(!process.exists(), "{says}: {} runs", process.display());
        }
    }
}
