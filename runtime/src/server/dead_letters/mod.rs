//! `/v1/dead-letters`: list, show, export and purge what was given up on; `redrive.rs` sends it back.

mod redrive;
mod selection;
mod view;

use axum::extract::State as StateOf;
use axum::http::header;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(in crate::server) use redrive::Redrives;
pub use redrive::{RedriveDestination, RedriveRequest, RedriveView, StrandedView, WhereTo};
pub(crate) use selection::Source;
pub use selection::{PurgeRequest, Selection};
pub use view::LetterView;

use super::access::Subject;
use super::extract::{Json, PathOf, QueryOf};
use super::json_record::QueueWriter;
use super::problem::{Code, Problem};
use super::records::JSON_LINES;
use super::state::State;
use crate::model::QueueName;
use crate::queue::letter::DeadLetter;
use crate::queue::{self, Queue};

const DEFAULT_LETTERS: usize = 100;
const MAX_LETTERS: usize = 1_000;
/// Letters that are deleted in one commit.
const PURGED_LETTERS: usize = 10_000;
/// Bytes of letters beyond which no further one is added to an answer.
const MAX_EXPORT_BYTES: usize = 8 << 20;

/// Names the id at which an export goes on; missing at its end.
pub(crate) const NEXT_ID: &str = "millstream-next-id";
/// Names the component that has failed on the letters, if the start of its digest was asked for.
pub(crate) const PLUGIN_DIGEST: &str = "millstream-plugin-digest";
/// Names the queue that the letters are in.
pub(crate) const QUEUE: &str = "millstream-queue";

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(export))
        .routes(routes!(count))
        .routes(routes!(purge))
        .merge(redrive::router())
}

/// Which page of letters.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// The first id to look at.
    #[serde(default)]
    #[param(default = 0)]
    pub from: Option<u64>,
    /// Letters at most.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1_000, default = 100)]
    pub max: Option<usize>,
}

/// A page of letters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LetterPage {
    /// The letters.
    pub letters: Vec<LetterView>,
    /// Where the next page begins; null if there is none.
    pub next: Option<u64>,
    /// The whole of `plugin_digest`, which makes the next page cheaper; null if no component was asked for.
    #[serde(default)]
    pub plugin_digest: Option<String>,
}

/// What was, or would be, deleted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PurgedLetters {
    /// The queue.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// Letters that are gone.
    pub deleted: u64,
    /// Letters that are leased by somebody, so still there.
    pub held: u64,
    /// Messages of the queue that no header `millstream-reason` says to be dead letters, so still there.
    #[serde(default)]
    pub others: u64,
}

impl PurgedLetters {
    async fn delete(&mut self, queue: &Queue, offsets: &mut Vec<u64>) -> Result<(), queue::Error> {
        let removed = queue.remove(offsets).await?;
        self.deleted += removed;
        self.held += offsets.len() as u64 - removed;
        offsets.clear();
        Ok(())
    }
}

/// How many there are.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LetterCount {
    /// The queue.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// How many letters of it are meant.
    pub letters: u64,
}

impl Page {
    fn max(&self) -> Result<usize, Problem> {
        match self.max.unwrap_or(DEFAULT_LETTERS) {
            max if max == 0 || max > MAX_LETTERS => Err(Problem::invalid(format!(
                "max is {max}; expected 1 to {MAX_LETTERS}"
            ))),
            max => Ok(max),
        }
    }
}

/// Dead letters, by id: where they come from, why and when they were given up on.
#[utoipa::path(get, path = "/dead-letters", security(("token" = ["consume"])), tag = "dead letters",
    params(Selection, Page),
    responses((status = 200, body = LetterPage), (status = 404)))]
async fn list(
    StateOf(state): StateOf<State>,
    QueryOf(selection): QueryOf<Selection>,
    QueryOf(page): QueryOf<Page>,
) -> Result<axum::Json<LetterPage>, Problem> {
    let max = page.max()?;
    let queue = selection.queue(&state.data)?;
    let filter = selection.filter(&queue).await?;
    let plugin_digest = filter.plugin_digest.as_ref().map(ToString::to_string);
    let mut found = queue.letters_from(filter, page.from.unwrap_or(0));
    let (mut letters, mut bytes, mut next) = (Vec::new(), 0, None);
    'pages: while let Some(messages) = found.next_page().await? {
        for message in messages {
            bytes += message.record()?.size_bytes();
            let is_full = bytes > MAX_EXPORT_BYTES && !letters.is_empty();
            if letters.len() == max || is_full {
                next = Some(message.offset);
                break 'pages;
            }
            letters.push(LetterView::of(message.offset, &message.record()?));
        }
    }
    Ok(axum::Json(LetterPage {
        letters,
        next,
        plugin_digest,
    }))
}

/// Whose dead letter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Of {
    /// `queue:NAME`, or the name of the pipeline that has given up on it.
    source: String,
}

/// Everything about one dead letter: payload, headers, plugin, backtrace.
#[utoipa::path(get, path = "/dead-letters/{id}", security(("token" = ["consume"])), tag = "dead letters",
    params(("id" = u64, Path, description = "Its id"), Of),
    responses((status = 200, body = LetterView), (status = 404)))]
async fn show(
    StateOf(state): StateOf<State>,
    PathOf(id): PathOf<u64>,
    QueryOf(of): QueryOf<Of>,
) -> Result<axum::Json<LetterView>, Problem> {
    let selection = Selection {
        source: of.source,
        ..Selection::default()
    };
    let queue = selection.queue(&state.data)?;
    let found = queue.peek(id, 1).await?;
    let message = found.iter().find(|message| message.offset == id);
    let message = message.ok_or_else(|| {
        Problem::new(
            Code::UnknownDeadLetter,
            format!(
                "the queue `{0}` holds no message {id}; `millstream dead-letter list queue:{0}` lists what it holds",
                queue.name()
            ),
        )
    })?;
    Ok(axum::Json(LetterView::of(id, &message.record()?)))
}

/// Dead letters as they are stored, one JSON object a line; they can be produced again, and replayed elsewhere. The header `millstream-next-id` says where to go on, `millstream-plugin-digest` what `plugin_digest` is as a whole.
#[utoipa::path(get, path = "/dead-letters/export", security(("token" = ["consume"])), tag = "dead letters",
    params(Selection, Page),
    responses((status = 200, body = String, content_type = "application/x-ndjson"), (status = 404)))]
async fn export(
    StateOf(state): StateOf<State>,
    QueryOf(selection): QueryOf<Selection>,
    QueryOf(page): QueryOf<Page>,
) -> Result<impl IntoResponse, Problem> {
    let max = page.max()?;
    let queue = selection.queue(&state.data)?;
    let filter = selection.filter(&queue).await?;
    let digest = filter.plugin_digest.as_ref().map(ToString::to_string);
    let mut letters = queue.letters_from(filter, page.from.unwrap_or(0));
    let json = QueueWriter::new(queue.name());
    let (mut count, mut lines, mut next) = (0, Vec::new(), None);
    'pages: while let Some(messages) = letters.next_page().await? {
        for message in messages {
            if count == max || lines.len() >= MAX_EXPORT_BYTES {
                next = Some(message.offset);
                break 'pages;
            }
            json.write(&message.record()?, message.delivery_count, None, &mut lines);
            count += 1;
        }
    }
    let mut headers = axum::http::HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        axum::http::HeaderValue::from_static(JSON_LINES),
    );
    // A name has no character that a header does not take.
    if let Ok(name) = queue.name().as_str().parse() {
        headers.insert(QUEUE, name);
    }
    if let Some(next) = next {
        headers.insert(NEXT_ID, next.into());
    }
    if let Some(digest) = digest.and_then(|it| it.parse().ok()) {
        headers.insert(PLUGIN_DIGEST, digest);
    }
    Ok((headers, lines))
}

/// How many dead letters are meant.
#[utoipa::path(get, path = "/dead-letters/count", security(("token" = ["read"]), ("token" = ["consume"]), ("token" = ["deploy"])), tag = "dead letters",
    params(Selection),
    responses((status = 200, body = LetterCount), (status = 404)))]
async fn count(
    StateOf(state): StateOf<State>,
    QueryOf(selection): QueryOf<Selection>,
) -> Result<axum::Json<LetterCount>, Problem> {
    let queue = selection.queue(&state.data)?;
    let filter = selection.filter(&queue).await?;
    let mut letters = 0;
    if filter.is_all() {
        letters = queue.message_count().await?;
    } else {
        let mut found = queue.letters(filter);
        while let Some(page) = found.next_page().await? {
            letters += page.len() as u64;
        }
    }
    let queue = queue.name().clone();
    Ok(axum::Json(LetterCount { queue, letters }))
}

/// Delete dead letters, and nothing else that their queue holds.
#[utoipa::path(post, path = "/dead-letters/purge", security(("token" = ["deploy"])), tag = "dead letters",
    request_body = PurgeRequest,
    responses((status = 200, body = PurgedLetters), (status = 404)))]
async fn purge(
    StateOf(state): StateOf<State>,
    subject: Subject,
    Json(request): Json<PurgeRequest>,
) -> Result<axum::Json<PurgedLetters>, Problem> {
    let selection = Selection::from(request);
    let queue = selection.queue(&state.data)?;
    subject.set(format_args!("dead letters of queue {}", queue.name()));
    let filter = selection.filter(&queue).await?;
    let mut purged = PurgedLetters {
        queue: queue.name().clone(),
        deleted: 0,
        held: 0,
        others: 0,
    };
    let mut offsets = Vec::new();
    let mut letters = queue.letters(filter);
    while let Some(page) = letters.next_page().await? {
        for message in page {
            // The queue may be one like any other, and only an admin empties that.
            match DeadLetter::read(message.record()?.headers).is_marked() {
                true => offsets.push(message.offset),
                false => purged.others += 1,
            }
        }
        if offsets.len() >= PURGED_LETTERS {
            purged.delete(&queue, &mut offsets).await?;
        }
    }
    purged.delete(&queue, &mut offsets).await?;
    Ok(axum::Json(purged))
}
