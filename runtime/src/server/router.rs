//! All routes, and what is around them.

use std::any::Any;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::access::{self, Access, Entrance, TokenError, Tokens};
use super::problem::{Code, Problem};
use super::state::{Data, Limits, State, Stopping};
use super::{
    backups, dead_letters, document, error_pages, groups, health, intake, metrics, outlet,
    pipelines, plugins, queues, records, requests, topics,
};
use crate::deploy::Deployments;

/// The API on an open data directory, for its owner, who may do everything. `deployments` are what was deployed to it,
/// of which nothing runs; without it they cannot be asked for.
///
/// # Errors
/// The tokens cannot be read.
pub fn api(data: Data, deployments: Option<Deployments>) -> Result<Router, TokenError> {
    let tokens = Tokens::open(data.log.store().clone())?;
    let (limits, stopping) = (Limits::default(), Stopping::new());
    let state = State::new(data, tokens, deployments, limits, stopping);
    // Nothing is to be waited for.
    state.started();
    Ok(router(state, Entrance::Owner))
}

/// All routes of a server.
pub(super) fn router(state: State, entrance: Entrance) -> Router {
    let v1 = OpenApiRouter::new()
        .merge(topics::router())
        .merge(records::router())
        .merge(groups::router())
        .merge(queues::router())
        .merge(dead_letters::router())
        .merge(pipelines::router())
        .merge(plugins::router(state.limits.plugin_bytes))
        .merge(backups::router())
        .merge(access::router())
        .layer(from_fn_with_state(state.unread.clone(), outlet::bound));
    let (router, document) = OpenApiRouter::with_openapi(document::without_operations())
        .merge(health::router())
        .merge(metrics::router())
        .nest("/v1", v1)
        .split_for_parts();
    let access = Access::new(&document, state.tokens.clone(), entrance);
    let body_bytes = state.limits.body_bytes;
    let published = published(&document::published(document), access.clone());
    router
        .fallback(no_path)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(state.intake.clone(), intake::bound))
        .layer(from_fn_with_state(access, access::check))
        .merge(published)
        .layer(DefaultBodyLimit::max(body_bytes))
        .layer(CatchPanicLayer::custom(panicked))
        // A panic is an answer, too.
        .layer(from_fn_with_state(state.clone(), requests::count))
        .with_state(state)
}

/// What describes the API: the OpenAPI document, which therefore does not describe it, and the pages of errors.
fn published(document: &OpenApi, access: Access) -> Router<State> {
    let document = serde_json::to_vec(document).unwrap_or_default();
    // Shared by all who ask for it: there may be many.
    let document = Bytes::from(document);
    let show = move || async move {
        let media_type = [(header::CONTENT_TYPE, "application/json")];
        (media_type, document).into_response()
    };
    Router::new()
        .route("/openapi.json", get(show))
        .route("/errors/{code}", get(error_pages::show))
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(access, access::check_elsewhere))
}

async fn no_path(request: axum::extract::Request) -> Problem {
    let path = request.uri().path();
    Problem::new(
        Code::UnknownPath,
        format!("there is nothing at `{path}`; `/openapi.json` describes all paths"),
    )
}

async fn no_method(request: axum::extract::Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(
        Code::MethodNotAllowed,
        format!("`{method}` is not possible at `{path}`; `/openapi.json` says what is"),
    )
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that CatchPanicLayer takes"
)]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no message");
    Problem::new(
        Code::Internal,
        format!("the server panicked: {text}; this is a bug of millstream, please report it"),
    )
    .into_response()
}
