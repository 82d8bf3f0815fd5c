//! Write Millstream plugins in Rust.
//!
//! A consumer is a function:
//!
//! ```
//! use millstream_sdk::prelude::*;
//!
//! millstream_sdk::consumer!(process);
//!
//! fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
//!     if !record.value().is_empty() {
//!         out.forward(record);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! or a type that implements [`Consumer`], if it has configuration or fields of its own. What makes
//! records is a [`Producer`]; what works on whole columns is a [`BatchConsumer`];
//! what sets timers is a [`TimerHandler`] as well.
//!
//! [`http`] calls services.
//!
//! Built for `wasm32-wasip2` the crate is a component; built for anything else, an in-memory host
//! takes the host's place, and [`testing::Harness`](testing) feeds the plugin in unit tests.
//!
//! `docs/plugin-guide.md` goes through all of it.

#[doc(hidden)]
pub mod bindings;
pub mod columns;
mod config;
pub mod context;
mod entry;
mod failure;
mod host;
pub mod http;
pub mod log;
pub mod metrics;
mod outputs;
#[doc(hidden)]
pub mod plugin;
mod progress;
mod record;
mod state;
#[doc(hidden)]
pub mod stateless;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod timers;

pub use config::Config;
pub use failure::{Failure, OrFail, Reject, Retry};
pub use outputs::{Message, Outputs, Port, ValueWriter};
pub use plugin::{BatchConsumer, Consumer, Producer, TimerHandler};
pub use record::{Header, Headers, Record, Records, StateKeys};
pub use state::{Entry, State};
pub use stateless::StatelessConsumer;
pub use timers::{Timer, Timers};

/// What most plugins need.
pub mod prelude {
    pub use crate::{
        BatchConsumer, Config, Consumer, Failure, OrFail, Outputs, Producer, Record, Records,
        Reject, Retry, State, StateKeys, StatelessConsumer, Timer, TimerHandler, context, log,
        metrics,
    };
}

#[doc(hidden)]
pub mod __private {
    pub const NOT_OPEN: &str = "the plugin was called before `open`";

    /// Makes a panic write where and why it was to standard error, and tell the host at which record: the
    /// host puts the end of what is written into its report of the trap that follows.
    pub fn report_panics() {
        #[cfg(target_arch = "wasm32")]
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("{panic}");
            crate::progress::tell_host();
        }));
    }
}
