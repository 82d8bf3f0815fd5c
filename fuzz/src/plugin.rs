//! The part of the plugin host that checks what a guest returned; the rest of it needs wasmtime.

#[path = "../../runtime/src/plugin/ends.rs"]
mod ends;
#[path = "../../runtime/src/plugin/headers.rs"]
mod headers;
#[path = "../../runtime/src/plugin/output/mod.rs"]
pub mod output;
#[path = "../../runtime/src/plugin/reply.rs"]
mod reply;
#[path = "../../runtime/src/plugin/text.rs"]
mod text;
