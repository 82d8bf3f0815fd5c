//! A server for a test.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::process::Cmd;

/// A server that is killed when this is dropped.
pub struct Server {
    child: Child,
    /// Open for as long as the server may print.
    stdout: BufReader<ChildStdout>,
    url: String,
}

/// A verb of the command `millstream` on a data directory.
pub fn on(millstream: &Cmd, data_dir: &Path, args: &[&str]) -> Cmd {
    let mut cmd = millstream.clone();
    cmd.arg("--data-dir").arg(data_dir).args(args);
    cmd
}

impl Server {
    /// Starts one on a free port of this machine, and waits until it listens.
    pub fn start(millstream: &Cmd, data_dir: &Path, options: &[&str]) -> Result<Self> {
        let mut serve = on(millstream, data_dir, &["serve", "--listen", "127.0.0.1:0"]);
        serve.args(options);
        let mut child = serve
            .command()
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting `{serve}`"))?;
        let stdout = child.stdout.take();
        let stdout = stdout.with_context(|| format!("`{serve}` has no standard output"))?;
        let mut server = Self {
            child,
            stdout: BufReader::new(stdout),
            url: String::new(),
        };
        let mut line = String::new();
        server
            .stdout
            .read_line(&mut line)
            .with_context(|| format!("reading from `{serve}`"))?;
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            bail!("`{serve}` said `{line}`; expected `listening on URL`");
        };
        url.clone_into(&mut server.url);
        Ok(server)
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and the test is over in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
