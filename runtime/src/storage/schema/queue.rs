//! Key kind `Queue`: `(queue id)` → the queue's name and configuration.
//!
//! Ids of queues and topics come from one sequence, since the messages of a queue lie in the
//! partition `(queue id, 0)`. The value is JSON, so that later versions can add settings; it is read
//! once, when the data directory is opened.

use super::{KeyKind, id_key};

/// The key of a queue.
pub fn key(queue_id: u32) -> [u8; id_key::KEY_LEN_BYTES] {
    id_key::key(KeyKind::Queue, queue_id)
}

/// The queue's id in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<u32> {
    id_key::parse_key(KeyKind::Queue, key)
}
