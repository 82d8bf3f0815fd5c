//! The audit log: who changed what, and who was refused; one JSON object a line in `audit.jsonl` of the data directory.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use super::guard::peer;
use super::tokens::Identity;

/// Bytes after which a file is set aside as `audit.jsonl.1`, over the one before it.
const MAX_BYTES: u64 = 64 << 20;

/// A request that changed something, or was refused.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    time: String,
    /// The token's name; null if there is none.
    token: Option<String>,
    /// Where it comes from.
    peer: Option<String>,
    method: String,
    path: String,
    /// What it is about, where the path does not say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    status: u16,
}

impl Event {
    pub(super) fn of(request: &Request, identity: Option<&Identity>, status: StatusCode) -> Self {
        Self {
            time: Timestamp::now().to_string(),
            token: identity.map(|identity| identity.name.to_string()),
            peer: peer(request).map(|address| address.to_string()),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            subject: None,
            status: status.as_u16(),
        }
    }

    pub(super) fn ended(mut self, status: u16, subject: Option<String>) -> Self {
        self.status = status;
        self.subject = subject;
        self
    }
}

/// Writes the audit log. Clones share it.
#[derive(Clone)]
pub(in crate::server) struct Audit(Arc<Mutex<Log>>);

struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Audit {
    /// Appends to the log of a data directory.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(in crate::server) fn open(data_dir: &Path) -> std::io::Result<Self> {
        let path = data_dir.join("audit.jsonl");
        let file = append_to(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Log { path, file, bytes }))))
    }

    pub(super) fn write(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        if let Err(error) = self.0.lock().append(&line) {
            tracing::error!(%error, event = %String::from_utf8_lossy(&line), "cannot write the audit log");
        }
    }
}

impl Log {
    fn append(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.bytes >= MAX_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            self.file = append_to(&self.path)?;
            self.bytes = 0;
        }
        self.bytes += line.len() as u64;
        // One write for a line: lines of a process that is killed are whole or not there.
        self.file.write_all(line)
    }
}

fn append_to(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
