//! The audit log: who changed what, in `audit.jsonl` of the data directory, and who was refused, in
//! `audit-refused.jsonl`; one JSON object a line.
//!
//! Whoever is refused can ask again as often as it likes, from as many addresses as it has, and must not push what was
//! done out of the log: that is why refusals have a file of their own. Of one address, or token, some are written in
//! a minute, and of the others only how many they were.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{Method, Uri};
use hashbrown::HashMap;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use super::origin::peer;
use super::tokens::Identity;

/// Bytes after which a file is set aside with `.1` at the end of its name, over the one before it.
const MAX_BYTES: u64 = 64 << 20;
/// Characters of a path that are written.
const MAX_PATH: usize = 1_024;
/// Refusals of one source that are written in a [`WINDOW`].
const WRITTEN_REFUSALS: u32 = 10;
/// How long refusals are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Sources whose refusals are counted apart at a time; those of all others are counted together.
const MAX_SOURCES: usize = 1_024;

/// A request that changed something, or was refused.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Event {
    time: String,
    /// The token's name; null if there is none.
    token: Option<String>,
    /// Where it comes from.
    peer: Option<IpAddr>,
    method: String,
    path: String,
    /// What it is about, where the path does not say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    status: u16,
}

/// What an event needs of a request, which costs next to nothing: few requests become one.
pub(super) struct Seen {
    time: Timestamp,
    token: Option<Arc<str>>,
    peer: Option<IpAddr>,
    method: Method,
    uri: Uri,
}

impl Seen {
    pub(super) fn of(request: &Request, identity: Option<&Identity>) -> Self {
        Self {
            time: Timestamp::now(),
            token: identity.map(|identity| Arc::clone(&identity.name)),
            peer: peer(request),
            method: request.method().clone(),
            uri: request.uri().clone(),
        }
    }

    /// The event that it was, once it is known how it ended and what it was about.
    pub(super) fn event(&self, status: u16, subject: Option<String>) -> Event {
        Event {
            time: self.time.to_string(),
            token: self.token.as_ref().map(|name| name.to_string()),
            peer: self.peer,
            method: self.method.to_string(),
            path: self.uri.path().chars().take(MAX_PATH).collect(),
            subject,
            status,
        }
    }
}

/// Refusals that were left out.
#[derive(Debug, Serialize)]
struct LeftOut<'a> {
    time: String,
    #[serde(flatten)]
    source: &'a Source,
    /// How many.
    refusals_left_out: u64,
}

/// Whose refusals are counted together: a token from an address. An IPv6 address stands for its network of 64 bits, all of
/// which one host may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
struct Source {
    token: Option<String>,
    peer: Option<IpAddr>,
}

impl Source {
    fn of(event: &Event) -> Self {
        Self {
            token: event.token.clone(),
            peer: event.peer.map(network),
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let host_bits = u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !host_bits))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The refusals of a source in a window.
struct Refusals {
    since: Instant,
    written: u32,
    left_out: u64,
}

/// Writes the audit log. Clones share it; what they have left out is told when the last one is dropped.
#[derive(Clone)]
pub(in crate::server) struct Audit(Arc<Mutex<Log>>);

struct Log {
    changes: BoundedFile,
    refused: BoundedFile,
    refusals: HashMap<Source, Refusals>,
}

/// A file that is set aside when it is full.
struct BoundedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
}

impl Audit {
    /// Appends to the log of a data directory.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(in crate::server) fn open(data_dir: &Path) -> std::io::Result<Self> {
        Self::open_bounded(data_dir, MAX_BYTES)
    }

    fn open_bounded(data_dir: &Path, max_bytes: u64) -> std::io::Result<Self> {
        let open = |name| BoundedFile::open(data_dir.join(name), max_bytes);
        Ok(Self(Arc::new(Mutex::new(Log {
            changes: open("audit.jsonl")?,
            refused: open("audit-refused.jsonl")?,
            refusals: HashMap::new(),
        }))))
    }

    /// Writes down a request that changed something.
    pub(super) fn write(&self, event: &Event) {
        self.0.lock().changes.write(event);
    }

    /// Writes down a request that was refused, or counts it.
    pub(super) fn write_refusal(&self, event: &Event) {
        self.0.lock().write_refusal(event, Instant::now());
    }

    /// Writes, once in a while, how many refusals were left out; until the log is dropped.
    pub(in crate::server) fn summarize(&self) {
        let log = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(WINDOW).await;
                let Some(log) = log.upgrade() else { return };
                log.lock().close_windows(Instant::now(), false);
            }
        });
    }
}

impl Log {
    fn write_refusal(&mut self, event: &Event, now: Instant) {
        self.close_windows(now, false);
        let mut source = Source::of(event);
        if self.refusals.len() >= MAX_SOURCES && !self.refusals.contains_key(&source) {
            source = Source::default();
        }
        let refusals = self.refusals.entry(source).or_insert(Refusals {
            since: now,
            written: 0,
            left_out: 0,
        });
        if refusals.written < WRITTEN_REFUSALS {
            refusals.written += 1;
            self.refused.write(event);
        } else {
            refusals.left_out += 1;
        }
    }

    /// Ends the windows that are over, or all, and tells what was left out in them.
    fn close_windows(&mut self, now: Instant, all: bool) {
        let is_over = |refusals: &Refusals| now.duration_since(refusals.since) >= WINDOW;
        if !all && !self.refusals.values().any(is_over) {
            return;
        }
        let over = self
            .refusals
            .extract_if(|_, refusals| all || is_over(refusals));
        let over: Vec<_> = over.collect();
        for (source, refusals) in over {
            if refusals.left_out > 0 {
                self.refused.write(&LeftOut {
                    time: Timestamp::now().to_string(),
                    source: &source,
                    refusals_left_out: refusals.left_out,
                });
            }
        }
    }
}

impl BoundedFile {
    fn open(path: PathBuf, max_bytes: u64) -> std::io::Result<Self> {
        let file = append_to(&path)?;
        Ok(Self {
            bytes: file.metadata()?.len(),
            path,
            file,
            max_bytes,
        })
    }

    fn write(&mut self, line: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(line) else {
            return;
        };
        line.push(b'\n');
        if let Err(error) = self.append(&line) {
            tracing::error!(%error, event = %String::from_utf8_lossy(&line), "cannot write the audit log");
        }
    }

    fn append(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.bytes >= self.max_bytes {
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            self.file = append_to(&self.path)?;
            self.bytes = 0;
        }
        self.bytes += line.len() as u64;
        // One write for a line: lines of a process that is killed are whole or not there.
        self.file.write_all(line)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close_windows(Instant::now(), true);
    }
}

fn append_to(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn refusal(peer: &str) -> Event {
        Event {
            time: String::new(),
            token: None,
            peer: Some(peer.parse().unwrap()),
            method: "GET".to_owned(),
            path: "/v1/topics".to_owned(),
            subject: None,
            status: 401,
        }
    }

    fn lines(folder: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join("audit-refused.jsonl")).unwrap();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn many_refusals_of_an_address_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        let start = Instant::now();
        let refuse = |peer: &str, after: Duration| {
            let mut log = audit.0.lock();
            log.write_refusal(&refusal(peer), start + after);
        };
        for number in 0..1_000 {
            // Each from another address of one network.
            refuse(&format!("2001:db8::{number:x}"), Duration::ZERO);
        }
        refuse("10.0.0.1", Duration::ZERO);
        assert_eq!(lines(folder.path()).len(), 11);
        // In the next minute the count is told, and some are written again.
        refuse("2001:db8::1", WINDOW);
        let written = lines(folder.path());
        assert_eq!(written.len(), 13);
        assert_eq!(written[11]["refusals_left_out"], 990);
        assert_eq!(written[11]["peer"], "2001:db8::");
        for _ in 0..11 {
            refuse("10.0.0.1", WINDOW);
        }
        drop(audit);
        let written = lines(folder.path());
        assert_eq!(written.last().unwrap()["refusals_left_out"], 1);
    }

    #[test]
    fn refusals_of_countless_addresses_take_bounded_memory_and_lines() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        for number in 0..5_000_u32 {
            audit.write_refusal(&refusal(&Ipv4(number).to_string()));
        }
        assert!(audit.0.lock().refusals.len() <= MAX_SOURCES + 1);
        let written = lines(folder.path()).len();
        assert_eq!(written, MAX_SOURCES + WRITTEN_REFUSALS as usize);
    }

    struct Ipv4(u32);

    impl std::fmt::Display for Ipv4 {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}", std::net::Ipv4Addr::from_bits(self.0))
        }
    }

    #[test]
    fn the_log_is_bounded_and_refusals_push_no_change_out() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open_bounded(folder.path(), 1_000).unwrap();
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let change = Event {
            token: Some("ann".to_owned()),
            ..refusal("10.0.0.1")
        };
        audit.write(&change);
        for number in 0..100 {
            audit.write_refusal(&refusal(&Ipv4(number).to_string()));
        }
        assert_eq!(text("audit.jsonl").lines().count(), 1);
        assert!(text("audit.jsonl").contains("ann"));
        for _ in 0..100 {
            audit.write(&change);
        }
        let names = ["audit.jsonl", "audit-refused.jsonl"];
        for name in names {
            assert!(text(name).len() < 1_200 && text(&format!("{name}.1")).len() < 1_200);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
