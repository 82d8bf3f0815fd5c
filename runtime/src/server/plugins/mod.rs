//! `/v1/plugins` and `/v1/deploys`: upload, list, describe, deploy, roll back and delete plugins.

mod report;
mod view;

use axum::extract::{DefaultBodyLimit, State as StateOf};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use report::{
    MissingView, RecordDifferenceView, ReportView, SampleView, ShadowView, UnsentView,
};
pub use view::{
    DeployView, DifferenceView, ImportView, MisfitView, PluginDescription, PluginView,
    UploadedView, VersionView,
};

use super::access::{Caller, Standing, Subject};
use super::extract::{Body, Json, PathOf, QueryOf};
use super::problem::Problem;
use super::state::State;
use super::waiting::wait_of;
use crate::deploy::Mode;
use crate::model::PluginName;
use crate::plugin::{Digest, Signature, SignatureError};

/// The longest canary or shadow: a week.
const MAX_TRIAL_MS: u64 = 7 * 24 * 3_600_000;

/// The router; a component may have so many bytes.
pub(super) fn router(plugin_bytes: usize) -> OpenApiRouter<State> {
    let upload = OpenApiRouter::new()
        .routes(routes!(upload))
        .layer(DefaultBodyLimit::max(plugin_bytes));
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(describe, delete))
        .routes(routes!(check))
        .routes(routes!(deploy))
        .routes(routes!(rollback))
        .routes(routes!(deploys))
        .routes(routes!(describe_deploy))
        .routes(routes!(stop_deploy))
        .merge(upload)
}

/// What to deploy.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// SHA-256 of the version, or the start of it.
    pub digest: String,
    /// Try it out on these partitions first, for `duration_ms`; then it is promoted to all, or taken back if it fails
    /// more often than the version before or is much slower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1)]
    pub canary: Option<Vec<u32>>,
    /// Run it beside the version before for `duration_ms`, throw away what it makes, and report how the two differ.
    #[serde(default)]
    pub shadow: bool,
    /// The name of the manifest for which it is deployed: refused if pipelines of another one use the plugin, which would get
    /// the version, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// How long a canary or a shadow runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604_800_000)]
    pub duration_ms: Option<u64>,
}

/// How to go back.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Whether the pipelines get the state and the positions back, too, that they had when the later version was
    /// deployed; they process again what came since.
    #[serde(default)]
    pub with_state: bool,
}

/// How long to wait for a deploy.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Patience {
    /// How long to wait for its end.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60_000, default = 0)]
    wait_ms: u64,
}

/// What is to be deployed for a manifest.
#[derive(Debug, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CheckRequest {
    /// The manifest's name.
    pub manifest: String,
    /// SHA-256 of the component.
    #[param(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub digest: Digest,
}

impl DeployRequest {
    fn mode(&self) -> Result<Mode, Problem> {
        let duration_ms = match self.duration_ms {
            Some(ms) if ms == 0 || ms > MAX_TRIAL_MS => {
                return Err(Problem::invalid(format!(
                    "duration_ms is {ms}; expected 1 to {MAX_TRIAL_MS}"
                )));
            }
            given => given,
        };
        let needed =
            || Problem::invalid("a canary and a shadow need `duration_ms`: how long they run");
        match (&self.canary, self.shadow) {
            (Some(_), true) => Err(Problem::invalid(
                "a deploy is a canary or a shadow; leave one of them out",
            )),
            (Some(partitions), false) => Ok(Mode::Canary {
                partitions: partitions.clone(),
                duration_ms: duration_ms.ok_or_else(needed)?,
            }),
            (None, true) => Ok(Mode::Shadow {
                duration_ms: duration_ms.ok_or_else(needed)?,
            }),
            (None, false) if duration_ms.is_some() => Err(Problem::invalid(
                "`duration_ms` is of a canary or a shadow; leave it out",
            )),
            (None, false) => Ok(Mode::All),
        }
    }
}

/// All plugins that were uploaded, by name.
#[utoipa::path(get, path = "/plugins", security(("token" = ["read"])), tag = "plugins",
    responses((status = 200, body = Vec<PluginView>)))]
async fn list(StateOf(state): StateOf<State>) -> Result<axum::Json<Vec<PluginView>>, Problem> {
    let deployments = state.deployments()?;
    let plugins = block_in_place(|| deployments.plugins())?.into_iter();
    Ok(axum::Json(plugins.map(PluginView::of).collect()))
}

/// A plugin's versions, and what the current one imports and exports.
#[utoipa::path(get, path = "/plugins/{plugin}", security(("token" = ["read"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = PluginDescription), (status = 404)))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
) -> Result<axum::Json<PluginDescription>, Problem> {
    let deployments = state.deployments()?;
    let plugin = block_in_place(|| deployments.plugin(&name))?;
    let version = deployments.version(&name, None).await?;
    Ok(axum::Json(PluginDescription::new(plugin, version)))
}

/// The header with the signature of a component.
pub(crate) const SIGNATURE: &str = "millstream-signature";

/// The signature that was sent with a component.
fn signature(headers: &HeaderMap) -> Result<Option<Signature>, Problem> {
    let Some(value) = headers.get(SIGNATURE) else {
        return Ok(None);
    };
    let parsed = value.to_str().unwrap_or_default().parse();
    parsed.map(Some).map_err(|error: SignatureError| {
        Problem::invalid(format!("the header `{SIGNATURE}` is malformed: {error}"))
    })
}

/// The bytes of a component.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
struct Component(#[expect(dead_code, reason = "the handler reads the body itself")] Bytes);

/// Upload a component as a version of a plugin. It is compiled and held against the pipelines that use the plugin; they
/// go on with the version that they run until this one is deployed. A server that trusts keys checks the signature of
/// the component; one that requires signatures takes none without.
#[utoipa::path(post, path = "/plugins/{plugin}/versions", security(("token" = ["deploy"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name"),
        ("millstream-signature" = Option<String>, Header, description = "The component's signature: `ed25519 KEY-ID BASE64`, as `millstream plugin sign` writes it",
            pattern = "^ed25519 [0-9a-f]{16} [A-Za-z0-9+/]{86}==$")),
    request_body(content = Component, content_type = "application/wasm"),
    responses((status = 200, body = UploadedView), (status = 409),
        (status = 507, description = "There is no room on the disk of the server for the component.")))]
async fn upload(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
    Caller(by): Caller,
    subject: Subject,
    headers: HeaderMap,
    Body(wasm): Body,
) -> Result<axum::Json<UploadedView>, Problem> {
    let uploaded = state
        .deployments()?
        .upload(&name, wasm, signature(&headers)?, by)
        .await?;
    subject.set(&uploaded.version.digest);
    Ok(axum::Json(UploadedView::of(uploaded)))
}

/// Check, before a component is uploaded, that it may be deployed for a manifest: a version that is not the current one is
/// refused if pipelines of another manifest use the plugin, which would get it, too. Changes nothing.
#[utoipa::path(get, path = "/plugins/{plugin}/check", security(("token" = ["deploy"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name"), CheckRequest),
    responses((status = 204), (status = 409)))]
async fn check(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
    QueryOf(CheckRequest { manifest, digest }): QueryOf<CheckRequest>,
) -> Result<StatusCode, Problem> {
    let deployments = state.deployments()?;
    block_in_place(|| deployments.check_for_manifest(&manifest, &name, &digest))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a version to all pipelines that use the plugin, task by task at their next batch boundary; state and position
/// are kept. Answers when it has ended; of a canary or a shadow when it has begun. If the version cannot run in one of the pipelines all go on with the one before.
#[utoipa::path(post, path = "/plugins/{plugin}/deploy", security(("token" = ["deploy"])), tag = "plugins",
    request_body = DeployRequest,
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = DeployView), (status = 404), (status = 409)))]
async fn deploy(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
    Caller(by): Caller,
    subject: Subject,
    Json(request): Json<DeployRequest>,
) -> Result<axum::Json<DeployView>, Problem> {
    let deployments = state.deployments()?;
    let digest = block_in_place(|| deployments.find_version(&name, &request.digest))?;
    let mode = request.mode()?;
    subject.set(format_args!("{digest} to {}", mode.as_str()));
    let deployed = match &request.manifest {
        Some(manifest) => {
            let deploying = deployments.deploy_for_manifest(manifest, &name, &digest, mode, by);
            deploying.await?
        }
        None => deployments.deploy(&name, &digest, mode, by).await?,
    };
    Ok(axum::Json(DeployView::of(deployed)))
}

/// Give the version that was current before the last deploy to all pipelines that use the plugin. State and position stay
/// as they are, or go back, too.
#[utoipa::path(post, path = "/plugins/{plugin}/rollback", security(("token" = ["deploy"])), tag = "plugins",
    request_body = RollbackRequest,
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = DeployView), (status = 404), (status = 409)))]
async fn rollback(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
    Caller(by): Caller,
    subject: Subject,
    Json(request): Json<RollbackRequest>,
) -> Result<axum::Json<DeployView>, Problem> {
    subject.set(match request.with_state {
        true => "with state",
        false => "without state",
    });
    let deployments = state.deployments()?;
    let rolled_back = match request.with_state {
        true => deployments.rollback_with_state(&name, by).await?,
        false => deployments.rollback(&name, by).await?,
    };
    Ok(axum::Json(DeployView::of(rolled_back)))
}

/// Delete a plugin with all its versions; no pipeline may use it.
#[utoipa::path(delete, path = "/plugins/{plugin}", security(("token" = ["deploy"])), tag = "plugins",
    params(("plugin" = String, Path, description = "The plugin's name")),
    responses((status = 204), (status = 404), (status = 409)))]
async fn delete(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PluginName>,
) -> Result<StatusCode, Problem> {
    state.deployments()?.delete_plugin(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was deployed, the newest first: when, from which version, to which, by which token.
#[utoipa::path(get, path = "/deploys", security(("token" = ["read"])), tag = "plugins",
    responses((status = 200, body = Vec<DeployView>)))]
async fn deploys(StateOf(state): StateOf<State>) -> Result<axum::Json<Vec<DeployView>>, Problem> {
    let deployments = state.deployments()?;
    let deploys = block_in_place(|| deployments.deploys())?.into_iter();
    Ok(axum::Json(deploys.map(DeployView::of).collect()))
}

/// One deploy, at once or when it has ended.
#[utoipa::path(get, path = "/deploys/{id}", security(("token" = ["read"]), ("token" = ["deploy"])), tag = "plugins",
    params(("id" = u64, Path, description = "Its number"), Patience),
    responses((status = 200, body = DeployView), (status = 404), (status = 429)))]
async fn describe_deploy(
    StateOf(state): StateOf<State>,
    PathOf(id): PathOf<u64>,
    QueryOf(Patience { wait_ms }): QueryOf<Patience>,
    standing: Standing,
) -> Result<axum::Json<DeployView>, Problem> {
    let wait = wait_of(wait_ms)?;
    let deployments = state.deployments()?;
    let mut deploy = deployments.deploy_of(id)?;
    if !deployments.has_ended(&deploy) && !wait.is_zero() {
        let _waiting = state.waiting.may_wait()?;
        deploy = tokio::select! {
            ended = deployments.wait_for(id) => ended?,
            () = tokio::time::sleep(wait) => deployments.deploy_of(id)?,
            ended = state.let_go(&standing) => {
                ended?;
                deployments.deploy_of(id)?
            }
        };
    }
    Ok(axum::Json(DeployView::of(deploy)))
}

/// End a canary, of which the version is taken back, or a shadow, before its time is over, or withdraw one that has not
/// begun.
#[utoipa::path(post, path = "/deploys/{id}/stop", security(("token" = ["deploy"])), tag = "plugins",
    params(("id" = u64, Path, description = "Its number")),
    responses((status = 200, body = DeployView), (status = 404), (status = 409)))]
async fn stop_deploy(
    StateOf(state): StateOf<State>,
    PathOf(id): PathOf<u64>,
) -> Result<axum::Json<DeployView>, Problem> {
    let stopped = state.deployments()?.stop_deploy(id).await?;
    Ok(axum::Json(DeployView::of(stopped)))
}
