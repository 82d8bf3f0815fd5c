//! The parts of the plugin host that check what a guest returned and read what one saw; the rest of it needs
//! wasmtime.

#[path = "../../runtime/src/plugin/ends.rs"]
mod ends;
#[allow(dead_code, reason = "what is written to a guest is no target")]
#[path = "../../runtime/src/plugin/headers.rs"]
mod headers;
#[path = "../../runtime/src/plugin/output/mod.rs"]
pub mod output;
#[path = "../../runtime/src/plugin/recording/mod.rs"]
pub mod recording;
#[path = "../../runtime/src/plugin/reply.rs"]
mod reply;
#[path = "../../runtime/src/plugin/text.rs"]
mod text;
