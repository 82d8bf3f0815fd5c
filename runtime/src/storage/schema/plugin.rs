//! Key kind `Plugin`: `(plugin name)` → the versions of a plugin that were uploaded, and which one is current.
//!
//! The value is JSON, so that later versions can add to it. The components themselves are files,
//! `plugins/<SHA-256>.wasm` in the data directory, which are there before the entry names them.

use super::{KeyKind, name_key};

/// The key of a plugin.
pub fn key(plugin: &str) -> Vec<u8> {
    name_key::key(KeyKind::Plugin, plugin)
}

/// The plugin's name in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    name_key::parse_key(KeyKind::Plugin, key)
}
