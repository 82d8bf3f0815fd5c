//! The host's side of a plugin: what its imports do.
//!
//! [`HostState`] is the data of one instance's store. The submodules implement one imported
//! interface each; those of WASI are in `wasi/`.

pub(super) mod columns;
pub(super) mod config;
pub(super) mod context;
pub(super) mod guest_log;
pub(super) mod log_tail;
pub(super) mod logging;
pub(super) mod metrics;
pub(super) mod state;
pub(super) mod timers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;

use super::{
    columns::Columns,
    conditions::Conditions,
    contract::Grants,
    digest::Digest,
    instance::InstanceContext,
    limits::{Limiter, Limits},
    recording::{Moment, Readings},
    slot::Outside,
    wasi::{self, Clocks, Http, HttpClient, Randomness},
};
use guest_log::GuestLog;
use metrics::PluginMetrics;
use state::{State, StateLimits, StateReader};
use timers::Timers;

/// What `wit/plugin.wit` says about the imports, as Rust traits.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package millstream:host;
            world host {
                import millstream:plugin/state@0.1.0;
                import millstream:plugin/timers@0.1.0;
                import millstream:plugin/context@0.1.0;
                import millstream:plugin/metrics@0.1.0;
                import wasi:logging/logging@0.1.0-draft;
                import wasi:config/store@0.2.0-rc.1;
            }
        ",
        world: "millstream:host/host",
        imports: { default: trappable },
    });
}

/// Why a host function ends the call that it is part of. It travels through the guest as a trap.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostFault {
    /// State could not be read, or a limit on it is broken.
    #[error("{0}")]
    State(String),
    /// A limit on timers is broken.
    #[error("{0}")]
    Timers(String),
    /// A capability that was not granted was used.
    #[error("{0} is not granted")]
    Denied(&'static str),
    /// The guest would sleep, or wait for a service, past its deadline.
    #[error("waited past the deadline")]
    Deadline,
    /// The guest called an import with what it does not accept.
    #[error("{0}")]
    Argument(String),
    /// The guest ended itself.
    #[error("it called exit with status {0}")]
    Exit(u8),
}

impl HostFault {
    pub(super) fn argument(message: impl Into<String>) -> wasmtime::Error {
        wasmtime::Error::new(Self::Argument(message.into()))
    }
}

/// The data of one instance's store.
pub(super) struct HostState {
    pub(super) table: ResourceTable,
    pub(super) filesystem: WasiFilesystemCtx,
    pub(super) limiter: Limiter,
    pub(super) grants: Grants,
    pub(super) clocks: Clocks,
    pub(super) randomness: Randomness,
    pub(super) http: Http,
    pub(super) log: Arc<Mutex<GuestLog>>,
    pub(super) state: State,
    pub(super) timers: Timers,
    pub(super) metrics: Arc<PluginMetrics>,
    pub(super) context: InstanceContext,
    pub(super) digest: Digest,
    pub(super) call: Call,
    /// Whether the first call, which opens it, has started.
    is_open: bool,
}

/// The call that is running.
#[derive(Debug)]
pub(super) struct Call {
    /// When it is stopped, but for what it has waited for its turn.
    deadline: Instant,
    /// How long before that waits for services end.
    margin: Duration,
    /// Its waits.
    pub(super) outside: Arc<Outside>,
    /// What it is about, for idempotency keys; nothing if the plugin does not ask for any.
    subject: Subject,
    /// The record on which the guest has said that it traps.
    pub(super) trapping_at: Option<u32>,
}

/// What a call is about.
#[derive(Debug)]
pub(super) enum Subject {
    Nothing,
    Records {
        /// Index of the batch's input.
        input: u32,
        /// Partition of the batch's input.
        partition: u32,
        offsets: Vec<u64>,
    },
    /// Timers: keys and due times.
    Timers(Vec<(Bytes, u64)>),
}

impl Call {
    /// When it is stopped.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline + self.outside.queued()
    }

    /// How long it may wait for services from now on; none if it may not any more.
    pub(super) fn time_for_waits(&self) -> Option<Duration> {
        let left = self.deadline().saturating_duration_since(Instant::now());
        left.checked_sub(self.margin).filter(|left| !left.is_zero())
    }
}

impl HostState {
    pub(super) fn new(
        context: InstanceContext,
        digest: Digest,
        grants: Grants,
        limits: &Limits,
        reader: Box<dyn StateReader>,
        conditions: &Conditions,
        http: HttpClient,
    ) -> Self {
        let outside = Arc::new(Outside::new(context.slot.clone()));
        let mut log = GuestLog::new(
            context.pipeline.clone(),
            context.partition,
            Arc::clone(&context.log_limit),
        );
        if matches!(conditions, Conditions::Recorded(..)) {
            // It has said all of it before.
            log.mute();
        }
        Self {
            table: ResourceTable::new(),
            filesystem: WasiFilesystemCtx::default(),
            limiter: Limiter::new(limits.memory_bytes),
            grants,
            clocks: Clocks::new(conditions),
            randomness: Randomness::new(conditions),
            http: Http::new(http, conditions),
            log: Arc::new(Mutex::new(log)),
            state: State::new(
                reader,
                StateLimits {
                    write_bytes: limits.state_bytes,
                    read_bytes: limits.memory_bytes,
                },
            ),
            timers: Timers::new(limits.state_bytes),
            metrics: Arc::clone(&context.metrics),
            context,
            digest,
            call: Call {
                deadline: Instant::now(),
                margin: wasi::margin(limits.deadline),
                outside,
                subject: Subject::Nothing,
                trapping_at: None,
            },
            is_open: false,
        }
    }

    /// Prepares for a call that is stopped at `deadline`.
    pub(super) fn start_call(&mut self, deadline: Instant) {
        self.limiter.start_call();
        self.log.lock().start_call();
        let is_opening = !std::mem::replace(&mut self.is_open, true);
        self.clocks.start_call(is_opening);
        self.randomness.start_call(is_opening);
        self.call.deadline = deadline;
        self.call.outside.start_call();
        self.call.subject = Subject::Nothing;
        self.call.trapping_at = None;
    }

    /// What the clocks and the random numbers of the current call start from.
    pub(super) fn moment(&self) -> Moment {
        let (wall_ns, monotonic_ns) = self.clocks.call_start();
        Moment {
            wall_ns,
            monotonic_ns,
            seed: self.randomness.seed(),
        }
    }

    /// Exchanges what the clocks have said in the current call for other memory.
    pub(super) fn swap_readings(&mut self, readings: &mut Readings) {
        self.clocks.swap_readings(readings);
    }

    /// Remembers which records a call is about.
    pub(super) fn remember_records(&mut self, batch: &Columns) {
        self.call.subject = Subject::Records {
            input: batch.input(),
            partition: batch.partition(),
            offsets: batch.offsets().to_vec(),
        };
    }

    /// Remembers which timers a call is about.
    pub(super) fn remember_timers(&mut self, batch: &Columns) {
        let timer = |index| {
            let key = batch.key(index).unwrap_or_default();
            (Bytes::copy_from_slice(key), batch.timestamp_ms(index))
        };
        self.call.subject = Subject::Timers((0..batch.len()).map(timer).collect());
    }
}

/// Links every import but those of WASI.
///
/// # Errors
/// When an import is linked twice, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    use bindings::{millstream::plugin, wasi};
    type This = HasSelf<HostState>;
    plugin::state::add_to_linker::<_, This>(linker, |state| state)?;
    plugin::timers::add_to_linker::<_, This>(linker, |state| state)?;
    plugin::context::add_to_linker::<_, This>(linker, |state| state)?;
    plugin::metrics::add_to_linker::<_, This>(linker, |state| state)?;
    wasi::logging::logging::add_to_linker::<_, This>(linker, |state| state)?;
    wasi::config::store::add_to_linker::<_, This>(linker, |state| state)
}
