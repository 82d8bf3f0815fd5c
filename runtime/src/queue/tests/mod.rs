//! Tests of queues as their users see them.

mod concurrent;
mod cost;
mod crash;
mod dead_letters;
mod enqueuing;
mod groups;
mod holes;
mod leases;
mod max_length;
mod model;
mod ready;
mod registry;
mod restarts;
mod support;
mod taking;
