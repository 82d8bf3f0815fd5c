//! The end-to-end suite: it drives the `millstream` command and real components, as a user does.
//!
//! One test binary, since linking it costs more than any test. A theme is a file; what they share
//! is in [`support`]. `cargo xtask test` builds the components and says where they are
//! (`MILLSTREAM_TEST_PLUGINS`); without it every test that needs one fails and says so.

mod backups;
mod cli;
mod concurrency;
mod dead_letters;
mod delivery;
mod deploys;
mod failpoints;
mod faults;
mod flights;
mod groups;
mod guarantees;
mod hot_key;
mod http;
mod in_use;
mod kill;
mod kill_produce;
mod kill_queue;
mod kill_topics;
mod memory;
mod metrics;
mod offline;
mod operations;
mod queue_pipelines;
mod queues;
mod refused_manifests;
mod replay;
mod retries;
mod roles;
mod server;
mod server_access;
mod server_addresses;
mod server_pipelines;
mod shared_plugins;
mod slow_key;
mod support;
mod timers;
mod top;
mod traces;
