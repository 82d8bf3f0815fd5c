//! The interface's `batch` and `output` as wasmtime lowers and lifts them.
//!
//! Every column is a list of integers, which wasmtime copies in one piece in both directions (see
//! `linear_store_list_to_memory` and `linear_lift_into_from_memory` of its integer types). The
//! batch borrows the host's columns; the output is owned, since the guest frees its side before
//! the call returns.

use wasmtime::component::{ComponentType, Lift, Lower};

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

/// `types.output`, as the guest returned it: nothing of it has been checked.
#[derive(Debug, Clone, Default, ComponentType, Lift)]
#[component(record)]
pub(super) struct RawOutput {
    pub(super) processed: u32,
    pub(super) source: Vec<u32>,
    pub(super) port: Vec<u32>,
    pub(super) values: Vec<u8>,
    #[component(name = "value-ends")]
    pub(super) value_ends: Vec<u32>,
    #[component(name = "null-values")]
    pub(super) null_values: Vec<u32>,
    pub(super) keys: Vec<u8>,
    #[component(name = "key-ends")]
    pub(super) key_ends: Vec<u32>,
    #[component(name = "null-keys")]
    pub(super) null_keys: Vec<u32>,
    pub(super) headers: Vec<u8>,
    #[component(name = "header-ends")]
    pub(super) header_ends: Vec<u32>,
    pub(super) timestamps: Vec<u64>,
    pub(super) failed: Vec<RawFailure>,
}

/// `types.failure`.
#[derive(Debug, Clone, ComponentType, Lift)]
#[component(record)]
pub(super) struct RawFailure {
    pub(super) index: u32,
    pub(super) kind: RawFailureKind,
    pub(super) reason: String,
}

/// `types.failure-kind`.
#[derive(Debug, Clone, ComponentType, Lift)]
#[component(variant)]
pub(super) enum RawFailureKind {
    #[component(name = "retry")]
    Retry(Option<u32>),
    #[component(name = "reject")]
    Reject,
}

/// Parameters of `consumer.process`.
pub(super) type ProcessParams<'a> = (Batch<'a>,);
/// Parameters of `producer.produce`.
pub(super) type ProduceParams = (u32,);
/// What `process` and `produce` return.
pub(super) type ReplyResult = (Result<RawOutput, String>,);
/// Parameters of `lifecycle.open`.
pub(super) type OpenParams<'a> = (&'a [(String, String)],);
/// What `open` returns.
pub(super) type OpenResult = (Result<(), String>,);
