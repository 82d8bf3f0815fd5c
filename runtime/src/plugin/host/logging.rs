//! `wasi:logging/logging`: the plugin's log lines become the server's.

use tracing::Level as TracingLevel;

use super::{
    HostState,
    bindings::wasi::logging::logging::{Host, Level},
};

impl Host for HostState {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => TracingLevel::TRACE,
            Level::Debug => TracingLevel::DEBUG,
            Level::Info => TracingLevel::INFO,
            Level::Warn => TracingLevel::WARN,
            // There is nothing above an error in the server's log.
            Level::Error | Level::Critical => TracingLevel::ERROR,
        };
        self.log.lock().line(level, &context, &message);
        Ok(())
    }
}
