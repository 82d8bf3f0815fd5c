//! The thread that exports spans, and what waits for it: a bounded number of them; what comes when there is no room is
//! dropped and counted, so that a collector that does not answer holds up nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};

use super::{Error, FinishedSpan};

/// Spans that wait to be exported, at most.
const MAX_WAITING: usize = 8_192;
/// Spans that are exported together, at most.
const MAX_BATCH: usize = 512;
/// How long a span waits for others to be exported with.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// How often it is said that the collector takes nothing.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// How often a flush looks whether there is room to ask for it.
const FLUSH_TICK: Duration = Duration::from_millis(10);

/// What waits for the thread.
enum Message {
    Span(Box<FinishedSpan>),
    /// Export everything that came before, and say so.
    Flush(Sender<()>),
}

/// Spans since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Those of requests that the collector has taken, if only in part.
    pub exported: u64,
    /// Those that were dropped: there was no room, or the collector did not take them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// Where spans go to be exported.
#[derive(Debug)]
pub(super) struct ExportQueue {
    messages: SyncSender<Message>,
    counters: Arc<Counters>,
}

impl ExportQueue {
    /// Starts the thread.
    pub(super) fn start(exporter: SpanExporter) -> Result<Self, Error> {
        let (messages, to_export) = sync_channel(MAX_WAITING);
        let counters = Arc::new(Counters::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let thread = ExportThread {
            runtime: runtime.map_err(|error| Error::Thread(error.to_string()))?,
            exporter,
            counters: Arc::clone(&counters),
            last_warning: None,
        };
        std::thread::Builder::new()
            .name("millstream-traces".to_owned())
            .spawn(move || thread.run(&to_export))
            .map_err(|error| Error::Thread(error.to_string()))?;
        Ok(Self { messages, counters })
    }

    /// Exports a span, or drops it if too many wait.
    pub(super) fn push(&self, span: FinishedSpan) {
        let message = Message::Span(Box::new(span));
        if self.messages.try_send(message).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Exports what waits. Returns whether that was done within `limit`.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let (done, is_done) = channel();
        let mut message = Message::Flush(done);
        while let Err(error) = self.messages.try_send(message) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(FLUSH_TICK);
            message = match error {
                std::sync::mpsc::TrySendError::Full(message) => message,
                std::sync::mpsc::TrySendError::Disconnected(_) => return false,
            };
        }
        let left = until.saturating_duration_since(Instant::now());
        is_done.recv_timeout(left).is_ok()
    }

    pub(super) fn counts(&self) -> SpanCounts {
        SpanCounts {
            exported: self.counters.exported.load(Ordering::Relaxed),
            dropped: self.counters.dropped.load(Ordering::Relaxed),
        }
    }
}

struct ExportThread {
    runtime: tokio::runtime::Runtime,
    exporter: SpanExporter,
    counters: Arc<Counters>,
    last_warning: Option<Instant>,
}

impl ExportThread {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let mut batch = Vec::new();
            let until = Instant::now() + MAX_WAIT;
            let mut next = Ok(first);
            let mut flushed = None;
            loop {
                match next {
                    Ok(Message::Span(span)) => batch.push(span.into_data()),
                    Ok(Message::Flush(done)) => flushed = Some(done),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
                if flushed.is_some() || batch.len() >= MAX_BATCH {
                    break;
                }
                next = messages.recv_timeout(until.saturating_duration_since(Instant::now()));
            }
            self.export(batch);
            if let Some(done) = flushed {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    fn export(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        if spans == 0 {
            return;
        }
        let Err(error) = self.runtime.block_on(self.exporter.export(batch)) else {
            self.counters.exported.fetch_add(spans, Ordering::Relaxed);
            return;
        };
        self.counters.dropped.fetch_add(spans, Ordering::Relaxed);
        let is_silent = self
            .last_warning
            .is_some_and(|at| at.elapsed() < WARNING_INTERVAL);
        if !is_silent {
            self.last_warning = Some(Instant::now());
            tracing::warn!(spans, %error, "spans were not exported; the OTLP endpoint must take protobuf over HTTP");
        }
    }
}
