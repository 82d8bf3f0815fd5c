//! Whether whoever made a request may still do so: a stream, or a request that waits, may outlive its token.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::super::problem::{Code, Problem};
use super::tokens::{Identity, Tokens};

/// How often it is looked whether a token has expired. That it was revoked is told at once.
const RECHECK: Duration = Duration::from_secs(5);

/// Who made a request, to be asked about again while it lasts.
#[derive(Clone)]
pub(in crate::server) struct Standing(Option<Admitted>);

#[derive(Clone)]
struct Admitted {
    identity: Identity,
    tokens: Tokens,
    /// Whether it was let in without a token, since there were none.
    is_anonymous: bool,
}

impl Standing {
    pub(super) fn new(identity: Identity, tokens: Tokens, is_anonymous: bool) -> Self {
        Self(Some(Admitted {
            identity,
            tokens,
            is_anonymous,
        }))
    }

    /// Checks that the request would still be let in.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`]
    pub(in crate::server) fn check(&self) -> Result<(), Problem> {
        let Some(admitted) = &self.0 else {
            return Ok(());
        };
        let tokens = &admitted.tokens;
        match admitted.is_anonymous {
            true if !tokens.has_had_any() => Ok(()),
            true => Err(Problem::new(
                Code::Unauthenticated,
                "there have been tokens since, so that one is needed: send `Authorization: Bearer TOKEN`",
            )),
            false if tokens.is_good(&admitted.identity) => Ok(()),
            false => Err(Problem::new(
                Code::Unauthenticated,
                "the token was revoked, or has expired, meanwhile",
            )),
        }
    }

    /// Returns, with why, once the request would not be let in any more.
    pub(in crate::server) async fn ended(&self) -> Problem {
        let Some(admitted) = &self.0 else {
            return std::future::pending().await;
        };
        let mut changes = admitted.tokens.changes();
        loop {
            if let Err(problem) = self.check() {
                return problem;
            }
            // The sender lives as long as the tokens.
            let _ = tokio::time::timeout(RECHECK, changes.changed()).await;
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Standing {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let standing = parts.extensions.get::<Self>().cloned();
        // What needs no token loses none.
        Ok(standing.unwrap_or(Self(None)))
    }
}
