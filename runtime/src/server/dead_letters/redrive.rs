//! `/v1/redrives`: dead letters back to where they come from. A redrive runs on its own, however long it takes;
//! whoever started it asks how far it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State as StateOf;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::access::Subject;
use super::super::extract::{Json, PathOf};
use super::super::problem::{Code, Problem};
use super::super::state::State;
use super::Selection;
use crate::model::QueueName;
use crate::pipeline::{Redrive, RedriveTo, Stranded};

/// Letters of one commit.
const BATCH_LETTERS: u64 = 1_000;
/// Finished redrives that can still be asked about.
const MAX_FINISHED: usize = 100;
/// How long the pipelines that letters go back to stand still at a time.
const TURN: Duration = Duration::from_secs(1);

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(describe, cancel))
}

/// Which letters to send back, and how. A word that is not known is refused: without it more might be sent back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    /// As in `GET /dead-letters`.
    pub source: String,
    /// As in `GET /dead-letters`.
    #[serde(default)]
    pub filter: Option<String>,
    /// As in `GET /dead-letters`.
    #[serde(default)]
    pub plugin_digest: Option<String>,
    /// As in `GET /dead-letters`.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Send back at most this many: of each partition, those that were there first.
    #[serde(default)]
    pub max: Option<u64>,
    /// Send back at most this many a second.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub rate: Option<u64>,
    /// Where letters of a pipeline go.
    #[serde(default)]
    pub to: WhereTo,
    /// Whether to tell only what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where letters of a pipeline go.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum WhereTo {
    /// The pipeline that gave up on them, if it is known here and still reads the topic; else the topic
    #[default]
    Pipeline,
    /// The topic
    Topic,
}

/// How far a redrive is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RedriveView {
    /// What to ask about it by.
    pub id: u64,
    /// The queue of the letters.
    #[schema(value_type = String)]
    pub queue: QueueName,
    /// Whether nothing is changed.
    pub dry_run: bool,
    /// Whether it still goes on.
    pub running: bool,
    /// Sent back; of a dry run, to be sent back.
    pub redriven: u64,
    /// Letters that are still to be sent.
    pub left: u64,
    /// Where they go.
    pub destinations: Vec<RedriveDestination>,
    /// Leased or taken by somebody else meanwhile, so not sent.
    pub held: u64,
    /// Letters that stay, by reason.
    pub stranded: Vec<StrandedView>,
    /// Why it ended before all were sent.
    pub error: Option<String>,
}

/// A place that letters go back to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RedriveDestination {
    /// `pipeline:NAME`, `topic:NAME` or `queue:NAME`.
    pub to: String,
    /// How many.
    pub letters: u64,
}

/// Letters that stay.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StrandedView {
    /// Why.
    pub reason: String,
    /// How many.
    pub letters: u64,
}

impl StrandedView {
    fn of(stranded: &Stranded) -> Self {
        Self {
            reason: stranded.reason.clone(),
            letters: stranded.count,
        }
    }
}

/// The redrives of a server.
#[derive(Default)]
pub(in crate::server) struct Redrives {
    next_id: AtomicU64,
    by_id: Mutex<BTreeMap<u64, Arc<Job>>>,
}

/// A redrive that runs or has run.
struct Job {
    view: Mutex<RedriveView>,
    is_cancelled: AtomicBool,
}

impl Redrives {
    fn add(&self, view: impl FnOnce(u64) -> RedriveView) -> Arc<Job> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        let job = Arc::new(Job {
            view: Mutex::new(view(id)),
            is_cancelled: AtomicBool::new(false),
        });
        let mut by_id = self.by_id.lock();
        let finished: Vec<u64> = by_id
            .iter()
            .filter(|(_, job)| !job.view.lock().running)
            .map(|(id, _)| *id)
            .collect();
        for id in finished
            .iter()
            .take(finished.len().saturating_sub(MAX_FINISHED))
        {
            by_id.remove(id);
        }
        by_id.insert(id, Arc::clone(&job));
        job
    }

    fn find(&self, id: u64) -> Result<Arc<Job>, Problem> {
        let found = self.by_id.lock().get(&id).cloned();
        found.ok_or_else(|| {
            Problem::new(
                Code::UnknownRedrive,
                format!("there is no redrive {id}, or it ended long ago"),
            )
        })
    }
}

/// Send dead letters back to where they come from. It is planned when this answers, and goes on afterwards.
#[utoipa::path(post, path = "/redrives", security(("token" = ["deploy"])), tag = "dead letters", request_body = RedriveRequest,
    responses((status = 202, body = RedriveView), (status = 404), (status = 409)))]
async fn start(
    StateOf(state): StateOf<State>,
    subject: Subject,
    Json(request): Json<RedriveRequest>,
) -> Result<impl IntoResponse, Problem> {
    if request.rate == Some(0) {
        return Err(Problem::invalid("rate is 0; expected 1 or more a second"));
    }
    let data = &state.data;
    let selection = Selection {
        source: request.source,
        filter: request.filter,
        plugin_digest: request.plugin_digest,
        since_ms: request.since_ms,
    };
    let queue = selection.queue(data)?;
    let dry_run = if request.dry_run { ", tried only" } else { "" };
    subject.set(format_args!(
        "dead letters of queue {}{dry_run}",
        queue.name()
    ));
    let to = match request.to {
        WhereTo::Pipeline => RedriveTo::Pipeline,
        WhereTo::Topic => RedriveTo::Topic,
    };
    let filter = selection.filter(&queue).await?;
    let max = request.max.unwrap_or(u64::MAX);
    let redrive = Redrive::plan(&data.log, &data.queues, &queue, filter, to, max).await?;
    let (dry_run, left) = (request.dry_run, redrive.left_count());
    if !dry_run && let Ok(deployments) = state.deployments() {
        // Each turn looks again; this is where it can still be refused.
        deployments.check_not_tried(&redrive.pipelines())?;
    }
    let destinations = redrive.destinations().into_iter();
    let job = state.redrives.add(|id| RedriveView {
        id,
        queue: queue.name().clone(),
        dry_run,
        running: !dry_run && left > 0,
        redriven: if dry_run { left } else { 0 },
        left: if dry_run { 0 } else { left },
        destinations: destinations
            .map(|(to, letters)| RedriveDestination { to, letters })
            .collect(),
        held: 0,
        stranded: redrive.stranded().iter().map(StrandedView::of).collect(),
        error: None,
    });
    let view = job.view.lock().clone();
    if view.running {
        let under_way = state.request_started();
        tokio::spawn(async move {
            run(&state, redrive, request.rate, &job).await;
            drop(under_way);
        });
    }
    Ok((StatusCode::ACCEPTED, axum::Json(view)))
}

/// Sends everything that is planned, unless it is cancelled or the server goes down.
async fn run(state: &State, mut redrive: Redrive, rate: Option<u64>, job: &Job) {
    let started = Instant::now();
    let mut sent = 0;
    let ended = loop {
        if state.is_stopping() || job.is_cancelled.load(Ordering::Acquire) {
            break Ok(());
        }
        match turn(state, &mut redrive, rate, job, &mut sent).await {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(problem) => break Err(problem.detail),
        }
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            tokio::select! {
                () = tokio::time::sleep_until((started + due).into()) => {}
                () = state.stopping() => {}
            }
        }
    };
    let mut view = job.view.lock();
    view.running = false;
    view.error = ended.err();
}

/// Sends letters for a while, during which the pipelines that they go back to stand still; whether there are more.
async fn turn(
    state: &State,
    redrive: &mut Redrive,
    rate: Option<u64>,
    job: &Job,
    sent: &mut u64,
) -> Result<bool, Problem> {
    let pipelines = redrive.pipelines();
    let standing_still = state.suspend(&pipelines).await?;
    // They have run since the turn before.
    redrive.look_again();
    let began = Instant::now();
    // Pipelines that run stand still once a second; where none does, a rate is kept in smaller steps.
    let steps = if standing_still.is_empty() { 10 } else { 1 };
    let batch = rate.map_or(BATCH_LETTERS, |rate| (rate / steps).clamp(1, BATCH_LETTERS));
    let mut more = true;
    while more && began.elapsed() < TURN && !job.is_cancelled.load(Ordering::Acquire) {
        let batch = usize::try_from(batch).unwrap_or(usize::MAX);
        let step = redrive.next_batch(batch).await?;
        more = step.is_some();
        let mut view = job.view.lock();
        if let Some(step) = step {
            view.redriven += step.sent_count;
            view.held += step.held_count;
            *sent += step.sent_count;
        }
        view.left = redrive.left_count();
        view.stranded = redrive.stranded().iter().map(StrandedView::of).collect();
        drop(view);
        if rate.is_some() {
            break;
        }
    }
    standing_still.resume().await?;
    Ok(more)
}

/// How far a redrive is.
#[utoipa::path(get, path = "/redrives/{id}", security(("token" = ["read"]), ("token" = ["deploy"])), tag = "dead letters",
    params(("id" = u64, Path, description = "Its id")),
    responses((status = 200, body = RedriveView), (status = 404)))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(id): PathOf<u64>,
) -> Result<axum::Json<RedriveView>, Problem> {
    let job = state.redrives.find(id)?;
    let view = job.view.lock().clone();
    Ok(axum::Json(view))
}

/// End a redrive after the batch under way; what was sent stays sent.
#[utoipa::path(delete, path = "/redrives/{id}", security(("token" = ["deploy"])), tag = "dead letters",
    params(("id" = u64, Path, description = "Its id")),
    responses((status = 200, body = RedriveView), (status = 404)))]
async fn cancel(
    StateOf(state): StateOf<State>,
    PathOf(id): PathOf<u64>,
) -> Result<axum::Json<RedriveView>, Problem> {
    let job = state.redrives.find(id)?;
    job.is_cancelled.store(true, Ordering::Release);
    let view = job.view.lock().clone();
    Ok(axum::Json(view))
}
