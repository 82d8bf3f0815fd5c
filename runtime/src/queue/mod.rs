//! Work queues: leased with a visibility timeout, gone once acknowledged.
//!
//! A queue is a log whose progress is a set instead of an offset. Its messages are records in the
//! one partition of the queue, appended by the commit that enqueues them; what has happened to them
//! (acknowledged, delivered, to wait until) lies in chunks of 1,024 messages
//! ([`crate::storage::schema::queue_chunk`]). Who is next is an index in memory (`index/`), which
//! takes committed batches in when it is asked (`ingest.rs`) and is built anew from the chunks and
//! the batches when a data directory is opened.
//!
//! [`Queues`] is the set of queues of a data directory, [`Queue`] one of them. Everything that
//! changes a queue is added to a [`crate::storage::Commit`], by itself or with whatever else must
//! happen in the same instant: outputs, state, offsets, the acknowledgement of another message.

mod attributes;
mod config;
mod dead_letter;
mod deduplication;
mod enqueue;
mod error;
mod index;
mod ingest;
mod lease;
pub mod letter;
mod letters;
mod maintenance;
mod message;
mod offset_set;
mod peek;
mod planned;
mod queues;
mod reader;
mod ready;
mod room;
mod settle;
mod shared;
mod take;
#[cfg(test)]
mod tests;
mod visits;

pub use attributes::{
    Attributes, DEDUPLICATION_ID, DELAY, EXPIRES_AT, GROUP, NOT_BEFORE, PRIORITY, TIME_TO_LIVE,
    stays,
};
pub use config::{DEFAULT_MAX_DELIVERIES, MAX_VISIBILITY_TIMEOUT_MS, QueueConfig};
pub use dead_letter::Reason;
pub use enqueue::{Enqueued, MessageBatch};
pub use error::Error;
pub use lease::LeaseRequest;
pub use letter::{ATTEMPTS, DEAD_LETTERED_AT, ORIGIN, REASON};
pub use letters::Letters;
pub use maintenance::Maintenance;
pub use message::{LeasedMessage, Receipt};
pub use peek::{Description, MessageState, PeekedMessage};
pub use planned::{CommittedQueues, PlannedQueues};
pub use queues::Queues;
pub(crate) use queues::StoredQueue;
pub use settle::Settled;
pub use shared::Queue;
pub use take::Taken;

pub use crate::model::{GroupBy, MaxLengthPolicy};
