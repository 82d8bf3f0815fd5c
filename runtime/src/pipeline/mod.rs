//! Pipelines: plugins wired to topics.
//!
//! [`Pipelines`] runs the pipelines of a manifest (`supervisor.rs`): one task for each partition
//! (`consumer_task.rs`), or one for a producer (`producer_task.rs`). A task pulls a batch, calls the
//! plugin and makes a checkpoint (`checkpoint.rs`): one commit of its outputs (`outputs.rs`), its
//! state (`task_state.rs`) and its progress.

mod batch_run;
mod checkpoint;
mod consumer_task;
mod error;
mod outputs;
mod processor;
mod producer_task;
mod registry;
mod retry;
mod runtime;
mod settle;
mod status;
mod supervisor;
mod task_state;

pub use error::{Error, Failure, PositionAfterFailure, TaskError};
pub use processor::NativeFunction;
pub use registry::{PipelineDescription, describe, list};
pub use runtime::{check_contract, queue_config, topic_config};
pub use status::Progress;
pub use supervisor::Pipelines;
