//! WASI 0.2 for plugins: what a language's standard library links is there and empty.
//!
//! - `wasi:cli`: no arguments, no environment, nothing on stdin, no terminal; stdout and stderr
//!   become log lines; exit ends the call as a trap.
//! - `wasi:filesystem`: no preopened directory, so that no file can be named.
//! - `wasi:clocks`, `wasi:random`: a component that imports their functions without a grant is
//!   refused before it runs (see [`contract`](super::contract)); as a second line of defence every
//!   call checks the grant again.
//! - `wasi:random/insecure-seed`: always there, and always the same. Rust's `HashMap` and others
//!   take their hash seed from it; with a fixed one a plugin iterates in the same order each time
//!   it sees the same records, which makes failures reproducible. Whoever knows the seed can
//!   choose keys that collide; the deadline bounds what that costs.
//!
//! # Blocking
//!
//! Everything is synchronous. wasmtime-wasi's own synchronous bindings run each call that may block
//! on a tokio runtime, either the caller's or one they start for it, and a guest that sleeps there
//! cannot be stopped. So `wasi:io` and `wasi:clocks` are implemented here: the only streams are
//! those above, which never block, and the only thing to wait for is time, which
//! [`wait`](HostState::wait) does, no longer than until the call's deadline.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::{
    filesystem::{WasiFilesystem, WasiFilesystemCtxView},
    p2::{
        DynInputStream, DynOutputStream, DynPollable, OutputStream, Pollable, StreamError,
        StreamResult,
        bindings::{cli, clocks, filesystem, random, sync},
        pipe::ClosedInputStream,
        subscribe,
    },
};

use super::host::{
    HostFault, HostState,
    guest_log::{GuestLog, Stdio},
};

/// Most bytes of randomness that one call gives.
const MAX_RANDOM_BYTES: u64 = 1024 * 1024;
/// The fixed `insecure-seed`: the digits of pi, since any number will do.
const INSECURE_SEED: (u64, u64) = (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);
/// What a stream takes in one write.
const WRITE_PERMIT_BYTES: usize = 64 * 1024;

/// Links WASI.
///
/// # Errors
/// When an import is linked twice, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    type This = HasSelf<HostState>;
    cli::environment::add_to_linker::<_, This>(linker, |state| state)?;
    cli::exit::add_to_linker::<_, This>(linker, |state| state)?;
    cli::stdin::add_to_linker::<_, This>(linker, |state| state)?;
    cli::stdout::add_to_linker::<_, This>(linker, |state| state)?;
    cli::stderr::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_input::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_output::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_stdin::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_stdout::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_stderr::add_to_linker::<_, This>(linker, |state| state)?;
    clocks::wall_clock::add_to_linker::<_, This>(linker, |state| state)?;
    clocks::monotonic_clock::add_to_linker::<_, This>(linker, |state| state)?;
    random::random::add_to_linker::<_, This>(linker, |state| state)?;
    random::insecure::add_to_linker::<_, This>(linker, |state| state)?;
    random::insecure_seed::add_to_linker::<_, This>(linker, |state| state)?;
    sync::io::error::add_to_linker::<_, HasSelf<wasmtime::component::ResourceTable>>(
        linker,
        |state| &mut state.table,
    )?;
    sync::io::poll::add_to_linker::<_, This>(linker, |state| state)?;
    sync::io::streams::add_to_linker::<_, This>(linker, |state| state)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(linker, filesystem_view)?;
    sync::filesystem::types::add_to_linker::<_, WasiFilesystem>(linker, filesystem_view)
}

/// wasmtime-wasi's file system over an empty context: without a directory to start from, none of
/// its functions can be reached.
fn filesystem_view(state: &mut HostState) -> WasiFilesystemCtxView<'_> {
    WasiFilesystemCtxView {
        ctx: &mut state.filesystem,
        table: &mut state.table,
    }
}

/// An instance's clocks.
pub(super) struct Clocks {
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

/// An instance's source of randomness, made when it is first used.
#[derive(Default)]
pub(super) struct Randomness {
    generator: Option<Box<dyn wasmtime_wasi::Rng + Send>>,
}

impl Randomness {
    fn generator(&mut self) -> &mut (dyn wasmtime_wasi::Rng + Send) {
        self.generator
            .get_or_insert_with(wasmtime_wasi::thread_rng)
            .as_mut()
    }

    fn bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        if len > MAX_RANDOM_BYTES {
            return Err(HostFault::argument(format!(
                "it asked for {len} random bytes, at most {MAX_RANDOM_BYTES} are given at once"
            )));
        }
        let mut bytes = vec![0; len as usize];
        self.generator().fill_bytes(&mut bytes);
        Ok(bytes)
    }
}

impl HostState {
    fn require(&self, is_granted: bool, what: &'static str) -> wasmtime::Result<()> {
        if is_granted {
            Ok(())
        } else {
            Err(wasmtime::Error::new(HostFault::Denied(what)))
        }
    }

    fn require_clocks(&self) -> wasmtime::Result<()> {
        self.require(self.grants.clocks, "wasi:clocks")
    }

    fn require_random(&self) -> wasmtime::Result<()> {
        self.require(self.grants.random, "wasi:random")
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

    fn open_output(&mut self, stdio: Stdio) -> wasmtime::Result<Resource<DynOutputStream>> {
        let stream = LogStream {
            stdio,
            log: Arc::clone(&self.log),
        };
        Ok(self.table.push(Box::new(stream) as DynOutputStream)?)
    }
}

/// What stands behind a pollable that waits for time.
struct Timer;

/// The boxed future that `async fn ready` of wasmtime-wasi's trait returns.
type Ready<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

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

/// stdout or stderr.
struct LogStream {
    stdio: Stdio,
    log: Arc<Mutex<GuestLog>>,
}

impl Pollable for LogStream {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(std::future::ready(()))
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.lock().write(self.stdio, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT_BYTES)
    }
}

impl cli::environment::Host for HostState {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl cli::exit::Host for HostState {
    fn exit(&mut self, status: Result<(), ()>) -> wasmtime::Result<()> {
        self.exit_with_code(u8::from(status.is_err()))
    }

    fn exit_with_code(&mut self, status: u8) -> wasmtime::Result<()> {
        Err(wasmtime::Error::new(HostFault::Exit(status)))
    }
}

impl cli::stdin::Host for HostState {
    fn get_stdin(&mut self) -> wasmtime::Result<Resource<DynInputStream>> {
        Ok(self
            .table
            .push(Box::new(ClosedInputStream) as DynInputStream)?)
    }
}

impl cli::stdout::Host for HostState {
    fn get_stdout(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.open_output(Stdio::Stdout)
    }
}

impl cli::stderr::Host for HostState {
    fn get_stderr(&mut self) -> wasmtime::Result<Resource<DynOutputStream>> {
        self.open_output(Stdio::Stderr)
    }
}

impl cli::terminal_input::Host for HostState {}

impl cli::terminal_input::HostTerminalInput for HostState {
    fn drop(&mut self, _: Resource<cli::terminal_input::TerminalInput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_output::Host for HostState {}

impl cli::terminal_output::HostTerminalOutput for HostState {
    fn drop(&mut self, _: Resource<cli::terminal_output::TerminalOutput>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl cli::terminal_stdin::Host for HostState {
    fn get_terminal_stdin(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_input::TerminalInput>>> {
        Ok(None)
    }
}

impl cli::terminal_stdout::Host for HostState {
    fn get_terminal_stdout(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
    }
}

impl cli::terminal_stderr::Host for HostState {
    fn get_terminal_stderr(
        &mut self,
    ) -> wasmtime::Result<Option<Resource<cli::terminal_output::TerminalOutput>>> {
        Ok(None)
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

impl random::random::Host for HostState {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.require_random()?;
        self.randomness.bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.require_random()?;
        Ok(self.randomness.generator().next_u64())
    }
}

impl random::insecure::Host for HostState {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.require_random()?;
        self.randomness.bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.require_random()?;
        Ok(self.randomness.generator().next_u64())
    }
}

impl random::insecure_seed::Host for HostState {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok(INSECURE_SEED)
    }
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

/// What a stream's function fails with when it names a stream that is not there.
fn no_stream(error: wasmtime::component::ResourceTableError) -> StreamError {
    StreamError::Trap(error.into())
}

impl sync::io::streams::Host for HostState {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<sync::io::streams::StreamError> {
        sync::io::streams::Host::convert_stream_error(&mut self.table, error)
    }
}

impl sync::io::streams::HostOutputStream for HostState {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        Ok(self
            .table
            .get_mut(&stream)
            .map_err(no_stream)?
            .check_write()? as u64)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.table
            .get_mut(&stream)
            .map_err(no_stream)?
            .write(bytes.into())
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.table.get_mut(&stream).map_err(no_stream)?.flush()
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.flush(stream)
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        self.table
            .get_mut(&stream)
            .map_err(no_stream)?
            .write_zeroes(clamp(len))
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        self.write_zeroes(stream, len)
    }

    fn splice(
        &mut self,
        _target: Resource<DynOutputStream>,
        source: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        // The only input is stdin, which is at its end.
        Ok(self
            .table
            .get_mut(&source)
            .map_err(no_stream)?
            .skip(clamp(len))? as u64)
    }

    fn blocking_splice(
        &mut self,
        target: Resource<DynOutputStream>,
        source: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        self.splice(target, source, len)
    }

    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl sync::io::streams::HostInputStream for HostState {
    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        Ok(self
            .table
            .get_mut(&stream)
            .map_err(no_stream)?
            .read(clamp(len))?
            .into())
    }

    fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<Vec<u8>> {
        self.read(stream, len)
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        Ok(self
            .table
            .get_mut(&stream)
            .map_err(no_stream)?
            .skip(clamp(len))? as u64)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        self.skip(stream, len)
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

fn clamp(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
