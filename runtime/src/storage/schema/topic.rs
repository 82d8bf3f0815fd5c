//! Key kind `Topic`: `(topic id)` → the topic's name and configuration.
//!
//! The value is JSON, so that later versions can add settings; it is read once, when the data
//! directory is opened.

use super::{KeyKind, id_key};

/// The key of a topic.
pub fn key(topic_id: u32) -> [u8; id_key::KEY_LEN_BYTES] {
    id_key::key(KeyKind::Topic, topic_id)
}

/// The topic's id in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<u32> {
    id_key::parse_key(KeyKind::Topic, key)
}
