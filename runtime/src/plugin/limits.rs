//! What one instance may take.

use std::time::Duration;

use wasmtime::ResourceLimiter;

/// Limits on an instance and on its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All linear memories of the instance together, in bytes.
    pub memory_bytes: usize,
    /// The longest a call may take. It is checked every 10 ms, so that a call is stopped up to
    /// 20 ms later.
    pub deadline: Duration,
    /// Most bytes of keys, values and headers that one call may return.
    pub output_bytes: usize,
    /// Most records that one call may return.
    pub output_records: usize,
    /// Most bytes of state that one batch may write: keys, values, and 64 bytes for each write. As much
    /// may it set and cancel of timers: keys, payloads, and 64 bytes each.
    pub state_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 * 1024 * 1024,
            deadline: Duration::from_secs(2),
            output_bytes: 16 * 1024 * 1024,
            output_records: 65_536,
            state_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// Most bytes that a single call between guest and host may hand to the host: the largest
    /// output with its columns and failures, or the largest write to state. wasmtime counts what
    /// it copies out of the guest against this, so that a guest cannot make the host allocate more
    /// by naming the same bytes several times.
    pub(super) fn hostcall_bytes(&self) -> usize {
        /// Three columns of ends, three of indexes, source, port, a timestamp, a failure.
        const RECORD_BYTES: usize = 8 * 4 + 8 + 64;
        let output = self
            .output_bytes
            .saturating_add(self.output_records.saturating_mul(RECORD_BYTES));
        // Each key and each value of a write has an end as well.
        output
            .max(self.state_bytes.saturating_mul(2))
            .saturating_add(1024 * 1024)
    }
}

/// Most table elements of an instance: tables hold function pointers, and large programs have some
/// ten thousand of them.
const MAX_TABLE_ELEMENTS: usize = 100_000;
/// Most tables of an instance.
const MAX_TABLES: usize = 32;
/// Most core instances of a component instance.
const MAX_INSTANCES: usize = 64;
/// Most linear memories of an instance.
const MAX_MEMORIES: usize = 16;

/// Counts an instance's memory against its limit.
///
/// Growth beyond the limit is refused as WebAssembly defines it, so that a guest which can do with
/// less goes on. Most cannot, and trap; the refusal is remembered for the report.
#[derive(Debug)]
pub(super) struct Limiter {
    limit_bytes: usize,
    used_bytes: usize,
    /// Total size that was asked for when growth was refused in the current call.
    refused_bytes: Option<usize>,
}

impl Limiter {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            used_bytes: 0,
            refused_bytes: None,
        }
    }

    /// Starts a call.
    pub(super) fn start_call(&mut self) {
        self.refused_bytes = None;
    }

    /// What the instance would have taken when it was refused memory in the current call.
    pub(super) fn refused_bytes(&self) -> Option<usize> {
        self.refused_bytes
    }

    /// What the instance's memories take.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self
            .used_bytes
            .saturating_add(desired.saturating_sub(current));
        if wanted > self.limit_bytes {
            self.refused_bytes = Some(wanted);
            return Ok(false);
        }
        // The memory's own maximum: wasmtime refuses the growth after this.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.used_bytes = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_counted_together() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert_eq!(limiter.refused_bytes(), None);
        assert!(!limiter.memory_growing(60, 61, None).unwrap());
        assert_eq!(limiter.refused_bytes(), Some(101));
        limiter.start_call();
        assert_eq!(limiter.refused_bytes(), None);
        assert_eq!(limiter.used_bytes(), 100);
    }

    #[test]
    fn a_memorys_own_maximum_is_not_the_limit() {
        let mut limiter = Limiter::new(100);
        assert!(!limiter.memory_growing(0, 60, Some(50)).unwrap());
        assert_eq!((limiter.refused_bytes(), limiter.used_bytes()), (None, 0));
    }

    #[test]
    fn hostcalls_have_room_for_the_largest_output() {
        let limits = Limits::default();
        assert!(limits.hostcall_bytes() >= limits.output_bytes + limits.output_records * 100);
        let huge = Limits {
            output_bytes: usize::MAX,
            ..limits
        };
        assert_eq!(huge.hostcall_bytes(), usize::MAX);
    }
}
