//! Reads a manifest (`millstream.toml`) into a validated [`ResolvedManifest`].
//!
//! A manifest exists in two forms. The raw one is TOML's tree with spans, checked against the key
//! lists of `schema`; the resolved one is plain data with every default filled in, and the only one
//! the rest of the runtime sees. Nothing an author writes is silently ignored: a key that is unknown
//! or has no effect is an error, and every error points at its place, says what was expected and
//! what was found, and suggests what to do. All mistakes of a manifest are told at once.
//!
//! ```text
//! text ── toml ──► tree ── read (types, keys) ──► resolve (defaults, checks) ──► ResolvedManifest
//! ```
//!
//! Whether topics that are named but not declared exist is known to the data directory only:
//! [`ResolvedManifest::check_external_targets`].

mod allow;
mod config;
mod dead_letters;
mod error;
mod pipeline;
mod plugin_file;
pub(crate) mod quantity;
mod queue;
mod read;
mod resolve;
mod resolved;
mod retry;
mod schema;
mod syntax;
mod target;
#[cfg(test)]
mod tests;
mod uses;
mod words;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub use allow::Allow;
use error::Report;
pub use error::{Error, Place, Problem};
pub use queue::QueueSpec;
pub use resolve::{resolve, resolve_uploaded};
pub use resolved::{
    BatchSpec, Cleanup, Delivery, LimitsSpec, PipelineSpec, PluginSpec, Port, ResolvedManifest,
    Start, TopicSpec,
};
pub use retry::{DeadLetter, Jitter, RetryOrder, RetrySpec};
pub use target::ExternalTarget;
pub use uses::TargetPlace;

/// The largest manifest that is read, in bytes.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// The usual name of a manifest's file.
pub const FILE_NAME: &str = "millstream.toml";

/// Reads and resolves the manifest at `path`.
///
/// # Errors
///
/// The file can't be read or is too large, or the manifest is wrong: then every problem found.
pub fn load(path: &Path) -> Result<ResolvedManifest, Error> {
    let read_error = |source: io::Error| Error::Read {
        path: path.to_owned(),
        help: read_help(path),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(read_error)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            max_bytes: MAX_MANIFEST_BYTES,
        });
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => resolve(path, text),
        Err(error) => {
            // Up to the first invalid byte the replacement leaves the text as it is.
            let text = String::from_utf8_lossy(&bytes);
            let at = error.valid_up_to();
            let mut report = Report::new(path, &text);
            report.error(
                at..at + 1,
                "the manifest must be UTF-8, found a byte that is not",
                "save the file with the encoding UTF-8",
            );
            Err(report.into_error())
        }
    }
}

/// What to do about a manifest that can't be read, if that is clear.
fn read_help(path: &Path) -> Option<String> {
    let inside = path.join(FILE_NAME);
    inside
        .is_file()
        .then(|| format!("did you mean `{}`?", inside.display()))
}
