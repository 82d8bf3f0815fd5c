//! Why a component cannot be loaded, or the runtime for components not be started.

use super::contract::{Denied, Problem};

/// Most bytes a component may have. Compiling takes some hundred times its size in memory.
pub const MAX_COMPONENT_BYTES: usize = 256 * 1024 * 1024;

/// Why a component cannot be loaded. `Display` says what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The file is no WebAssembly at all.
    #[error("{name} is not a WebAssembly component: {found}")]
    NotWebAssembly {
        /// The plugin's name or file.
        name: String,
        /// What it looks like instead.
        found: String,
    },
    /// The file is a core module.
    #[error(
        "{name} is a core WebAssembly module, not a component: build it with `cargo build --target \
         wasm32-wasip2 --release` (crate-type = [\"cdylib\"]), or turn a module that was built for \
         the component model into one with `wasm-tools component new {name} -o component.wasm`"
    )]
    CoreModule {
        /// The plugin's name or file.
        name: String,
    },
    /// The file is too large.
    #[error(
        "{name} has {len_bytes} bytes, more than the {MAX_COMPONENT_BYTES} that a component may have"
    )]
    TooLarge {
        /// The plugin's name or file.
        name: String,
        /// Its size.
        len_bytes: usize,
    },
    /// The component does not validate or compile.
    #[error("{name} is not a valid component: {reason}")]
    Invalid {
        /// The plugin's name or file.
        name: String,
        /// What the compiler says.
        reason: String,
    },
    /// The component's imports and exports are not those of a plugin.
    #[error("{name} does not fit the plugin interface:{}", list(.problems))]
    Contract {
        /// The plugin's name or file.
        name: String,
        /// What is missing, unexpected or different, and what to do about each.
        problems: Vec<Problem>,
    },
    /// The component imports what cannot be granted, or is not.
    #[error("{name}: {denied}")]
    Denied {
        /// The plugin's name or file.
        name: String,
        /// The imports.
        denied: Denied,
    },
    /// The WebAssembly engine could not be started.
    #[error("the WebAssembly engine could not be started: {reason}")]
    Engine {
        /// What it says.
        reason: String,
    },
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  - {problem}"))
        .collect()
}
