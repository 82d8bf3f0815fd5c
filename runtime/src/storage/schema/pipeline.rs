//! Key kind `Pipeline`: `(pipeline name)` → the pipeline's id and how it last ran.
//!
//! The value is JSON, so that later versions can add to it; it is read when a pipeline starts or is
//! described. The id is the short form under which the pipeline's state is kept.

use super::{KeyKind, name_key};

/// The key of a pipeline.
pub fn key(pipeline: &str) -> Vec<u8> {
    name_key::key(KeyKind::Pipeline, pipeline)
}

/// The pipeline's name in a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<&str> {
    name_key::parse_key(KeyKind::Pipeline, key)
}
