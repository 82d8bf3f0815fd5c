//! Pipelines: plugins wired to topics.
//!
//! [`Pipelines`] runs the pipelines of manifests (`supervisor/`) on their topics (`topics.rs`) with
//! their plugins (`plugins.rs`): one task for each partition
//! (`consumer_task.rs`), or one for a producer (`producer_task.rs`). A task pulls a batch, calls the
//! plugin and makes a checkpoint (`checkpoint.rs`): one commit of its outputs (`outputs.rs`), its
//! state (`task_state.rs`), its timers (`timers.rs`) and its progress.
//!
//! [`Redrive`] sends dead letters back to where they come from (`redrive/`). [`Replay`] runs one again with
//! what the plugin saw when it failed (`replay.rs`).

mod batch_call;
mod batch_run;
mod batch_runner;
mod call_counts;
mod call_trace;
mod calls;
mod checkpoint;
mod claim;
mod concurrent;
mod consumer_task;
mod control;
mod declared;
mod error;
mod input;
mod lag;
mod lane_progress;
mod opening;
mod outputs;
mod parts;
mod plugin_logs;
mod plugins;
mod processor;
mod producer_task;
mod queues;
mod redrive;
mod registry;
mod replay;
mod retry;
mod runtime;
mod settle;
mod shadow;
mod status;
mod supervisor;
mod task_state;
mod timer_batch;
mod timers;
mod topics;
mod trial;

pub use call_counts::{CALL_BUCKETS_NS, CallCounts};
pub use calls::MAX_THREADS;
pub use declared::declare;
pub use error::{Error, Failure, PositionAfterFailure, TaskError};
pub use lag::QueueLag;
pub(crate) use lag::start_offset;
pub use opening::open_once;
pub use plugin_logs::stored_log_lines;
pub use plugins::{Misfit, Plugins, Refusal, check_fit};
pub use processor::NativeFunction;
pub use redrive::{Redrive, RedriveTo, Sent, Stranded};
pub use registry::{
    PipelineDescription, PipelineIdentity, dead_letter_queue_of, describe, list, owners_of_group,
    parked_of_group, parse_identity,
};
pub use replay::{RecordOutcome, Replay, ReplayError, Replayed};
pub use shadow::{ShadowDifference, ShadowFindings};
pub use status::Progress;
pub use supervisor::{
    Applied, Change, Described, PipelineState, PipelineStatus, Pipelines, ShadowView, Swapped,
    TaskState, TaskView, TrialView, check_shadow,
};
pub use timers::PendingTimers;
pub use topics::{ensure_topics, instance_count, task_count};
