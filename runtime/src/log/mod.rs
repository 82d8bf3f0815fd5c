//! Topics: partitioned, retained, replayable logs.
//!
//! [`Log`] is the set of topics of a data directory; [`Producer`] batches records into appends;
//! [`Cursor`] reads a partition batch by batch; `retention.rs` and `cleaner.rs` give space back.

mod cleaner;
mod cursor;
mod error;
mod maintenance;
mod planned;
mod producer;
mod retention;
#[cfg(test)]
mod tests;
mod topic;
mod topics;

pub use cleaner::CleanReport;
pub use cursor::Cursor;
pub use error::Error;
pub use maintenance::Maintenance;
pub use planned::{CommittedTopics, PlannedTopics};
pub use producer::{Acknowledged, Producer};
pub use topic::{Cleanup, CompressionName, Topic, TopicConfig};
pub(crate) use topics::StoredTopic;
pub use topics::{Log, OffsetSpec};
