//! `wasi:clocks` for those who are granted them, and `wasi:io/poll`, whose only thing to wait for is
//! time.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynPollable, Pollable,
    bindings::{clocks, sync},
    subscribe,
};

use super::{
    super::host::{HostFault, HostState},
    streams::Ready,
};

/// An instance's clocks.
pub(in crate::plugin) struct Clocks {
    /// Where its monotonic clock starts.
    started_at: Instant,
    /// Until when the pollables that wait for time wait, by their index in the table.
    timers: HashMap<u32, Instant>,
}

impl Default for Clocks {
    fn default() -> Self {
        Self {
            started_at: Instant::now(),
            timers: HashMap::new(),
        }
    }
}

impl HostState {
    fn require_clocks(&self) -> wasmtime::Result<()> {
        self.require(self.grants.clocks, "wasi:clocks")
    }

    /// When a pollable becomes ready; none if it is.
    fn ready_at(&self, pollable: &Resource<DynPollable>) -> Option<Instant> {
        self.clocks.timers.get(&pollable.rep()).copied()
    }

    /// Waits until `until`, or fails at the call's deadline.
    fn wait(&self, until: Instant) -> wasmtime::Result<()> {
        let deadline = self.call.deadline;
        thread::sleep(
            until
                .min(deadline)
                .saturating_duration_since(Instant::now()),
        );
        if until > deadline {
            return Err(wasmtime::Error::new(HostFault::Deadline));
        }
        Ok(())
    }

    /// A pollable that becomes ready after `duration`.
    fn timer(&mut self, duration: Duration) -> wasmtime::Result<Resource<DynPollable>> {
        let resource = self.table.push(Timer)?;
        let pollable = subscribe(&mut self.table, resource)?;
        // A time too far away to be represented is past every deadline.
        let until = Instant::now()
            .checked_add(duration)
            .unwrap_or_else(|| self.call.deadline + Duration::from_secs(1));
        self.clocks.timers.insert(pollable.rep(), until);
        Ok(pollable)
    }
}

/// What stands behind a pollable that waits for time.
struct Timer;

impl Pollable for Timer {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        // Not used: `poll` below looks at the timers themselves.
        Box::pin(std::future::ready(()))
    }
}

impl clocks::wall_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        self.require_clocks()?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(clocks::wall_clock::Datetime {
            seconds: now.as_secs(),
            nanoseconds: now.subsec_nanos(),
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        self.require_clocks()?;
        Ok(clocks::wall_clock::Datetime {
            seconds: 0,
            nanoseconds: 1,
        })
    }
}

impl clocks::monotonic_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.require_clocks()?;
        Ok(nanoseconds(self.clocks.started_at.elapsed()))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.require_clocks()?;
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.require_clocks()?;
        let now = nanoseconds(self.clocks.started_at.elapsed());
        self.timer(Duration::from_nanos(when.saturating_sub(now)))
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.require_clocks()?;
        self.timer(Duration::from_nanos(duration))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    // 64 bits are 584 years.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl sync::io::poll::Host for HostState {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        if pollables.is_empty() {
            return Err(HostFault::argument("it called `poll` with an empty list"));
        }
        let times: Vec<_> = pollables
            .iter()
            .map(|pollable| self.ready_at(pollable))
            .collect();
        let ready = |now: Instant| -> Vec<u32> {
            (0..)
                .zip(&times)
                .filter(|(_, time)| time.is_none_or(|time| time <= now))
                .map(|(index, _)| index)
                .collect()
        };
        let now = ready(Instant::now());
        if !now.is_empty() {
            return Ok(now);
        }
        // None is ready, so that all of them wait for a time.
        if let Some(first) = times.iter().flatten().min() {
            self.wait(*first)?;
        }
        Ok(ready(Instant::now()))
    }
}

impl sync::io::poll::HostPollable for HostState {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        Ok(self
            .ready_at(&pollable)
            .is_none_or(|time| time <= Instant::now()))
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.ready_at(&pollable)
            .map_or(Ok(()), |time| self.wait(time))
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.clocks.timers.remove(&pollable.rep());
        sync::io::poll::HostPollable::drop(&mut self.table, pollable)
    }
}
