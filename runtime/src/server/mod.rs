//! The HTTP API: what `millstream serve` answers, and what the verbs of the command line are made of.
//!
//! [`Server`] listens. [`api`] is the same API without a listener, on an open data directory: a command that finds no
//! running server uses it within its own process. One file or folder for each kind of thing: `topics/`, `records/`,
//! `groups.rs`, `queues/`. `access/` decides who may do what, `problem.rs` is how everything that goes wrong is
//! told.

mod access;
mod backups;
mod connections;
mod dead_letters;
mod document;
mod error_pages;
mod extract;
mod groups;
mod health;
mod intake;
pub(crate) mod json_record;
mod listen;
mod metrics;
pub(crate) mod mistake;
pub(crate) mod offset_spec;
mod outlet;
mod pipelines;
mod plugins;
mod problem;
mod queues;
mod records;
mod request_trace;
mod requests;
mod room;
mod router;
mod state;
mod topics;
mod waiting;

pub use access::{NewToken, RevokedToken, Role, TlsFiles, TokenView};
pub use backups::{BackupStatus, BackupView, NewBackup};
pub use dead_letters::{
    LetterCount, LetterPage, LetterView, Page, PurgedLetters, RedriveDestination, RedriveRequest,
    RedriveView, Selection, StrandedView, WhereTo,
};
pub use groups::{
    DeletedGroup, GroupDescription, GroupSummary, LagView, OffsetCommit, OffsetMove, ParkedView,
    PartitionOffset, ResetRequest, ResetView,
};
pub use listen::{Server, ServerError, ServerOptions};
pub use pipelines::{
    AppliedView, ChangeView, InputQueueView, LogLineView, ManifestView, PipelineView, PortView,
    RunView, TaskStatusView, TotalsView,
};
pub use plugins::{
    CheckRequest, DeployRequest, DeployView, DifferenceView, ImportView, MisfitView, MissingView,
    PluginDescription, PluginView, RecordDifferenceView, ReportView, RollbackRequest, SampleView,
    ShadowView, UnsentView, UploadedView, VersionView,
};
pub use problem::{Code, Problem};
pub use queues::{
    EnqueuedView, ExtendRequest, LeaseBody, NewQueue, QueueConfigView, QueueSettings, QueueView,
    ReceiptsRequest, ReleaseRequest, RemovedMessages, SettledView,
};
pub use records::{PlaceView, ProducedView};
pub use router::api;
pub use state::{Data, Limits};
pub use topics::{
    CompactedTopic, DeletedTopic, NewTopic, PartitionView, TopicConfigView, TopicDescription,
    TopicSettings, TopicView,
};

pub(crate) use access::LocalServer;
pub(crate) use dead_letters::{NEXT_ID, PLUGIN_DIGEST, QUEUE, Source};
pub(crate) use plugins::SIGNATURE;
pub(crate) use records::NEXT_OFFSETS;

#[cfg(test)]
mod tests;
