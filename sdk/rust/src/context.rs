//! Where the plugin runs.

use crate::host;
use crate::record::Record;
use crate::timers::Timer;

/// The pipeline's name.
pub fn pipeline() -> String {
    host::pipeline()
}

/// The partition this instance works on.
pub fn partition() -> u32 {
    host::partition()
}

/// SHA-256 of the component, in lower-case hexadecimal digits.
pub fn plugin_digest() -> String {
    host::plugin_digest()
}

/// The names of the pipeline's inputs; [`Record::input`] is an index into them.
pub fn inputs() -> Vec<String> {
    host::inputs()
}

/// The names of the output ports: those of the manifest's `to`.
pub fn ports() -> Vec<String> {
    host::ports()
}

/// A key that is the same for every delivery of the record, for calls to services that take an
/// idempotency key: `<pipeline>/<topic>/<partition>/<offset>`.
pub fn idempotency_key(record: Record<'_>) -> String {
    host::idempotency_key(record.index())
}

/// A key that is the same each time the timer is handed over, for calls to services that take an
/// idempotency key: `timer:<pipeline>/<partition>/<key>@<due-ms>`, with the key percent-encoded.
pub fn timer_idempotency_key(timer: Timer<'_>) -> String {
    host::idempotency_key(timer.index())
}
