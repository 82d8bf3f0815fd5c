//! What can go wrong with queues.

use crate::model::{self, QueueName, Target};
use crate::storage;

/// An error of a queue.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such queue.
    #[error("there is no queue `{name}`{hint}")]
    UnknownQueue {
        /// The name asked for.
        name: QueueName,
        /// `; did you mean …?` or `; create it with …`.
        hint: String,
    },
    /// The queue exists already.
    #[error("the queue `{name}` exists already")]
    QueueExists {
        /// Its name.
        name: QueueName,
    },
    /// The queue has been deleted; nothing of the commit is stored.
    #[error("the queue `{name}` has been deleted")]
    Deleted {
        /// Its name.
        name: QueueName,
    },
    /// The queue cannot be deleted while another one sends its dead letters there.
    #[error(
        "the queue `{name}` takes the dead letters of `{user}`; delete that one first, or change its dead-letter"
    )]
    TakesDeadLetters {
        /// Its name.
        name: QueueName,
        /// The queue that names it.
        user: QueueName,
    },
    /// A setting is outside its limits.
    #[error("queue `{name}`: {reason}")]
    InvalidConfig {
        /// The queue.
        name: QueueName,
        /// Which setting, its value and the limits.
        reason: String,
    },
    /// There are as many queues as the data directory takes.
    #[error("the data directory holds {limit} queues, which is the limit; delete one first")]
    TooManyQueues {
        /// The limit.
        limit: u32,
    },
    /// An attribute (a header that the queue understands) has a value that it cannot have.
    #[error("the header `{header}` is `{value}`; expected {expected}")]
    Attribute {
        /// The header's name.
        header: &'static str,
        /// Its value; what is not UTF-8 is replaced.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// The queue holds as many messages as it may; nothing is enqueued.
    #[error(
        "the queue `{name}` is full: it holds {held} messages, {added} more would exceed its max-length of {limit}"
    )]
    Full {
        /// The queue.
        name: QueueName,
        /// Messages that it holds.
        held: u64,
        /// Messages that were to be added.
        added: u64,
        /// Its `max-length`.
        limit: u64,
    },
    /// What a full queue has to give up on to make room is too many bytes of dead letters for the commit that adds: it
    /// leaves in commits of its own first, with [`Queue::make_room`](super::Queue::make_room).
    #[error(
        "the queue `{name}` gives up on large messages first, to make room for {added}; try again"
    )]
    RoomFirst {
        /// The queue.
        name: QueueName,
        /// Messages that were to be added.
        added: u64,
    },
    /// A message with this deduplication id is being enqueued by a commit whose outcome is not known
    /// yet; try again when it is.
    #[error("a message with the same deduplication id is being enqueued; try again")]
    Undecided,
    /// A message or batch is malformed or too large.
    #[error(transparent)]
    Batch(#[from] model::batch::Error),
    /// The data directory failed.
    #[error(transparent)]
    Storage(storage::Error),
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::PartitionDeleted {
                target: Target::Queue(name),
                ..
            } => Self::Deleted { name },
            error => Self::Storage(error),
        }
    }
}

impl Error {
    /// Whether a purge has removed what was to be read.
    pub(crate) fn is_overtaken(&self) -> bool {
        matches!(self, Self::Storage(storage::Error::OffsetOutOfRange { .. }))
    }
}
