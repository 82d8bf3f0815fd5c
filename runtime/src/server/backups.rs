//! `/v1/backups`: a backup of the data directory while the server runs. However long it takes, whoever asked for it
//! can wait for the answer, or ask how it goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State as StateOf;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::block_in_place;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Subject;
use super::extract::{Json, PathOf};
use super::problem::{Code, Problem};
use super::state::{State, UnderWay};
use crate::backup::{self, FileList};
use crate::deploy;

/// Bytes of a folder's path: Linux's limit.
const MAX_FOLDER_BYTES: usize = 4096;
/// Backups that can be asked about.
const MAX_KNOWN: usize = 100;

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(describe))
}

/// The backups of a server, of which it makes one at a time.
pub(super) struct Backups {
    one_at_a_time: Arc<Semaphore>,
    next_id: AtomicU64,
    /// The last ones.
    by_id: Mutex<BTreeMap<u64, BackupStatus>>,
}

impl Default for Backups {
    fn default() -> Self {
        Self {
            one_at_a_time: Arc::new(Semaphore::new(1)),
            next_id: AtomicU64::new(0),
            by_id: Mutex::default(),
        }
    }
}

impl Backups {
    /// Begins a backup, which is under way until what is returned is dropped.
    fn begin(&self, folder: &Path) -> Result<(OwnedSemaphorePermit, BackupStatus), Problem> {
        let begun = Arc::clone(&self.one_at_a_time).try_acquire_owned();
        let begun = begun.map_err(|_| {
            Problem::new(
                Code::BackupUnderWay,
                "the server is making another backup; wait until that has ended",
            )
        })?;
        let status = BackupStatus {
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            folder: folder.to_owned(),
            running: true,
            made: None,
            problem: None,
        };
        let mut by_id = self.by_id.lock();
        while by_id.len() >= MAX_KNOWN {
            by_id.pop_first();
        }
        by_id.insert(status.id, status.clone());
        Ok((begun, status))
    }

    /// Notes how a backup has ended.
    fn end(&self, id: u64, made: &Result<BackupView, Problem>) {
        if let Some(status) = self.by_id.lock().get_mut(&id) {
            status.running = false;
            status.made = made.as_ref().ok().cloned();
            status.problem = made.as_ref().err().cloned();
        }
    }

    fn find(&self, id: u64) -> Result<BackupStatus, Problem> {
        self.by_id.lock().get(&id).cloned().ok_or_else(|| {
            Problem::new(
                Code::UnknownBackup,
                format!("there is no backup {id} since the server has started, or it ended long ago; what is on the disk of the server under its folder's name is whole"),
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
    /// Whether to answer when it has begun, instead of when it is made.
    #[serde(default)]
    pub detach: bool,
}

/// How a backup goes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackupStatus {
    /// What to ask about it by.
    pub id: u64,
    /// The folder, on the machine of the server.
    #[schema(value_type = String)]
    pub folder: PathBuf,
    /// Whether it is still being made.
    pub running: bool,
    /// What was made; null while it is being made, and if it could not be.
    pub made: Option<BackupView>,
    /// Why it could not be made.
    pub problem: Option<Problem>,
}

/// A backup that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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
            backup::Error::Inside { .. } | backup::Error::Reserved { .. } => Code::InvalidRequest,
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
/// at all. Answers when all of it is on disk, or, with `detach`, when it has begun; it is made to its end also if the
/// client does not wait. One is made at a time. `millstream restore` makes a data directory of it.
#[utoipa::path(post, path = "/backups", tag = "backups", security(("token" = ["admin"])), request_body = NewBackup,
    responses((status = 201, body = BackupView), (status = 202, body = BackupStatus), (status = 409), (status = 507)))]
async fn create(
    StateOf(state): StateOf<State>,
    subject: Subject,
    Json(NewBackup { folder, detach }): Json<NewBackup>,
) -> Result<Response, Problem> {
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
    subject.set(folder.display());
    // Not only of what is copied: who is refused now has an answer at once.
    block_in_place(|| deploy::check_whole(state.data.log.store()))?;
    let (one_at_a_time, begun) = state.backups.begin(&folder)?;
    // Before the answer: a server that is told to stop after it waits for the backup.
    let under_way = state.request_started();
    let making = tokio::spawn(make(state, begun.clone(), one_at_a_time, under_way));
    if detach {
        return Ok((StatusCode::ACCEPTED, axum::Json(begun)).into_response());
    }
    let made = making
        .await
        .unwrap_or_else(|error| Err(ended_early(&error)))?;
    Ok((StatusCode::CREATED, axum::Json(made)).into_response())
}

/// Makes a backup, whoever waits for it, and notes how it went.
async fn make(
    state: State,
    begun: BackupStatus,
    one_at_a_time: OwnedSemaphorePermit,
    _under_way: UnderWay,
) -> Result<BackupView, Problem> {
    let BackupStatus { id, folder, .. } = begun;
    let store = state.data.log.store().clone();
    let into = folder.clone();
    let making = tokio::task::spawn_blocking(move || {
        // What would make half of a state whole again is in no backup.
        let list = backup::create(&store, &into, |checkpoint, copy| {
            deploy::check_copy_whole(&store, checkpoint, copy).map_err(Problem::from)
        })?;
        Ok::<_, Problem>(BackupView::new(into, store.path().to_owned(), list))
    });
    let made = match making.await {
        Ok(made) => made,
        Err(error) => Err(ended_early(&error)),
    };
    match &made {
        Ok(_) => tracing::info!(id, folder = %folder.display(), "a backup was made"),
        // Perhaps nobody hears of it otherwise.
        Err(problem) => {
            tracing::error!(id, folder = %folder.display(), error = %problem, "a backup could not be made");
        }
    }
    // First: whoever hears that it has ended may begin the next one.
    drop(one_at_a_time);
    state.backups.end(id, &made);
    made
}

fn ended_early(error: &tokio::task::JoinError) -> Problem {
    Problem::new(
        Code::Internal,
        format!("the backup ended early: {error}; this is a bug of millstream, please report it"),
    )
}

/// How a backup goes that was begun since the server has started.
#[utoipa::path(get, path = "/backups/{id}", tag = "backups", security(("token" = ["admin"])),
    params(("id" = u64, Path, description = "Its id")),
    responses((status = 200, body = BackupStatus), (status = 404)))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(id): PathOf<u64>,
) -> Result<axum::Json<BackupStatus>, Problem> {
    Ok(axum::Json(state.backups.find(id)?))
}
