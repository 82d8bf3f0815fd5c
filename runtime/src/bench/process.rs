//! What this process, or another one, has taken of the machine.

use std::fs;
use std::time::Duration;

use crate::bench::environment::{field_of, kibibytes};

/// Starts a new peak of resident memory. Where the system cannot do that, the peak stays that of
/// the whole process, which is no less.
pub(super) fn reset_peak_memory() {
    // 5 = reset the peak (`man 5 proc_pid_clear_refs`).
    if let Err(error) = fs::write("/proc/self/clear_refs", "5") {
        tracing::warn!(%error, "peak memory is that of the whole process");
    }
}

/// Greatest resident size since the start, or the last reset, in bytes.
pub(super) fn peak_memory_bytes() -> u64 {
    field_of("/proc/self/status", "VmHWM")
        .and_then(|text| kibibytes(&text))
        .unwrap_or_default()
}

/// Processor time of all threads so far, of this process and the system on its behalf.
pub(super) fn cpu_time() -> Duration {
    cpu_time_of(std::process::id())
}

/// As [`cpu_time`], of another process.
pub(super) fn cpu_time_of(process_id: u32) -> Duration {
    /// The unit of the proc file system, which is fixed for programs.
    const TICK_MS: u64 = 10;
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap_or_default();
    // The second field is the program's name in parentheses, and may hold anything.
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = behind_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map_while(|field| field.parse::<u64>().ok());
    Duration::from_millis(ticks.sum::<u64>() * TICK_MS)
}

/// Resident size of a process now, in bytes.
pub(super) fn memory_bytes_of(process_id: u32) -> u64 {
    field_of(&format!("/proc/{process_id}/status"), "VmRSS")
        .and_then(|text| kibibytes(&text))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_counted() {
        assert!(peak_memory_bytes() > 1 << 20);
        assert!(memory_bytes_of(std::process::id()) > 1 << 20);
        let start = std::time::Instant::now();
        let before = cpu_time();
        // It is counted in steps of 10 ms.
        while cpu_time() == before {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::hint::spin_loop();
        }
    }
}
