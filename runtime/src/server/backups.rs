//! `/v1/backups`: a backup of the data directory while the server runs.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State as StateOf;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Subject;
use super::extract::Json;
use super::problem::{Code, Problem};
use super::state::{State, to_its_end};
use crate::backup::{self, FileList};

/// Bytes of a folder's path: Linux's limit.
const MAX_FOLDER_BYTES: usize = 4096;

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Lets one backup at a time be made.
pub(super) struct Backups(Arc<Semaphore>);

impl Default for Backups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Backups {
    fn begin(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            Problem::new(
                Code::BackupUnderWay,
                "the server is making another backup; wait until that has ended",
            )
        })
    }
}

/// A backup to make.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBackup {
    /// The folder to make on the machine of the server, as an absolute path. It must not exist, and the folder that it
    /// is in must. The server's user makes it.
    #[schema(value_type = String, max_length = 4096, pattern = "^/")]
    pub folder: PathBuf,
}

/// A backup that was made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BackupView {
    /// The folder, on the machine of the server.
    #[schema(value_type = String)]
    pub folder: PathBuf,
    /// The data directory of which it is a copy.
    #[schema(value_type = String)]
    pub data_dir: PathBuf,
    /// When it was taken, in ms since the epoch: what was acknowledged before is in it.
    pub taken_at_ms: u64,
    /// The version of Millstream that made it.
    pub millstream_version: String,
    /// Files in it.
    pub files: u64,
    /// Bytes of all of them.
    pub size_bytes: u64,
}

impl BackupView {
    fn new(folder: PathBuf, data_dir: PathBuf, list: FileList) -> Self {
        Self {
            folder,
            data_dir,
            taken_at_ms: list.taken_at_ms,
            files: list.files.len() as u64,
            size_bytes: list.size_bytes(),
            millstream_version: list.millstream_version,
        }
    }
}

impl From<backup::Error> for Problem {
    fn from(error: backup::Error) -> Self {
        let code = match &error {
            error if error.is_disk_full() => Code::DiskFull,
            backup::Error::Exists { .. } => Code::AlreadyExists,
            backup::Error::Inside { .. } => Code::InvalidRequest,
            backup::Error::InProgress { .. } => Code::BackupUnderWay,
            backup::Error::Store(error) => return error.clone().into(),
            _ => Code::BackupFailed,
        };
        Self::new(code, error.to_string())
    }
}

/// Make a backup of the data directory into a new folder on the machine of the server.
///
/// Commits go on meanwhile: each that was acknowledged before the request is in it, and each later one as a whole or not
/// at all. Answers when all of it is on disk; it is made to its end also if the client does not wait. One is made at a
/// time. `millstream restore` makes a data directory of it.
#[utoipa::path(post, path = "/backups", tag = "backups", security(("token" = ["admin"])), request_body = NewBackup,
    responses((status = 201, body = BackupView), (status = 409), (status = 507)))]
async fn create(
    StateOf(state): StateOf<State>,
    subject: Option<Extension<Subject>>,
    Json(NewBackup { folder }): Json<NewBackup>,
) -> Result<impl IntoResponse, Problem> {
    if !folder.is_absolute() {
        return Err(Problem::invalid(format!(
            "the folder is `{}`; expected an absolute path on the machine of the server, such as /backups/2026-11-28",
            folder.display()
        )));
    }
    if folder.as_os_str().len() > MAX_FOLDER_BYTES {
        return Err(Problem::invalid(format!(
            "the folder's path has more than {MAX_FOLDER_BYTES} bytes"
        )));
    }
    if let Some(Extension(subject)) = subject {
        subject.set(folder.display());
    }
    let one_at_a_time = state.backups.begin()?;
    let whole = match state.deployments() {
        // What would make the state whole again is in no backup.
        Ok(deployments) => Some(deployments.hold_whole().await?),
        Err(_) => None,
    };
    let under_way = state.request_started();
    let store = state.data.log.store().clone();
    let made = to_its_end(async move {
        let making = tokio::task::spawn_blocking(move || {
            let _one_at_a_time = one_at_a_time;
            let _under_way = under_way;
            let list = backup::create(&store, &folder, || drop(whole))?;
            tracing::info!(folder = %folder.display(), "a backup was made");
            Ok::<_, backup::Error>(BackupView::new(folder, store.path().to_owned(), list))
        });
        match making.await {
            Ok(made) => made.map_err(Problem::from),
            Err(error) => Err(Problem::new(
                Code::Internal,
                format!(
                    "the backup ended early: {error}; this is a bug of millstream, please report it"
                ),
            )),
        }
    })
    .await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}
