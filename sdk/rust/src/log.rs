//! Log lines, which the host writes into its own log with pipeline and partition.
//!
//! A line costs a call to the host; log what an operator wants to know, not every record.
//!
//! ```
//! # use millstream_sdk::log;
//! log::info("opened");
//! log::warn(format_args!("carrier `{}` is new", "UA"));
//! ```

use std::fmt::Display;

use crate::host::{self, Level};

/// Describes what the plugin does, in detail.
pub fn trace(message: impl Display) {
    write(Level::Trace, message);
}

/// Helps to find a bug.
pub fn debug(message: impl Display) {
    write(Level::Debug, message);
}

/// Of interest to an operator.
pub fn info(message: impl Display) {
    write(Level::Info, message);
}

/// May need attention.
pub fn warn(message: impl Display) {
    write(Level::Warn, message);
}

/// Something failed.
pub fn error(message: impl Display) {
    write(Level::Error, message);
}

/// The plugin cannot go on.
pub fn critical(message: impl Display) {
    write(Level::Critical, message);
}

fn write(level: Level, message: impl Display) {
    host::log(level, &message.to_string());
}
