//! Tests of the data directory: the commit thread, reads, failures, crashes.

mod commits;
mod crash;
mod reads;
pub(crate) mod support;
