//! Plugins: WebAssembly components that take and make records. The only module that names wasmtime.
//!
//! - [`PluginEngine`] compiles a component, or finds it compiled in its cache, checks its contract
//!   and returns a [`Plugin`].
//! - [`Plugin::instantiate`] makes an [`Instance`] within [`Limits`] and with nothing but what
//!   [`Grants`] give it.
//! - [`Instance::process`] takes [`Columns`] and returns a checked [`Output`], or a [`Fault`] that
//!   ends the instance.
//!
//! - [`Plugin::record`] runs a record in a fresh instance and notes what it sees;
//!   [`Plugin::replay`] runs it again with a [`Recording`] of that.
//!
//! The interface is `wit/plugin.wit`; records cross it as columns. A task keeps one instance and
//! calls it from batch to batch; everything is synchronous and may be called from any thread, in
//! an async runtime inside `block_in_place` like any other work that takes its time.
//!
//! # What holds
//!
//! - A guest reaches nothing but its own memory, its task's state, its log and its metrics, unless
//!   its pipeline grants it clocks, random numbers or the hosts that it calls (`contract.rs`, `wasi/`).
//! - A call that waits for a service does not hold the right to compute (`slot.rs`).
//! - A guest that loops, sleeps or waits is stopped at its deadline (`ticker.rs`), one that allocates at
//!   its limit (`limits.rs`); neither affects other instances.
//! - Nothing that a guest returns is used before it is checked (`output/`).

mod boundary;
mod cache;
mod call_stack;
mod columns;
mod component;
mod conditions;
mod contract;
mod difference;
mod digest;
mod ends;
mod engine;
mod error;
mod fault;
mod headers;
mod host;
mod instance;
mod limits;
mod line_rate;
mod output;
mod recording;
mod replay;
mod reply;
mod signature;
mod slot;
mod text;
mod ticker;
mod wasi;

pub use call_stack::CallStack;
pub use columns::Columns;
pub use component::Plugin;
pub use contract::{CONTRACT, Denied, Grants, ImportedInterface, Problem};
pub use difference::{Difference, Effect};
pub use digest::Digest;
pub use engine::{EngineOptions, MAX_INSTANCES, PluginEngine};
pub use error::{Error, MAX_COMPONENT_BYTES};
pub use fault::Fault;
pub use headers::EncodedHeaders;
pub use host::{
    columns::MAX_KEYS_PER_CALL,
    guest_log::LogLimit,
    log_tail::{LineSink, LogLine, TailLines},
    metrics::{MAX_METRIC_NAMES, MetricValue, PluginMetrics},
    state::{
        MAX_RANGE_ENTRIES, MAX_STATE_KEY_BYTES, MAX_STATE_VALUE_BYTES, NoState, RangeLimit,
        StateChanges, StateReader,
    },
    timers::{MAX_TIMER_KEY_BYTES, MAX_TIMER_PAYLOAD_BYTES, TimerChange},
};
pub use instance::{Instance, InstanceContext};
pub use limits::Limits;
pub use line_rate::{LinePermit, LineRate};
#[doc(hidden)]
pub use output::check_arbitrary;
pub use output::{Failure, FailureKind, Field, HeadersField, Output};
#[doc(hidden)]
pub use recording::check_arbitrary as check_arbitrary_recording;
pub use recording::{
    Allowance, DecodeError, MAX_READINGS, MAX_RECORDING_BYTES, Moment, NotKept, Place, Readings,
    Recording, SEED_BYTES, Seen, StateReads,
};
pub use replay::{RecordedCall, ReplayedCall};
pub use signature::{KeyId, PublicKey, Signature, SignatureError, SigningKey, TrustedKeys};
pub use slot::ComputeSlot;

#[cfg(test)]
pub(crate) mod tests;
