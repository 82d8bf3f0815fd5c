//! `/v1/plugins` and `/v1/deploys`: upload, list, describe, deploy, roll back and delete plugins.

mod view;

use axum::extract::{DefaultBodyLimit, State as StateOf};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use view::{
    DeployView, DifferenceView, ImportView, MisfitView, PluginDescription, PluginView,
    UploadedView, VersionView,
};

use super::access::Caller;
use super::extract::{Body, Json, PathOf};
use super::problem::Problem;
use super::state::State;
use crate::deploy::Mode;
use crate::model::PluginName;

/// The router; a component may have so many bytes.
pub(super) fn router(plugin_bytes: usize) -> OpenApiRouter<State> {
    let upload = OpenApiRouter::new()
        .routes(routes!(upload))
        .layer(DefaultBodyLimit::max(plugin_bytes));
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(describe, delete))
        .routes(routes!(deploy))
        .routes(routes!(rollback))
        .routes(routes!(deploys))
        .routes(routes!(describe_deploy))
        .merge(upload)
}

/// What to deploy.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// SHA-256 of the version, or the start of it.
    pub digest: String,
}

/// All plugins that were uploaded, by name.
#[utoipa::path(get, path = "/plugins", security(("token" = ["read"])), tag = "plugins",
    responses((status = 200, body = Vec<PluginView>), (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn list(StateOf(state): StateOf<State>) -> Result<axum::Json<Vec<PluginView>>, Problem> {
    let plugins = state.deployments()?.plugins()?.into_iter();
    Ok(axum::Json(plugins.map(PluginView::of).collect()))
}

/// A plugin's versions, and what the current one imports and exports.
#[utoipa::path(get, path = "/plugins/{plugin}", security(("token" = ["read"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = PluginDescription), (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
) -> Result<axum::Json<PluginDescription>, Problem> {
    let deployments = state.deployments()?;
    let plugin = deployments.plugin(&name)?;
    let version = tokio::task::block_in_place(|| deployments.version(&name, None))?;
    Ok(axum::Json(PluginDescription::new(plugin, version)))
}

/// Upload a component as a version of a plugin. It is compiled and held against the pipelines that use the plugin; they
/// go on with the version that they run until this one is deployed.
#[utoipa::path(post, path = "/plugins/{plugin}/versions", security(("token" = ["deploy"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name")),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 200, body = UploadedView), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json")))]
async fn upload(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
    Caller(by): Caller,
    Body(wasm): Body,
) -> Result<axum::Json<UploadedView>, Problem> {
    let uploaded = state.deployments()?.upload(&name, wasm, by).await?;
    Ok(axum::Json(UploadedView::of(uploaded)))
}

/// Give a version to all pipelines that use the plugin, task by task at their next batch boundary; state and position
/// are kept. Answers when it has ended. If the version cannot run in one of the pipelines all go on with the one before.
#[utoipa::path(post, path = "/plugins/{plugin}/deploy", security(("token" = ["deploy"])), tag = "plugins",
    request_body = DeployRequest,
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = DeployView), (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn deploy(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
    Caller(by): Caller,
    Json(request): Json<DeployRequest>,
) -> Result<axum::Json<DeployView>, Problem> {
    let deployments = state.deployments()?;
    let digest = deployments.find_version(&name, &request.digest)?;
    let deployed = deployments.deploy(&name, &digest, Mode::All, by).await?;
    Ok(axum::Json(DeployView::of(deployed)))
}

/// Give the version that was current before the last deploy to all pipelines that use the plugin. State and position stay
/// as they are.
#[utoipa::path(post, path = "/plugins/{plugin}/rollback", security(("token" = ["deploy"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = DeployView), (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn rollback(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
    Caller(by): Caller,
) -> Result<axum::Json<DeployView>, Problem> {
    let rolled_back = state.deployments()?.rollback(&name, by).await?;
    Ok(axum::Json(DeployView::of(rolled_back)))
}

/// Delete a plugin with all its versions; no pipeline may use it.
#[utoipa::path(delete, path = "/plugins/{plugin}", security(("token" = ["deploy"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 204), (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn delete(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
) -> Result<StatusCode, Problem> {
    state.deployments()?.delete_plugin(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was deployed, the newest first: when, from which version, to which, by which token.
#[utoipa::path(get, path = "/deploys", security(("token" = ["read"])), tag = "plugins",
    responses((status = 200, body = Vec<DeployView>), (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn deploys(StateOf(state): StateOf<State>) -> Result<axum::Json<Vec<DeployView>>, Problem> {
    let deploys = state.deployments()?.deploys()?.into_iter();
    Ok(axum::Json(deploys.map(DeployView::of).collect()))
}

/// One deploy.
#[utoipa::path(get, path = "/deploys/{id}", security(("token" = ["read"])), tag = "plugins",
    params(("id" = u64, Path, description = "Its number")),
    responses((status = 200, body = DeployView), (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
async fn describe_deploy(
    StateOf(state): StateOf<State>,
    PathOf(id): PathOf<u64>,
) -> Result<axum::Json<DeployView>, Problem> {
    let deploy = state.deployments()?.deploy_of(id)?;
    Ok(axum::Json(DeployView::of(deploy)))
}
