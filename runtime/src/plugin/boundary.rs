//! The interface's `batch` and `output` as wasmtime lowers and lifts them.
//!
//! Every column is a list of integers, which wasmtime copies in one piece in both directions (see
//! `linear_store_list_to_memory` and `linear_lift_into_from_memory` of its integer types). The
//! batch borrows the host's columns; the output is owned, since the guest frees its side before
//! the call returns.

use wasmtime::component::{ComponentType, Lift, Lower};

use super::{
    output::FailureKind,
    reply::{Reply, ReplyFailure},
};

/// `types.batch`, borrowed.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct Batch<'a> {
    pub(super) input: u32,
    pub(super) partition: u32,
    pub(super) keys: &'a [u8],
    #[component(name = "key-ends")]
    pub(super) key_ends: &'a [u32],
    #[component(name = "null-keys")]
    pub(super) null_keys: &'a [u32],
    pub(super) values: &'a [u8],
    #[component(name = "value-ends")]
    pub(super) value_ends: &'a [u32],
    #[component(name = "null-values")]
    pub(super) null_values: &'a [u32],
    pub(super) headers: &'a [u8],
    #[component(name = "header-ends")]
    pub(super) header_ends: &'a [u32],
    pub(super) timestamps: &'a [u64],
    pub(super) offsets: &'a [u64],
    #[component(name = "delivery-counts")]
    pub(super) delivery_counts: &'a [u32],
}

/// `types.timer-batch`, borrowed.
#[derive(Debug, Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct TimerBatch<'a> {
    pub(super) keys: &'a [u8],
    #[component(name = "key-ends")]
    pub(super) key_ends: &'a [u32],
    #[component(name = "due-ms")]
    pub(super) due_ms: &'a [u64],
    pub(super) payloads: &'a [u8],
    #[component(name = "payload-ends")]
    pub(super) payload_ends: &'a [u32],
    #[component(name = "delivery-counts")]
    pub(super) delivery_counts: &'a [u32],
}

/// `types.output`, as the guest returned it: nothing of it has been checked.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct RawOutput {
    processed: u32,
    source: Vec<u32>,
    port: Vec<u32>,
    values: Vec<u8>,
    #[component(name = "value-ends")]
    value_ends: Vec<u32>,
    #[component(name = "null-values")]
    null_values: Vec<u32>,
    keys: Vec<u8>,
    #[component(name = "key-ends")]
    key_ends: Vec<u32>,
    #[component(name = "null-keys")]
    null_keys: Vec<u32>,
    headers: Vec<u8>,
    #[component(name = "header-ends")]
    header_ends: Vec<u32>,
    timestamps: Vec<u64>,
    failed: Vec<RawFailure>,
}

/// `types.failure`.
#[derive(Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct RawFailure {
    index: u32,
    kind: RawFailureKind,
    reason: String,
}

/// `types.failure-kind`.
#[derive(Debug, ComponentType, Lift)]
#[component(variant)]
pub(super) enum RawFailureKind {
    #[component(name = "retry")]
    Retry(Option<u32>),
    #[component(name = "reject")]
    Reject,
}

impl From<RawOutput> for Reply {
    fn from(raw: RawOutput) -> Self {
        Self {
            processed: raw.processed,
            source: raw.source,
            port: raw.port,
            values: raw.values,
            value_ends: raw.value_ends,
            null_values: raw.null_values,
            keys: raw.keys,
            key_ends: raw.key_ends,
            null_keys: raw.null_keys,
            headers: raw.headers,
            header_ends: raw.header_ends,
            timestamps: raw.timestamps,
            failed: raw.failed.into_iter().map(ReplyFailure::from).collect(),
        }
    }
}

impl From<RawFailure> for ReplyFailure {
    fn from(raw: RawFailure) -> Self {
        let kind = match raw.kind {
            RawFailureKind::Retry(delay_ms) => FailureKind::Retry { delay_ms },
            RawFailureKind::Reject => FailureKind::Reject,
        };
        Self {
            index: raw.index,
            kind,
            reason: raw.reason,
        }
    }
}

/// Parameters of `consumer.process`.
pub(super) type ProcessParams<'a> = (Batch<'a>,);
/// Parameters of `timer-handler.on-timers`.
pub(super) type OnTimersParams<'a> = (TimerBatch<'a>,);
/// Parameters of `producer.produce`.
pub(super) type ProduceParams = (u32,);
/// What `process`, `on-timers` and `produce` return.
pub(super) type ReplyResult = (Result<RawOutput, String>,);
/// Parameters of `lifecycle.open`.
pub(super) type OpenParams<'a> = (&'a [(String, String)],);
/// What `open` returns.
pub(super) type OpenResult = (Result<(), String>,);
