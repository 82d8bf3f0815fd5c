//! Millstream: a WebAssembly-plugin stream processing runtime.
//!
//! The crate is one binary and this library, which the binary, the tests and programs that embed
//! Millstream use. `ARCHITECTURE.md` is the map; the modules, from the bottom up:
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | names, limits, records and Kafka's record batch format |
//! | [`clock`] | the only reader of time below the pipelines |
//! | [`storage`] | the data directory: schema, reads, the commit thread |
//! | [`backup`] | backups of a data directory, and restoring one |
//! | [`verify`] | looks at all that is stored, and says what is wrong |
//! | [`log`] | topics: append, read, retention, compaction |
//! | [`group`] | consumer groups and their committed offsets |
//! | [`queue`] | work queues: leases, redelivery, delay, FIFO groups, dead letters |
//! | [`plugin`] | the wasmtime host: contract, limits, calls |
//! | [`manifest`] | `millstream.toml`, read and resolved |
//! | [`trace`] | OpenTelemetry traces: contexts, sampling, export |
//! | [`pipeline`] | running pipelines: tasks, checkpoints, retries, swaps |
//! | [`deploy`] | what a server remembers: uploaded plugins, applied manifests, deploys |
//! | [`server`] | the HTTP API, which the verbs of the command line ask, too |
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod backup;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod deploy;
pub mod group;
pub mod log;
pub mod manifest;
pub mod model;
pub mod pipeline;
pub mod plugin;
pub mod queue;
pub mod server;
pub mod storage;
pub mod trace;
pub mod verify;
