//! Key kind `Token`: `(token name)` → the SHA-256 of an access token, its roles and times.
//!
//! The value is JSON, so that later versions can add to it.

use super::{KeyKind, name_key};

/// The key of a token.
pub fn key(token: &str) -> Vec<u8> {
    name_key::key(KeyKind::Token, token)
}

/// The token's name in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    name_key::parse_key(KeyKind::Token, key)
}
