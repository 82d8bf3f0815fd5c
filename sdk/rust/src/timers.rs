//! One-shot timers: setting and cancelling them, and the view of one that is due.

use std::collections::BTreeMap;

use crate::columns::{Batch, TimerBatch};
use crate::host;
use crate::record::StateKeys;

/// What a batch has set and cancelled: payloads by due time and key, `None` for a cancelled timer.
type Changes = BTreeMap<u64, BTreeMap<Vec<u8>, Option<Vec<u8>>>>;

/// Timers of the task: the pipeline on one partition. [`State::timers`](crate::State::timers) has it.
///
/// A timer is a key and a time: setting the same key and time again replaces the payload, and a key
/// may have timers at several times. Times are those of the host's clock. What is set and cancelled
/// becomes durable with the batch, in one step with its outputs, its state and its progress, or not at
/// all; that of a record that fails is taken back.
#[derive(Default)]
pub struct Timers {
    /// What the records before this one have changed.
    changes: Changes,
    /// What the record being processed has changed, in its order.
    current: Vec<(u64, Vec<u8>, Option<Vec<u8>>)>,
    /// Hands the changes to the host. Only a plugin that asks for its timers has it, so that no other
    /// plugin imports them.
    write_back: Option<fn(Changes)>,
}

impl Timers {
    /// Makes the plugin one that has timers.
    pub(crate) fn enable(&mut self) -> &mut Self {
        self.write_back = Some(write_back);
        self
    }

    /// Sets a timer: at that time, in ms since the Unix epoch, `on_timer` is called with the key and
    /// the payload. It is called at once, after this batch, if that time has passed.
    pub fn set(&mut self, key: impl AsRef<[u8]>, due_ms: u64, payload: impl AsRef<[u8]>) {
        let payload = Some(payload.as_ref().to_vec());
        self.current.push((due_ms, key.as_ref().to_vec(), payload));
    }

    /// Cancels a timer; a missing one is no error. One that has been handed to `on_timer` is not there
    /// any more, also if it failed and is to be tried again.
    pub fn cancel(&mut self, key: impl AsRef<[u8]>, due_ms: u64) {
        self.current.push((due_ms, key.as_ref().to_vec(), None));
    }

    /// Starts a record or timer: its changes can be taken back until the next one starts.
    #[inline]
    pub(crate) fn enter(&mut self) {
        if !self.current.is_empty() {
            self.keep();
        }
    }

    fn keep(&mut self) {
        for (due_ms, key, payload) in self.current.drain(..) {
            self.changes.entry(due_ms).or_default().insert(key, payload);
        }
    }

    /// Takes back the changes of the record being processed.
    pub(crate) fn roll_back(&mut self) {
        self.current.clear();
    }

    /// Forgets everything, after a batch that failed as a whole.
    pub(crate) fn discard(&mut self) {
        self.current.clear();
        self.changes.clear();
    }

    /// Hands the batch's changes to the host.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.enter();
        if self.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        if let Some(write_back) = self.write_back {
            write_back(changes);
        }
    }

    /// Whether a timer of the batch has been cancelled, or set again, by one before it.
    pub(crate) fn is_changed(&self, timer: Timer<'_>) -> bool {
        let of_time = self.changes.get(&timer.due_ms());
        of_time.is_some_and(|of_time| of_time.contains_key(timer.key()))
    }
}

fn write_back(changes: Changes) {
    let (mut set, mut payloads, mut cancelled) = (
        StateKeys::default(),
        StateKeys::default(),
        StateKeys::default(),
    );
    let (mut set_due_ms, mut cancelled_due_ms) = (Vec::new(), Vec::new());
    for (due_ms, of_time) in changes {
        for (key, payload) in of_time {
            match payload {
                Some(payload) => {
                    set.push(key);
                    payloads.push(payload);
                    set_due_ms.push(due_ms);
                }
                None => {
                    cancelled.push(key);
                    cancelled_due_ms.push(due_ms);
                }
            }
        }
    }
    if !set_due_ms.is_empty() {
        host::timers_set_many(
            &set.bytes,
            &set.ends,
            &set_due_ms,
            &payloads.bytes,
            &payloads.ends,
        );
    }
    if !cancelled_due_ms.is_empty() {
        host::timers_cancel_many(&cancelled.bytes, &cancelled.ends, &cancelled_due_ms);
    }
}

/// A timer that is due. A view: copying it copies a reference and an index.
#[derive(Clone, Copy)]
pub struct Timer<'a> {
    batch: &'a Batch,
    index: usize,
}

impl<'a> Timer<'a> {
    pub(crate) fn at(batch: &'a Batch, index: usize) -> Self {
        Self { batch, index }
    }

    /// The key that it was set with.
    pub fn key(&self) -> &'a [u8] {
        self.batch.key(self.index).unwrap_or_default()
    }

    /// The key as text, or `None` if it is not UTF-8.
    pub fn key_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.key()).ok()
    }

    /// The time that it was set to, in ms since the Unix epoch. It may be called later than that, and
    /// is not called earlier.
    pub fn due_ms(&self) -> u64 {
        self.batch.timestamps[self.index]
    }

    /// The payload that it was set with.
    pub fn payload(&self) -> &'a [u8] {
        self.batch.value_bytes(self.index)
    }

    /// The payload as text, or `None` if it is not UTF-8.
    pub fn payload_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.payload()).ok()
    }

    /// How often it has been handed to the plugin; the first time is 1.
    pub fn delivery_count(&self) -> u32 {
        let count = self.batch.delivery_counts.get(self.index);
        count.copied().unwrap_or(1)
    }

    /// Index of the timer in its batch.
    pub fn index(&self) -> u32 {
        self.index as u32
    }
}

impl std::fmt::Debug for Timer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Timer")
            .field("key", &lossy(self.key()))
            .field("due_ms", &self.due_ms())
            .field("payload", &lossy(self.payload()))
            .finish_non_exhaustive()
    }
}

/// The timers as a batch of records: payloads as values, due times as timestamps.
pub(crate) fn to_batch(timers: TimerBatch) -> Batch {
    Batch {
        keys: timers.keys,
        key_ends: timers.key_ends,
        values: timers.payloads,
        value_ends: timers.payload_ends,
        timestamps: timers.due_ms,
        delivery_counts: timers.delivery_counts,
        ..Batch::empty()
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
