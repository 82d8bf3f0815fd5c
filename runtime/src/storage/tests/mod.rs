//! Tests of the data directory: the commit thread, reads, failures, crashes.

mod checkpoints;
mod commits;
mod crash;
mod reads;
pub(crate) mod support;
