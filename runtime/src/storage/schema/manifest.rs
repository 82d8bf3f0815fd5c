//! Key kind `Manifest`: `(manifest name)` → a manifest as it was applied to a server, and which of its pipelines
//! are paused.
//!
//! The value is JSON, so that later versions can add to it.

use super::{KeyKind, name_key};

/// The key of a manifest.
pub fn key(manifest: &str) -> Vec<u8> {
    name_key::key(KeyKind::Manifest, manifest)
}

/// The manifest's name in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    name_key::parse_key(KeyKind::Manifest, key)
}
