//! `/v1/tokens`: create, list and revoke tokens.

use axum::extract::State as StateOf;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::extract::{Json, PathOf};
use super::super::problem::{Code, Problem};
use super::super::state::{State, to_its_end};
use super::{Role, StoredToken, Subject, TokenError};
use crate::model::TokenName;

pub(in crate::server) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

/// A token, without its secret.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TokenName,
    /// What it may do.
    pub roles: Vec<Role>,
    /// When it was made, in ms since the epoch.
    pub created_ms: u64,
    /// When it stops being valid, in ms since the epoch; null for never.
    pub expires_ms: Option<u64>,
    /// The token itself, in the answer to its creation only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// A token to make.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its name: 1 to 249 letters, digits, `.`, `_` and `-`, and none of `anonymous`, `local` and `owner`.
    #[schema(value_type = String, min_length = 1, max_length = 249, pattern = "^[a-zA-Z0-9._-]+$")]
    pub name: TokenName,
    /// What it may do.
    #[schema(min_items = 1)]
    pub roles: Vec<Role>,
    /// When it stops being valid, in ms since the epoch; never if it is left out.
    #[serde(default)]
    pub expires_ms: Option<u64>,
}

/// What revoking a token leaves.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RevokedToken {
    /// The token.
    #[schema(value_type = String)]
    pub name: TokenName,
    /// How many tokens there are now, those that have expired included. A server that has had one lets no request in without,
    /// as long as it runs; one that starts without any on a loopback address is open to its own machine.
    pub tokens_left: usize,
}

impl TokenView {
    fn of(name: TokenName, stored: StoredToken) -> Self {
        Self {
            name,
            roles: stored.roles,
            created_ms: stored.created_ms,
            expires_ms: stored.expires_ms,
            token: None,
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let code = match error {
            TokenError::Storage(error) => return error.into(),
            TokenError::Exists(_) => Code::AlreadyExists,
            TokenError::Unknown(_) => Code::UnknownToken,
            TokenError::NoRoles | TokenError::Reserved(_) => Code::InvalidSetting,
            TokenError::Random => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// All tokens, by name, without their secrets.
#[utoipa::path(get, path = "/tokens", tag = "tokens", security(("token" = ["admin"])),
    responses((status = 200, body = Vec<TokenView>)))]
async fn list(StateOf(state): StateOf<State>) -> axum::Json<Vec<TokenView>> {
    let tokens = state.tokens.list().into_iter();
    axum::Json(
        tokens
            .map(|(name, stored)| TokenView::of(name, stored))
            .collect(),
    )
}

/// Make a token. It is in the answer, and cannot be had again.
#[utoipa::path(post, path = "/tokens", tag = "tokens", security(("token" = ["admin"])), request_body = NewToken,
    responses((status = 201, body = TokenView), (status = 409)))]
async fn create(
    StateOf(state): StateOf<State>,
    subject: Subject,
    Json(new): Json<NewToken>,
) -> Result<impl IntoResponse, Problem> {
    let roles: Vec<_> = new.roles.iter().map(ToString::to_string).collect();
    subject.set(format_args!("token {} with {}", new.name, roles.join(", ")));
    let tokens = &state.tokens;
    let creating = (tokens.clone(), new.name.clone());
    let token = to_its_end(async move {
        let (tokens, name) = creating;
        tokens.create(&name, new.roles, new.expires_ms).await
    })
    .await?;
    let stored = tokens
        .list()
        .into_iter()
        .find(|(name, _)| *name == new.name);
    let (name, stored) = stored.ok_or(TokenError::Unknown(new.name))?;
    let mut view = TokenView::of(name, stored);
    view.token = Some(token);
    Ok((StatusCode::CREATED, axum::Json(view)))
}

/// Make a token invalid, from now on.
#[utoipa::path(delete, path = "/tokens/{token}", tag = "tokens", security(("token" = ["admin"])),
    params(("token" = String, Path, description = "The token's name")),
    responses((status = 200, body = RevokedToken), (status = 404)))]
async fn revoke(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TokenName>,
) -> Result<axum::Json<RevokedToken>, Problem> {
    let (tokens, revoked) = (state.tokens.clone(), name.clone());
    let tokens_left = to_its_end(async move { tokens.revoke(&revoked).await }).await?;
    Ok(axum::Json(RevokedToken { name, tokens_left }))
}
