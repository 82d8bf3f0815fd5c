//! Tests of the data directory: the commit thread, reads, failures, crashes.

mod checkpoints;
mod commits;
mod crash;
mod no_room;
mod reads;
pub(crate) mod support;
