//! `millstream:plugin/timers`: one-shot timers, private to one task.
//!
//! What a batch sets and cancels is kept aside and taken by the task after the batch; it becomes
//! durable with its checkpoint, and goes with the instance if the batch fails. Nothing is read.

use bytes::Bytes;

use super::{
    HostFault, HostState, bindings::millstream::plugin::timers::Host, columns::split,
    state::WRITE_OVERHEAD_BYTES,
};
use crate::model::limits::MAX_TIMESTAMP_MS;

/// Longest key of a timer, in bytes.
pub const MAX_TIMER_KEY_BYTES: usize = 4 * 1024;
/// Largest payload of a timer, in bytes.
pub const MAX_TIMER_PAYLOAD_BYTES: usize = 64 * 1024;

/// A timer that is set, or cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerChange {
    /// When it fires, in ms since the epoch.
    pub due_ms: u64,
    /// Its key.
    pub key: Bytes,
    /// What it is set with; none if it is cancelled.
    pub payload: Option<Bytes>,
}

/// One instance's changes of its task's timers.
pub(in crate::plugin) struct Timers {
    /// In the order in which they were made: of two for one timer the later one counts.
    changes: Vec<TimerChange>,
    /// What the changes count against the limit.
    written_bytes: usize,
    /// Bytes that a batch may set and cancel: keys, payloads and 64 a change.
    limit_bytes: usize,
}

impl Timers {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            changes: Vec::new(),
            written_bytes: 0,
            limit_bytes,
        }
    }

    /// Takes the changes since the last call.
    pub(in crate::plugin) fn take_changes(&mut self) -> Vec<TimerChange> {
        self.written_bytes = 0;
        std::mem::take(&mut self.changes)
    }

    fn change(&mut self, due_ms: u64, key: Bytes, payload: Option<Bytes>) -> wasmtime::Result<()> {
        if due_ms > MAX_TIMESTAMP_MS {
            return Err(timers_fault(format!(
                "a timer is due at {due_ms}, at most {MAX_TIMESTAMP_MS} is allowed"
            )));
        }
        let key_bytes = key.len();
        if key_bytes > MAX_TIMER_KEY_BYTES {
            return Err(timers_fault(format!(
                "a timer's key has {key_bytes} bytes, at most {MAX_TIMER_KEY_BYTES} are allowed"
            )));
        }
        let payload_bytes = payload.as_ref().map_or(0, Bytes::len);
        if payload_bytes > MAX_TIMER_PAYLOAD_BYTES {
            return Err(timers_fault(format!(
                "a timer's payload has {payload_bytes} bytes, at most {MAX_TIMER_PAYLOAD_BYTES} are allowed: keep more in the state"
            )));
        }
        self.written_bytes += key_bytes + payload_bytes + WRITE_OVERHEAD_BYTES;
        if self.written_bytes > self.limit_bytes {
            return Err(timers_fault(format!(
                "one batch set and cancelled more than {} bytes of timers",
                self.limit_bytes
            )));
        }
        self.changes.push(TimerChange {
            due_ms,
            key,
            payload,
        });
        Ok(())
    }
}

fn timers_fault(reason: String) -> wasmtime::Error {
    wasmtime::Error::new(HostFault::Timers(reason))
}

fn check_lengths(function: &str, keys: usize, others: usize, what: &str) -> wasmtime::Result<()> {
    if keys == others {
        return Ok(());
    }
    Err(HostFault::argument(format!(
        "it called `timers.{function}` with {keys} keys and {others} {what}"
    )))
}

impl Host for HostState {
    fn set(&mut self, key: Vec<u8>, due_ms: u64, payload: Vec<u8>) -> wasmtime::Result<()> {
        self.timers.change(due_ms, key.into(), Some(payload.into()))
    }

    fn cancel(&mut self, key: Vec<u8>, due_ms: u64) -> wasmtime::Result<()> {
        self.timers.change(due_ms, key.into(), None)
    }

    fn set_many(
        &mut self,
        keys: Vec<u8>,
        key_ends: Vec<u32>,
        due_ms: Vec<u64>,
        payloads: Vec<u8>,
        payload_ends: Vec<u32>,
    ) -> wasmtime::Result<()> {
        check_lengths("set-many", key_ends.len(), due_ms.len(), "times")?;
        check_lengths("set-many", key_ends.len(), payload_ends.len(), "payloads")?;
        let keys = split("timers", "key", keys, &key_ends)?;
        let payloads = split("timers", "payload", payloads, &payload_ends)?;
        for ((key, payload), due_ms) in keys.into_iter().zip(payloads).zip(due_ms) {
            self.timers.change(due_ms, key, Some(payload))?;
        }
        Ok(())
    }

    fn cancel_many(
        &mut self,
        keys: Vec<u8>,
        key_ends: Vec<u32>,
        due_ms: Vec<u64>,
    ) -> wasmtime::Result<()> {
        check_lengths("cancel-many", key_ends.len(), due_ms.len(), "times")?;
        let keys = split("timers", "key", keys, &key_ends)?;
        for (key, due_ms) in keys.into_iter().zip(due_ms) {
            self.timers.change(due_ms, key, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers() -> Timers {
        Timers::new(1 << 20)
    }

    fn reason(changed: wasmtime::Result<()>) -> String {
        let error = changed.unwrap_err();
        let fault = error.downcast_ref::<HostFault>().unwrap();
        assert!(matches!(fault, HostFault::Timers(_)), "{fault:?}");
        fault.to_string()
    }

    #[test]
    fn changes_leave_once_and_in_their_order() {
        let mut timers = timers();
        let key = Bytes::from_static(b"k");
        timers.change(7, key.clone(), Some(key.clone())).unwrap();
        timers.change(7, key.clone(), None).unwrap();
        let changes = timers.take_changes();
        let payloads: Vec<_> = changes.iter().map(|change| &change.payload).collect();
        assert_eq!(payloads, [&Some(key), &None]);
        assert!(timers.take_changes().is_empty());
    }

    #[test]
    fn keys_payloads_and_batches_are_bounded() {
        let bytes = |len: usize| Bytes::from(vec![0; len]);
        let longest = bytes(MAX_TIMER_KEY_BYTES);
        timers().change(0, longest, None).unwrap();
        let long = reason(timers().change(0, bytes(MAX_TIMER_KEY_BYTES + 1), None));
        assert!(long.contains("a timer's key has 4097 bytes"), "{long}");
        let large = Some(bytes(MAX_TIMER_PAYLOAD_BYTES + 1));
        let large = reason(timers().change(0, Bytes::new(), large));
        assert!(
            large.contains("a timer's payload has 65537 bytes"),
            "{large}"
        );
        let late = reason(timers().change(MAX_TIMESTAMP_MS + 1, Bytes::new(), None));
        assert!(late.contains("a timer is due at"), "{late}");
        let mut timers = timers();
        for due_ms in 0..1 << 14 {
            timers.change(due_ms, Bytes::new(), None).unwrap();
        }
        let many = reason(timers.change(0, Bytes::new(), None));
        assert!(many.contains("more than 1048576 bytes of timers"), "{many}");
        // The next batch starts anew.
        timers.take_changes();
        timers.change(0, Bytes::new(), None).unwrap();
    }
}
