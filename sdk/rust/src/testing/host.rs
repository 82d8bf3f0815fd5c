//! The in-memory host that answers a plugin's calls outside a component.

use std::cell::RefCell;
use std::collections::BTreeMap;

pub use crate::bindings::consumer::wasi::logging::logging::Level as LogLevel;
use crate::columns::{Batch, TimerBatch};
use crate::http;

/// One log line of the plugin.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// How serious it is.
    pub level: LogLevel,
    /// What it says.
    pub message: String,
}

/// Answers the plugin's requests.
pub(crate) type HttpHandler = Box<dyn FnMut(&http::Request) -> Result<http::Response, http::Error>>;

/// What the plugin's calls read and change.
pub(crate) struct MemoryHost {
    pub(crate) pipeline: String,
    pub(crate) partition: u32,
    pub(crate) inputs: Vec<String>,
    pub(crate) ports: Vec<String>,
    pub(crate) state: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) state_reads: u64,
    pub(crate) state_writes: u64,
    /// Pending timers: payloads by due time and key.
    pub(crate) timers: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    pub(crate) logs: Vec<LogLine>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) gauges: BTreeMap<String, f64>,
    pub(crate) values: BTreeMap<String, Vec<u64>>,
    pub(crate) http: Option<HttpHandler>,
    pub(crate) http_requests: Vec<http::Request>,
    /// Input and offsets of the batch being processed.
    input: u32,
    offsets: Vec<u64>,
    /// What the timers being handled are called; empty while records are processed.
    timer_ids: Vec<String>,
    next_offset: u64,
}

impl Default for MemoryHost {
    fn default() -> Self {
        Self {
            pipeline: "test".to_owned(),
            partition: 0,
            inputs: vec!["input".to_owned()],
            ports: vec!["default".to_owned()],
            state: BTreeMap::new(),
            state_reads: 0,
            state_writes: 0,
            timers: BTreeMap::new(),
            logs: Vec::new(),
            counters: BTreeMap::new(),
            gauges: BTreeMap::new(),
            values: BTreeMap::new(),
            http: None,
            http_requests: Vec::new(),
            input: 0,
            offsets: Vec::new(),
            timer_ids: Vec::new(),
            next_offset: 0,
        }
    }
}

impl MemoryHost {
    pub(crate) fn log(&mut self, level: LogLevel, message: &str) {
        self.logs.push(LogLine {
            level,
            message: message.to_owned(),
        });
    }

    pub(crate) fn idempotency_key(&self, index: u32) -> String {
        if !self.timer_ids.is_empty() {
            return self.timer_ids[index as usize].clone();
        }
        let input = &self.inputs[self.input as usize];
        let offset = self.offsets[index as usize];
        format!("{}/{input}/{}/{offset}", self.pipeline, self.partition)
    }

    /// Gives the batch's records their offsets, the next ones of the partition.
    pub(super) fn number(&mut self, mut batch: Batch) -> Batch {
        let count = batch.len() as u64;
        batch.offsets = (self.next_offset..self.next_offset + count).collect();
        self.next_offset += count;
        self.input = batch.input;
        self.timer_ids.clear();
        self.offsets.clone_from(&batch.offsets);
        batch
    }
}

impl MemoryHost {
    /// Takes the timers that are due at a time, in their order.
    pub(super) fn take_due(&mut self, now_ms: u64) -> TimerBatch {
        let later = match now_ms.checked_add(1) {
            Some(next_ms) => self.timers.split_off(&(next_ms, Vec::new())),
            None => BTreeMap::new(),
        };
        let due = std::mem::replace(&mut self.timers, later);
        let mut batch = TimerBatch {
            keys: Vec::new(),
            key_ends: Vec::new(),
            due_ms: Vec::new(),
            payloads: Vec::new(),
            payload_ends: Vec::new(),
            delivery_counts: Vec::new(),
        };
        self.timer_ids.clear();
        for ((due_ms, key), payload) in due {
            self.timer_ids.push(self.timer_id(&key, due_ms));
            batch.keys.extend(key);
            batch.key_ends.push(batch.keys.len() as u32);
            batch.due_ms.push(due_ms);
            batch.payloads.extend(payload);
            batch.payload_ends.push(batch.payloads.len() as u32);
        }
        batch
    }

    fn timer_id(&self, key: &[u8], due_ms: u64) -> String {
        let encode = |byte: &u8| match byte {
            b'-' | b'.' | b'_' => char::from(*byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        let key: String = key.iter().map(encode).collect();
        format!("timer:{}/{}/{key}@{due_ms}", self.pipeline, self.partition)
    }
}

thread_local! {
    static CURRENT: RefCell<MemoryHost> = RefCell::new(MemoryHost::default());
}

/// Runs `action` on the host that is installed on this thread.
pub(crate) fn with_current<R>(action: impl FnOnce(&mut MemoryHost) -> R) -> R {
    CURRENT.with_borrow_mut(action)
}

/// Answers a request of the plugin.
///
/// # Panics
/// If the harness was given no handler.
pub(crate) fn answer(request: &http::Request) -> Result<http::Response, http::Error> {
    // Out of its place while it runs: it may call the host itself.
    let handler = with_current(|host| {
        host.http_requests.push(request.clone());
        host.http.take()
    });
    let Some(mut handler) = handler else {
        panic!(
            "the plugin calls {} {}, and nothing answers: give the harness a handler with `Harness::http`",
            request.method(),
            request.url()
        );
    };
    let answer = handler(request);
    with_current(|host| host.http = Some(handler));
    answer
}

/// Puts a host in place for this thread's calls until it is dropped.
pub(super) struct Installed<'a> {
    host: &'a mut MemoryHost,
}

impl<'a> Installed<'a> {
    pub(super) fn new(host: &'a mut MemoryHost) -> Self {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, host));
        Self { host }
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, self.host));
    }
}
