//! `/v1/pipelines` and `/v1/manifests`: apply manifests, and list, describe, pause, resume and delete pipelines.

mod logs;
mod view;

use axum::extract::State as StateOf;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use logs::LogLineView;
pub use view::{InputQueueView, PipelineView, PortView, RunView, TaskStatusView, TotalsView};

use super::access::{Caller, Subject};
use super::extract::{Body, PathOf, QueryOf};
use super::problem::{Code, Problem};
use super::state::State;
use crate::deploy::ManifestView as Manifest;
use crate::model::PipelineName;
use crate::pipeline::{self, Change};

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(describe, delete))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(logs::logs))
        .routes(routes!(manifests, apply))
        .routes(routes!(delete_manifest))
}

/// A manifest that was applied.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ManifestView {
    /// Its name.
    pub name: String,
    /// When it was applied, in ms since the epoch.
    pub applied_ms: u64,
    /// The name of the token with which it was; null without one.
    pub applied_by: Option<String>,
    /// Its pipelines.
    #[schema(value_type = Vec<String>)]
    pub pipelines: Vec<PipelineName>,
    /// Its text.
    pub text: String,
}

/// What applying a manifest has done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AppliedView {
    /// Each pipeline of the manifest, and each that it has no more.
    pub pipelines: Vec<ChangeView>,
}

/// What has become of a pipeline.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// The pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// `started`, `restarted`, `unchanged`, `paused`, `refused` or `stopped`; `applied` if no server runs, and the next
    /// one starts it.
    pub change: String,
    /// Why, if its plugin cannot run in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl ManifestView {
    fn of(manifest: Manifest) -> Self {
        Self {
            name: manifest.name,
            applied_ms: manifest.applied.applied_at_ms,
            applied_by: manifest.applied.applied_by,
            pipelines: manifest.pipelines,
            text: manifest.applied.text,
        }
    }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Started => "started",
        Change::Restarted => "restarted",
        Change::Unchanged => "unchanged",
        Change::Paused => "paused",
        Change::Applied => "applied",
        Change::Refused => "refused",
        Change::Stopped => "stopped",
    }
}

/// All pipelines that have run here, and how they run.
#[utoipa::path(get, path = "/pipelines", security(("token" = ["read"])), tag = "pipelines",
    responses((status = 200, body = Vec<PipelineView>)))]
async fn list(StateOf(state): StateOf<State>) -> Result<axum::Json<Vec<PipelineView>>, Problem> {
    Ok(axum::Json(block_in_place(|| views(&state))?))
}

fn views(state: &State) -> Result<Vec<PipelineView>, Problem> {
    let data = &state.data;
    let pipelines = state.pipelines();
    let all = match pipelines {
        Some(pipelines) => pipelines.described()?,
        None => {
            let all = pipeline::list(&data.log, &data.queues, &data.groups)?;
            all.into_iter().map(|it| (it, None)).collect()
        }
    };
    let runs = pipelines.is_some_and(|it| !it.is_offline());
    let views = all
        .into_iter()
        .map(|(description, status)| PipelineView::new(description, status.as_ref(), runs));
    Ok(views.collect())
}

/// A pipeline's wiring, its plugin, and its position and lag in each partition.
#[utoipa::path(get, path = "/pipelines/{pipeline}", security(("token" = ["read"])), tag = "pipelines",
    params(("pipeline" = String, Path, description = "The pipeline's name")),
    responses((status = 200, body = PipelineView), (status = 404)))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PipelineName>,
) -> Result<axum::Json<PipelineView>, Problem> {
    Ok(axum::Json(view(&state, &name)?))
}

fn view(state: &State, name: &PipelineName) -> Result<PipelineView, Problem> {
    block_in_place(|| {
        let data = &state.data;
        let pipelines = state.pipelines();
        let (description, status) = match pipelines {
            Some(pipelines) => pipelines.described_one(name)?,
            None => {
                let found = pipeline::describe(&data.log, &data.queues, &data.groups, name)?;
                (found, None)
            }
        };
        let runs = pipelines.is_some_and(|it| !it.is_offline());
        Ok(PipelineView::new(description, status.as_ref(), runs))
    })
}

/// End a pipeline's tasks at their next batch boundary, until it is resumed, also over restarts.
#[utoipa::path(post, path = "/pipelines/{pipeline}/pause", security(("token" = ["deploy"])), tag = "pipelines",
    params(("pipeline" = String, Path, description = "The pipeline's name")),
    responses((status = 200, body = PipelineView), (status = 404), (status = 409)))]
async fn pause(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PipelineName>,
) -> Result<axum::Json<PipelineView>, Problem> {
    state.deployments()?.pause(&name).await?;
    Ok(axum::Json(view(&state, &name)?))
}

/// Start a pipeline that is paused or has failed, where it stands.
#[utoipa::path(post, path = "/pipelines/{pipeline}/resume", security(("token" = ["deploy"])), tag = "pipelines",
    params(("pipeline" = String, Path, description = "The pipeline's name")),
    responses((status = 200, body = PipelineView), (status = 404), (status = 409)))]
async fn resume(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PipelineName>,
) -> Result<axum::Json<PipelineView>, Problem> {
    state.deployments()?.resume(&name).await?;
    Ok(axum::Json(view(&state, &name)?))
}

/// What goes with a pipeline.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Deletion {
    /// Whether its state, timers, parked records and consumer group are deleted, too.
    #[serde(default)]
    #[param(default = false)]
    delete_data: bool,
}

/// Stop a pipeline, and take it out of its manifest. Unless its data is deleted it goes on where it stands when a
/// manifest with it is applied again.
#[utoipa::path(delete, path = "/pipelines/{pipeline}", security(("token" = ["deploy"])), tag = "pipelines",
    params(("pipeline" = String, Path, description = "The pipeline's name"), Deletion),
    responses((status = 204), (status = 404), (status = 409)))]
async fn delete(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PipelineName>,
    QueryOf(deletion): QueryOf<Deletion>,
    subject: Subject,
) -> Result<StatusCode, Problem> {
    subject.set(match deletion.delete_data {
        true => "with its data",
        false => "without its data",
    });
    let deployments = state.deployments()?;
    deployments
        .delete_pipeline(&name, deletion.delete_data)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All manifests that were applied.
#[utoipa::path(get, path = "/manifests", security(("token" = ["read"])), tag = "pipelines",
    responses((status = 200, body = Vec<ManifestView>)))]
async fn manifests(
    StateOf(state): StateOf<State>,
) -> Result<axum::Json<Vec<ManifestView>>, Problem> {
    let deployments = state.deployments()?;
    let manifests = block_in_place(|| deployments.manifests())?.into_iter();
    Ok(axum::Json(manifests.map(ManifestView::of).collect()))
}

/// Apply a manifest: create its topics and queues, and run its pipelines, also after a restart. Its plugins are those
/// that were uploaded under their names. Pipelines that run already go on, at their position, with what has changed.
#[utoipa::path(post, path = "/manifests", security(("token" = ["deploy"])), tag = "pipelines",
    request_body(content = String, content_type = "application/toml"),
    responses((status = 200, body = AppliedView), (status = 404), (status = 409)))]
async fn apply(
    StateOf(state): StateOf<State>,
    Caller(by): Caller,
    subject: Subject,
    Body(body): Body,
) -> Result<axum::Json<AppliedView>, Problem> {
    let deployments = state.deployments()?;
    let text = std::str::from_utf8(&body)
        .map_err(|_| Problem::new(Code::InvalidManifest, "the manifest is not UTF-8 text"))?;
    let applied = deployments.apply(text, by).await?;
    let names = applied.pipelines.iter().map(|(name, _)| name.as_str());
    let names: Vec<_> = names.collect();
    subject.set(format_args!("pipelines {}", names.join(", ")));
    let pipelines = applied.pipelines.into_iter().map(|(pipeline, change)| {
        let failure = deployments.pipelines().failure_of(&pipeline);
        ChangeView {
            pipeline,
            change: word(change).to_owned(),
            failure: failure.map(|failure| failure.error.to_string()),
        }
    });
    Ok(axum::Json(AppliedView {
        pipelines: pipelines.collect(),
    }))
}

/// Stop all pipelines of a manifest and forget it; their state and positions are kept.
#[utoipa::path(delete, path = "/manifests/{manifest}", security(("token" = ["deploy"])), tag = "pipelines",
    params(("manifest" = String, Path, description = "The manifest's name")),
    responses((status = 204), (status = 404), (status = 409)))]
async fn delete_manifest(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<String>,
) -> Result<StatusCode, Problem> {
    state.deployments()?.delete_manifest(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
