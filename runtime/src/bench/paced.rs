//! Records at an even rate that say when they were due, and how long each took to the output topic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use parking_lot::Mutex;
use tokio::task::{JoinSet, block_in_place};

use super::latency::LatencyRecorder;
use super::synthetic::Records;
use crate::log::{Cursor, Log, Producer, Topic};
use crate::model::HeadersRef;
use crate::storage::Store;

/// How often records are sent.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// How long the last records may take before the run is given up.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Records and bytes that are read from an output at a time.
const READ: (usize, usize) = (4096, 1 << 20);

/// A record that is not measured.
pub(super) struct Unmeasured {
    pub(super) key: &'static [u8],
    /// What its value begins with.
    pub(super) word: &'static str,
}

/// Sends records. A value is a word, when the record was to be sent in µs since the start, and letters.
pub(super) struct PacedSender {
    source: Records,
    producer: Producer,
    start: Instant,
    value: Vec<u8>,
}

impl PacedSender {
    pub(super) fn new(log: &Log, input: Topic, value_bytes: usize, start: Instant) -> Self {
        Self {
            source: Records::new(value_bytes, 1),
            producer: Producer::new(log.clone(), input),
            start,
            value: Vec::new(),
        }
    }

    pub(super) async fn send_unmeasured(&mut self, record: &Unmeasured) -> anyhow::Result<()> {
        let (_, filling) = self.source.next();
        self.value.clear();
        self.value.extend_from_slice(record.word.as_bytes());
        self.value.extend_from_slice(b" 0 ");
        self.value.extend_from_slice(filling);
        let (key, value) = (Some(record.key), Some(self.value.as_slice()));
        let sent = self.producer.send(None, 1, key, value, HeadersRef::EMPTY);
        Ok(sent.await?)
    }

    async fn send_measured(&mut self, due: Instant) -> anyhow::Result<()> {
        let due_us = due.saturating_duration_since(self.start).as_micros().max(1);
        let (key, filling) = self.source.next();
        self.value.clear();
        self.value
            .extend_from_slice(format!("fine {due_us} ").as_bytes());
        self.value.extend_from_slice(filling);
        let value = Some(self.value.as_slice());
        let sent = self
            .producer
            .send(None, 1, Some(key), value, HeadersRef::EMPTY);
        Ok(sent.await?)
    }

    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        self.producer.flush().await?;
        Ok(())
    }

    /// Sends `rate` records a second; `unmeasured` says which by their number are not measured. Returns how many
    /// are.
    pub(super) async fn send_for(
        &mut self,
        duration: Duration,
        rate: u64,
        unmeasured: impl Fn(u64) -> Option<Unmeasured>,
    ) -> anyhow::Result<u64> {
        let (mut number, mut measured) = (0, 0);
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            // When it was due, also if whatever is measured keeps the sender waiting: that is latency, too.
            let tick = ticks.tick().await.into_std();
            let elapsed = tick.saturating_duration_since(began).min(duration);
            let due = (elapsed.as_secs_f64() * rate as f64) as u64;
            while number < due {
                match unmeasured(number) {
                    Some(record) => self.send_unmeasured(&record).await?,
                    None => {
                        self.send_measured(tick).await?;
                        measured += 1;
                    }
                }
                number += 1;
            }
            self.flush().await?;
            if elapsed >= duration {
                return Ok(measured);
            }
        }
    }
}

/// Something that happens now and then, of which records may be under way.
#[derive(Default)]
pub(super) struct Disturbance {
    is_under_way: AtomicBool,
    last_end_us: AtomicU64,
}

impl Disturbance {
    pub(super) fn begin(&self) {
        self.is_under_way.store(true, Ordering::Release);
    }

    /// `start` is that of the senders.
    pub(super) fn end(&self, start: Instant) {
        let now_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_end_us.store(now_us, Ordering::Release);
        self.is_under_way.store(false, Ordering::Release);
    }

    /// Whether it happened at any time from then until now.
    fn has_met(&self, sent_us: u64) -> bool {
        self.is_under_way.load(Ordering::Acquire)
            || sent_us <= self.last_end_us.load(Ordering::Acquire)
    }
}

/// How long records took.
#[derive(Clone)]
pub(super) struct Latencies {
    /// Of all.
    pub(super) all: LatencyRecorder,
    /// Of those that were under way during a disturbance.
    pub(super) disturbed: LatencyRecorder,
}

impl Latencies {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            all: LatencyRecorder::new()?,
            disturbed: LatencyRecorder::new()?,
        })
    }

    pub(super) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.all.add(&other.all)?;
        self.disturbed.add(&other.disturbed)
    }
}

/// Readers of an output's partitions, from their ends on.
pub(super) struct OutputReaders {
    running: JoinSet<()>,
    /// Measured records seen so far, by partition.
    seen: Vec<tokio::sync::watch::Receiver<u64>>,
    latencies: Arc<Mutex<Latencies>>,
}

impl OutputReaders {
    pub(super) fn start(
        store: &Store,
        output: &Topic,
        start: Instant,
        disturbance: &Arc<Disturbance>,
    ) -> anyhow::Result<Self> {
        let latencies = Arc::new(Mutex::new(Latencies::new()?));
        let mut readers = Self {
            running: JoinSet::new(),
            seen: Vec::new(),
            latencies: Arc::clone(&latencies),
        };
        for partition in output.partitions() {
            let end = partition.high_watermark();
            let mut cursor = Cursor::new(store.clone(), Arc::clone(partition), end);
            let (tell, seen) = tokio::sync::watch::channel(0);
            let (latencies, disturbance) = (Arc::clone(&latencies), Arc::clone(disturbance));
            readers.seen.push(seen);
            readers.running.spawn(async move {
                loop {
                    let mut count = 0;
                    let read = block_in_place(|| {
                        let mut latencies = latencies.lock();
                        cursor.read(READ.0, READ.1, |record| {
                            let sent_us = record.value.and_then(sent_us).unwrap_or_default();
                            if sent_us == 0 {
                                return;
                            }
                            let sent = Duration::from_micros(sent_us);
                            let latency = start.elapsed().saturating_sub(sent);
                            latencies.all.record(latency);
                            if disturbance.has_met(sent_us) {
                                latencies.disturbed.record(latency);
                            }
                            count += 1;
                        })
                    });
                    tell.send_modify(|seen| *seen += count);
                    // The run is given up for it.
                    if read.is_err() || tell.is_closed() {
                        return;
                    }
                    if cursor.is_at_end() {
                        cursor.wait().await;
                    }
                }
            });
        }
        Ok(readers)
    }

    /// Waits until all measured records are in the output, each once.
    pub(super) async fn wait_for(mut self, sent: u64) -> anyhow::Result<Latencies> {
        let began = Instant::now();
        loop {
            let seen: u64 = self.seen.iter().map(|seen| *seen.borrow()).sum();
            if seen == sent {
                break;
            }
            ensure!(
                seen < sent && began.elapsed() < TIMEOUT,
                "{seen} of {sent} records have come out"
            );
            tokio::time::sleep(TICK).await;
        }
        self.running.shutdown().await;
        let latencies = self.latencies.lock().clone();
        Ok(latencies)
    }
}

/// When a record says that it was sent, in µs.
fn sent_us(value: &[u8]) -> Option<u64> {
    let mut words = value.split(|byte| *byte == b' ').skip(1);
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_when_it_was_sent() {
        assert_eq!(sent_us(b"fine 1234 abc #1"), Some(1234));
        assert_eq!(sent_us(b"fine"), None);
        assert_eq!(sent_us(b"fine abc"), None);
    }

    #[test]
    fn records_that_were_under_way_are_disturbed() {
        let disturbance = Disturbance::default();
        assert!(!disturbance.has_met(1));
        disturbance.begin();
        assert!(disturbance.has_met(u64::MAX));
        disturbance.end(Instant::now() - Duration::from_micros(500));
        assert!(disturbance.has_met(400) && !disturbance.has_met(u64::MAX));
    }
}
