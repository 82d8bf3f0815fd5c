//! Errors as RFC 9457 problem documents.
//!
//! A problem has a [`Code`], which is stable: programs match on it, and `docs/errors.md` has a section for it,
//! which the server also shows at the problem's `type`.

use std::io::ErrorKind;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::Target;
use crate::{deploy, group, log, manifest, model, pipeline, plugin, queue, storage};

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";
/// Where the server shows what a code means.
pub(super) const TYPE_PREFIX: &str = "/errors/";
/// When a client should ask again that was refused for load, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// What kind of problem it is. Never renamed, never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code as it is written.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            /// The HTTP status that comes with it.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$variant => StatusCode::$status,)* }
            }

            /// What it is, in a few words that are the same each time.
            pub fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }
        }
    };
}

codes! {
    /// The request is not what the document at `/openapi.json` describes.
    InvalidRequest = "invalid-request", BAD_REQUEST, "The request is malformed";
    /// A record or message of the request is malformed, or larger than one may be.
    InvalidRecord = "invalid-record", BAD_REQUEST, "A record is malformed";
    /// A setting is outside its limits.
    InvalidSetting = "invalid-setting", BAD_REQUEST, "A setting is not allowed";
    /// The manifest has mistakes.
    InvalidManifest = "invalid-manifest", BAD_REQUEST, "The manifest has mistakes";
    /// The component is no plugin, or does not fit.
    InvalidPlugin = "invalid-plugin", BAD_REQUEST, "The component cannot be used";
    /// There is no valid token.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A token is needed";
    /// The token does not have the role.
    Forbidden = "forbidden", FORBIDDEN, "The token does not allow this";
    /// Only signed versions of plugins may run, and this one is not.
    UnsignedPlugin = "unsigned-plugin", FORBIDDEN, "The plugin is not signed";
    /// The signature of the plugin does not count.
    UntrustedSignature = "untrusted-signature", FORBIDDEN, "The plugin's signature does not count";
    /// There is no such path.
    UnknownPath = "unknown-path", NOT_FOUND, "There is nothing at this path";
    /// There is no such topic.
    UnknownTopic = "unknown-topic", NOT_FOUND, "There is no such topic";
    /// The topic has no such partition.
    UnknownPartition = "unknown-partition", NOT_FOUND, "There is no such partition";
    /// There is no such queue.
    UnknownQueue = "unknown-queue", NOT_FOUND, "There is no such queue";
    /// There is no such consumer group.
    UnknownGroup = "unknown-group", NOT_FOUND, "There is no such consumer group";
    /// There is no such pipeline.
    UnknownPipeline = "unknown-pipeline", NOT_FOUND, "There is no such pipeline";
    /// There is no such manifest.
    UnknownManifest = "unknown-manifest", NOT_FOUND, "There is no such manifest";
    /// There is no such deploy.
    UnknownDeploy = "unknown-deploy", NOT_FOUND, "There is no such deploy";
    /// There is no such redrive.
    UnknownRedrive = "unknown-redrive", NOT_FOUND, "There is no such redrive";
    /// There is no such backup.
    UnknownBackup = "unknown-backup", NOT_FOUND, "There is no such backup";
    /// The deploy did not succeed; the version before it stays.
    DeployFailed = "deploy-failed", CONFLICT, "The deploy failed";
    /// A rollback with state has failed midway, and has to be run again first.
    RollbackUnfinished = "rollback-unfinished", CONFLICT, "A rollback with state is half done";
    /// The deploy has no checkpoint to which state could go back.
    UnknownCheckpoint = "unknown-checkpoint", NOT_FOUND, "There is no such checkpoint";
    /// There is no such plugin, or no such version of it.
    UnknownPlugin = "unknown-plugin", NOT_FOUND, "There is no such plugin";
    /// There is no earlier version of the plugin that a rollback could go back to.
    NoEarlierVersion = "no-earlier-version", CONFLICT, "There is no earlier version";
    /// There is no such token.
    UnknownToken = "unknown-token", NOT_FOUND, "There is no such token";
    /// There is no such dead letter.
    UnknownDeadLetter = "unknown-dead-letter", NOT_FOUND, "There is no such dead letter";
    /// The path exists, and the method does not.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// None of the formats that the client accepts can be written.
    NotAcceptable = "not-acceptable", NOT_ACCEPTABLE, "No accepted format is available";
    /// Something of this name exists already.
    AlreadyExists = "already-exists", CONFLICT, "It exists already";
    /// It is in use, or in a state in which this cannot be done.
    Conflict = "conflict", CONFLICT, "This cannot be done now";
    /// The offset is not in the partition.
    OffsetOutOfRange = "offset-out-of-range", RANGE_NOT_SATISFIABLE, "The offset is out of range";
    /// The body is larger than the server takes.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "The request is too large";
    /// The body has a media type that the server does not read here.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The media type is not supported";
    /// The server makes another backup.
    BackupUnderWay = "backup-under-way", CONFLICT, "Another backup is being made";
    /// The folder of the backup cannot be made or written to.
    BackupFailed = "backup-failed", CONFLICT, "The backup could not be made";
    /// There is no room on the disk of the server.
    DiskFull = "disk-full", INSUFFICIENT_STORAGE, "The disk is full";
    /// The queue is full.
    QueueFull = "queue-full", CONFLICT, "The queue is full";
    /// A limit of the data directory is reached.
    LimitReached = "limit-reached", CONFLICT, "A limit is reached";
    /// Too many consumers wait, or too many requests are under way.
    Busy = "busy", TOO_MANY_REQUESTS, "Too many requests are under way";
    /// The server is going down, or another commit has to be decided first.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Not available now";
    /// The requests under way hold as much memory as they may together.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "The server has no room for the request now";
    /// The store takes no writes any more.
    StorePoisoned = "store-poisoned", SERVICE_UNAVAILABLE, "The store takes no writes";
    /// Stored data cannot be read.
    StoreDamaged = "store-damaged", INTERNAL_SERVER_ERROR, "Stored data is damaged";
    /// Anything else: a bug, or a failing machine.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The server failed";
}

/// A problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Where the server says what the code means; relative to the server's address.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is, in a few words that are the same each time.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time, and what to do.
    pub detail: String,
    /// The stable code.
    pub code: Code,
    /// How many records of the request were stored before the problem, where that is not none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status().as_u16(),
            detail: detail.into(),
            code,
            acknowledged: None,
        }
    }

    /// A request that is not as it should be.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        // Whoever sends more than there is room for must not fill the log as well.
        if status.is_server_error() && self.code != Code::Overloaded {
            tracing::error!(code = self.code.as_str(), error = %self.detail, "a request failed");
        }
        // A problem has no map with keys that are not text, and nothing else fails.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        if matches!(self.code, Code::Busy | Code::Unavailable | Code::Overloaded) {
            let seconds = HeaderValue::from_static(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.code == Code::Unauthenticated {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<storage::Error> for Problem {
    fn from(error: storage::Error) -> Self {
        let code = match &error {
            storage::Error::Poisoned { .. } => Code::StorePoisoned,
            storage::Error::Damaged { .. } => Code::StoreDamaged,
            storage::Error::PartitionDeleted { target, .. } => match target {
                Target::Topic(_) => Code::UnknownTopic,
                Target::Queue(_) => Code::UnknownQueue,
            },
            storage::Error::CommitTooLarge { .. } => Code::TooLarge,
            storage::Error::OffsetOutOfRange { .. } => Code::OffsetOutOfRange,
            storage::Error::Closed => Code::Unavailable,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<model::batch::Error> for Problem {
    fn from(error: model::batch::Error) -> Self {
        Self::new(Code::InvalidRecord, error.to_string())
    }
}

impl From<log::Error> for Problem {
    fn from(error: log::Error) -> Self {
        let code = match error {
            log::Error::Storage(error) => return error.into(),
            log::Error::UnknownTopic { .. } => Code::UnknownTopic,
            log::Error::TopicExists { .. } => Code::AlreadyExists,
            log::Error::PartitionCount { .. } => Code::Conflict,
            log::Error::UnknownPartition { .. } => Code::UnknownPartition,
            log::Error::InvalidConfig { .. } => Code::InvalidSetting,
            log::Error::TooManyTopics { .. } => Code::LimitReached,
            log::Error::BatchTooLarge { .. }
            | log::Error::KeyRequired { .. }
            | log::Error::Batch(_) => Code::InvalidRecord,
        };
        Self::new(code, error.to_string())
    }
}

impl From<queue::Error> for Problem {
    fn from(error: queue::Error) -> Self {
        let code = match error {
            queue::Error::Storage(error) => return error.into(),
            queue::Error::UnknownQueue { .. } | queue::Error::Deleted { .. } => Code::UnknownQueue,
            queue::Error::QueueExists { .. } => Code::AlreadyExists,
            queue::Error::TakesDeadLetters { .. } => Code::Conflict,
            queue::Error::InvalidConfig { .. } => Code::InvalidSetting,
            queue::Error::TooManyQueues { .. } => Code::LimitReached,
            queue::Error::Attribute { .. } | queue::Error::Batch(_) => Code::InvalidRecord,
            queue::Error::Full { .. } => Code::QueueFull,
            queue::Error::Undecided | queue::Error::RoomFirst { .. } => Code::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

impl From<group::Error> for Problem {
    fn from(error: group::Error) -> Self {
        let code = match error {
            group::Error::Storage(error) => return error.into(),
            group::Error::UnknownGroup(_) => Code::UnknownGroup,
            group::Error::Batch(_) => Code::StoreDamaged,
        };
        Self::new(code, error.to_string())
    }
}

impl From<manifest::Error> for Problem {
    fn from(error: manifest::Error) -> Self {
        Self::new(Code::InvalidManifest, error.to_string())
    }
}

impl From<pipeline::Error> for Problem {
    fn from(error: pipeline::Error) -> Self {
        let code = match error {
            pipeline::Error::Storage(error) => return error.into(),
            pipeline::Error::Log(error) => return error.into(),
            pipeline::Error::Queue(error) => return error.into(),
            pipeline::Error::Group(error) => return error.into(),
            pipeline::Error::Manifest(error) => return error.into(),
            pipeline::Error::Batch(error) => return error.into(),
            pipeline::Error::UnknownPipeline { .. } | pipeline::Error::NotApplied { .. } => {
                Code::UnknownPipeline
            }
            pipeline::Error::UnknownPartition { .. } => Code::UnknownPartition,
            pipeline::Error::Refused { .. } | pipeline::Error::CannotOpen { .. } => {
                Code::InvalidPlugin
            }
            pipeline::Error::NoShadow { .. }
            | pipeline::Error::PipelineOfAnotherManifest { .. }
            | pipeline::Error::GroupInUse { .. }
            | pipeline::Error::NotRunning { .. }
            | pipeline::Error::SwapFailed { .. } => Code::Conflict,
            pipeline::Error::TooManyInstances { .. } => Code::LimitReached,
            pipeline::Error::StateConcurrency { .. } => Code::Conflict,
        };
        Self::new(code, error.to_string())
    }
}

impl From<plugin::Error> for Problem {
    fn from(error: plugin::Error) -> Self {
        Self::new(Code::InvalidPlugin, error.to_string())
    }
}

impl From<deploy::Error> for Problem {
    fn from(error: deploy::Error) -> Self {
        if matches!(&error, deploy::Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull)
        {
            return Self::new(Code::DiskFull, error.to_string());
        }
        let code = match error {
            deploy::Error::Plugin(error) => return error.into(),
            deploy::Error::Manifest(error) => return error.into(),
            deploy::Error::Pipeline(error) => return error.into(),
            deploy::Error::Storage(error) => return error.into(),
            deploy::Error::UnknownPlugin { .. } | deploy::Error::UnknownVersion { .. } => {
                Code::UnknownPlugin
            }
            deploy::Error::NoEarlierVersion { .. } => Code::NoEarlierVersion,
            deploy::Error::NoCheckpoint { .. } => Code::UnknownCheckpoint,
            deploy::Error::RollbackUnfinished { .. } | deploy::Error::RollbackUnderWay { .. } => {
                Code::RollbackUnfinished
            }
            deploy::Error::NoCanaryPartition { .. }
            | deploy::Error::NotUsed { .. }
            | deploy::Error::IsCurrent { .. } => Code::InvalidRequest,
            deploy::Error::UnsignedPlugin { .. } => Code::UnsignedPlugin,
            deploy::Error::UntrustedSignature { .. } => Code::UntrustedSignature,
            deploy::Error::UnknownDeploy { .. } => Code::UnknownDeploy,
            deploy::Error::UnknownManifest { .. } => Code::UnknownManifest,
            deploy::Error::PluginInUse { .. }
            | deploy::Error::PluginOfOthers { .. }
            | deploy::Error::TargetInUse { .. }
            | deploy::Error::UnknownUse { .. }
            | deploy::Error::UnderWay { .. }
            | deploy::Error::Waiting { .. }
            | deploy::Error::TriedOut { .. }
            | deploy::Error::DeletedMeanwhile { .. } => Code::Conflict,
            deploy::Error::DeployFailed { .. } | deploy::Error::NotStartedAgain { .. } => {
                Code::DeployFailed
            }
            deploy::Error::DamagedComponent { .. } => Code::StoreDamaged,
            _ => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_its_name() {
        for code in Code::ALL {
            let written = serde_json::to_string(code).unwrap();
            assert_eq!(written, format!("\"{}\"", code.as_str()));
        }
    }

    #[test]
    fn a_full_disk_is_no_bug_of_the_server() {
        let of = |kind: ErrorKind| {
            Problem::from(deploy::Error::Io {
                action: "write",
                path: "plugins/x.wasm".into(),
                source: kind.into(),
            })
        };
        let full = of(ErrorKind::StorageFull);
        assert_eq!((full.code, full.status), (Code::DiskFull, 507));
        assert_eq!(of(ErrorKind::PermissionDenied).code, Code::Internal);
    }

    #[test]
    fn each_code_has_a_section() {
        for code in Code::ALL {
            let text = super::super::error_pages::section(code.as_str()).unwrap_or_default();
            assert!(
                text.len() > 40,
                "docs/errors.md says nothing of `{}`",
                code.as_str()
            );
        }
    }
}
