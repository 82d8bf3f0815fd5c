//! WASI 0.2 for plugins: what a language's standard library links is there and empty.
//!
//! - `wasi:cli`: no arguments, no environment, nothing on stdin, no terminal; stdout and stderr
//!   become log lines; exit ends the call as a trap.
//! - `wasi:filesystem`: no preopened directory, so that no file can be named.
//! - `wasi:clocks`, `wasi:random`: a component that imports their functions without a grant is
//!   refused before it runs (see `contract.rs`); as a second line of defence every
//!   call checks the grant again.
//! - `wasi:http`: outgoing requests, to the hosts that the manifest lists; see `http/`.
//! - `wasi:random/insecure-seed`: always there, and always the same. Rust's `HashMap` and others
//!   take their hash seed from it; with a fixed one a plugin iterates in the same order each time
//!   it sees the same records, which makes failures reproducible. Whoever knows the seed can
//!   choose keys that collide; the deadline bounds what that costs.
//!
//! # Blocking
//!
//! Everything is synchronous. wasmtime-wasi's own synchronous bindings run each call that may block
//! on a tokio runtime, either the caller's or one they start for it, and a guest that sleeps there
//! cannot be stopped. So `wasi:io` and `wasi:clocks` are implemented here: there are streams for
//! the log, which never block, and bodies of HTTP, and what can be waited for is time and responses,
//! which `poll.rs` does, no longer than until the call's deadline.

mod cli;
mod clocks;
mod http;
mod poll;
mod random;
mod streams;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime_wasi::{
    filesystem::{WasiFilesystem, WasiFilesystemCtxView},
    p2::bindings::{self, sync},
};

use super::host::{HostFault, HostState};

pub(super) use clocks::Clocks;
pub(super) use http::{Http, HttpClient, margin};
pub(super) use random::Randomness;

/// Links WASI.
///
/// # Errors
/// When an import is linked twice, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    use bindings::{cli, clocks, filesystem, random};
    type This = HasSelf<HostState>;
    cli::environment::add_to_linker::<_, This>(linker, |state| state)?;
    cli::exit::add_to_linker::<_, This>(linker, |state| state)?;
    cli::stdin::add_to_linker::<_, This>(linker, |state| state)?;
    cli::stdout::add_to_linker::<_, This>(linker, |state| state)?;
    cli::stderr::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_input::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_output::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_stdin::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_stdout::add_to_linker::<_, This>(linker, |state| state)?;
    cli::terminal_stderr::add_to_linker::<_, This>(linker, |state| state)?;
    clocks::wall_clock::add_to_linker::<_, This>(linker, |state| state)?;
    clocks::monotonic_clock::add_to_linker::<_, This>(linker, |state| state)?;
    random::random::add_to_linker::<_, This>(linker, |state| state)?;
    random::insecure::add_to_linker::<_, This>(linker, |state| state)?;
    random::insecure_seed::add_to_linker::<_, This>(linker, |state| state)?;
    http::add_to_linker(linker)?;
    sync::io::error::add_to_linker::<_, HasSelf<ResourceTable>>(linker, |state| &mut state.table)?;
    sync::io::poll::add_to_linker::<_, This>(linker, |state| state)?;
    sync::io::streams::add_to_linker::<_, This>(linker, |state| state)?;
    filesystem::preopens::add_to_linker::<_, WasiFilesystem>(linker, filesystem_view)?;
    sync::filesystem::types::add_to_linker::<_, WasiFilesystem>(linker, filesystem_view)
}

/// wasmtime-wasi's file system over an empty context: without a directory to start from, none of
/// its functions can be reached.
fn filesystem_view(state: &mut HostState) -> WasiFilesystemCtxView<'_> {
    WasiFilesystemCtxView {
        ctx: &mut state.filesystem,
        table: &mut state.table,
    }
}

impl HostState {
    fn require(&self, is_granted: bool, what: &'static str) -> wasmtime::Result<()> {
        if is_granted {
            Ok(())
        } else {
            Err(wasmtime::Error::new(HostFault::Denied(what)))
        }
    }
}
