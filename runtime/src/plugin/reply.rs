//! What a plugin returned, before anything of it has been checked: the interface's `output` as
//! plain columns.
//!
//! It is a type apart from the one that wasmtime lifts so that the checks on it can be fuzzed
//! without a WebAssembly engine; turning one into the other moves the columns.

use super::output::FailureKind;

/// `types.output`.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    pub(super) processed: u32,
    pub(super) source: Vec<u32>,
    pub(super) port: Vec<u32>,
    pub(super) values: Vec<u8>,
    pub(super) value_ends: Vec<u32>,
    pub(super) null_values: Vec<u32>,
    pub(super) keys: Vec<u8>,
    pub(super) key_ends: Vec<u32>,
    pub(super) null_keys: Vec<u32>,
    pub(super) headers: Vec<u8>,
    pub(super) header_ends: Vec<u32>,
    pub(super) timestamps: Vec<u64>,
    pub(super) failed: Vec<ReplyFailure>,
}

/// `types.failure`.
#[derive(Debug, Clone)]
pub(super) struct ReplyFailure {
    pub(super) index: u32,
    pub(super) kind: FailureKind,
    pub(super) reason: String,
}
