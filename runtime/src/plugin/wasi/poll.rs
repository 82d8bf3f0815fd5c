//! `wasi:io/poll`: waiting for time and for responses of services. All else is always ready.

use std::time::Instant;

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, bindings::sync};

use super::{
    super::host::{HostFault, HostState},
    http::FutureResponse,
};

/// What a pollable waits for.
enum Wait {
    /// Nothing, any more.
    Over,
    /// A time.
    Time(Instant),
    /// A response whose request can be sent.
    Response(Resource<FutureResponse>),
    /// A response whose request is still being written.
    Request(Resource<FutureResponse>),
}

impl Wait {
    fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::Over => true,
            Self::Time(time) => *time <= now,
            Self::Response(_) | Self::Request(_) => false,
        }
    }
}

impl HostState {
    fn wait_of(&self, pollable: &Resource<DynPollable>) -> wasmtime::Result<Wait> {
        if let Some(time) = self.clocks.timer(pollable.rep()) {
            return Ok(Wait::Time(time));
        }
        let Some(response) = self.http.awaited(pollable.rep()) else {
            return Ok(Wait::Over);
        };
        Ok(match self.table.get(&response)? {
            FutureResponse::Pending(prepared) if prepared.is_whole() => Wait::Response(response),
            FutureResponse::Pending(_) => Wait::Request(response),
            FutureResponse::Done(_) | FutureResponse::Taken => Wait::Over,
        })
    }

    fn waits_of(&self, pollables: &[Resource<DynPollable>]) -> wasmtime::Result<Vec<Wait>> {
        pollables
            .iter()
            .map(|pollable| self.wait_of(pollable))
            .collect()
    }

    /// Waits until one of them is over.
    fn wait_for_any(&mut self, waits: &[Wait]) -> wasmtime::Result<()> {
        // A response first, even if something else is over: nobody else would ever fetch it.
        let due = waits.iter().find_map(|wait| match wait {
            Wait::Response(response) => Some(response),
            _ => None,
        });
        if let Some(response) = due {
            return self.run_exchange(response);
        }
        if waits.iter().any(|wait| wait.is_over(Instant::now())) {
            return Ok(());
        }
        let times = waits.iter().filter_map(|wait| match wait {
            Wait::Time(time) => Some(*time),
            _ => None,
        });
        if let Some(first) = times.min() {
            return self.wait(first);
        }
        // A guest that waits for nothing but the response to what it has not written would wait without
        // end; this makes it an error of the request.
        match waits.first() {
            Some(Wait::Request(response)) => self.run_exchange(response),
            _ => Ok(()),
        }
    }
}

impl sync::io::poll::Host for HostState {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        if pollables.is_empty() {
            return Err(HostFault::argument("it called `poll` with an empty list"));
        }
        let waits = self.waits_of(&pollables)?;
        self.wait_for_any(&waits)?;
        let now = Instant::now();
        let ready = (0..).zip(self.waits_of(&pollables)?);
        Ok(ready
            .filter(|(_, wait)| wait.is_over(now))
            .map(|(index, _)| index)
            .collect())
    }
}

impl sync::io::poll::HostPollable for HostState {
    fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        Ok(self.wait_of(&pollable)?.is_over(Instant::now()))
    }

    fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        let wait = self.wait_of(&pollable)?;
        self.wait_for_any(&[wait])
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.clocks.forget(pollable.rep());
        self.http.forget(pollable.rep());
        sync::io::poll::HostPollable::drop(&mut self.table, pollable)
    }
}
