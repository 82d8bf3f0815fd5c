//! `/livez` and `/readyz`.

use axum::extract::State as StateOf;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::State;

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(live))
        .routes(routes!(ready))
}

/// Whether the server can do its work.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// Whether all is well.
    pub ready: bool,
    /// What is not, and what to do.
    pub reasons: Vec<String>,
    /// Free bytes on the disk of the data directory; null if that cannot be told.
    pub free_disk_bytes: Option<u64>,
}

/// Whether the process answers. If it does not, restart it.
#[utoipa::path(get, path = "/livez", tag = "health", security(("token" = ["anyone"])),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn live() -> &'static str {
    "ok\n"
}

/// Whether the server can do its work: everything that was applied has been started or could not be (its pipelines and
/// the log say why), the store takes writes, the disk has room, and it is not going down. If not, send requests elsewhere.
#[utoipa::path(get, path = "/readyz", tag = "health", security(("token" = ["anyone"])),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
async fn ready(StateOf(state): StateOf<State>) -> impl IntoResponse {
    let mut reasons = Vec::new();
    let store = state.data.log.store();
    let health = store.health();
    if let Some(failure) = health.failure {
        reasons.push(format!(
            "the store takes no writes: {}; {}",
            failure.reason, failure.advice
        ));
    }
    let free_disk_bytes = health.disk.map(|disk| disk.free_bytes);
    let least = state.limits.free_disk_bytes;
    if let Some(free) = free_disk_bytes.filter(|free| *free < least) {
        let path = store.path().display();
        reasons.push(format!(
            "the disk of {path} has {free} bytes left, fewer than the {least} that are kept free; make room, or lower --min-free-disk"
        ));
    }
    if !state.is_started() {
        reasons.push("the pipelines that were applied are being started".to_owned());
    }
    if state.is_stopping() {
        reasons.push("the server is going down".to_owned());
    }
    let status = match reasons.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let readiness = Readiness {
        ready: reasons.is_empty(),
        reasons,
        free_disk_bytes,
    };
    (status, axum::Json(readiness))
}
