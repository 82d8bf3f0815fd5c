//! Lets a request through if its token has the role that the operation needs, or one of several: as the OpenAPI document
//! says (`documented.rs`).

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, MatchedPath, Request, State as StateOf};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hashbrown::HashMap;
use utoipa::openapi::OpenApi;

use super::super::intake::discard;
use super::super::problem::{Code, Problem};
use super::Role;
use super::audit::{Audit, Event, Seen};
use super::documented::{Documented, Need, is_for_operators, operations, unknown_parameter};
use super::origin::{is_named_here, is_over_loopback};
use super::standing::Standing;
use super::tokens::{ANONYMOUS, Identity, LOCAL, OWNER, Tokens};

/// The status of a request whose client went away, as nginx writes it down.
const CLIENT_GONE: u16 = 499;

/// Bytes that are read of the body of a request that is refused, and for how long.
const DRAINED_BYTES: usize = 64 << 10;
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

const TOKEN_NEEDED: &str =
    "a token is needed: send `Authorization: Bearer TOKEN`; `millstream token create` makes one";
const NO_TOKENS_LEFT: &str = "a token is needed, and there are no tokens any more: whoever can read the data directory of the server may make one with `millstream token create`; a restart without tokens opens the server to its own machine again";
/// Of a server that is reached from other machines.
const NO_TOKENS_LEFT_ELSEWHERE: &str = "a token is needed, and there are no tokens any more: whoever can read the data directory of the server may make one with `millstream token create`; without one it does not start again";

/// Who is let in.
pub(in crate::server) enum Entrance {
    /// Whoever has the data directory open, and may do everything.
    Owner,
    /// Whoever comes over the network.
    Door {
        /// The token that the server made for those who can read its data directory.
        local_token: String,
        /// Whether requests without a token are let through as long as there has been no token.
        is_open: bool,
        /// Where it is written down what was done.
        audit: Audit,
    },
}

/// The name of the token with which a request is made; `None` without one.
pub(in crate::server) struct Caller(pub(in crate::server) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let identity = parts.extensions.get::<Identity>();
        Ok(Self(identity.map(|identity| identity.name.to_string())))
    }
}

/// Who makes a request, to be asked what else it may do.
pub(in crate::server) struct Rights(Identity);

impl Rights {
    pub(in crate::server) fn may(&self, role: Role) -> bool {
        self.0.may(role)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Rights {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let identity = parts.extensions.get::<Identity>().cloned();
        let needed = || Problem::new(Code::Unauthenticated, "a token is needed");
        identity.map(Self).ok_or_else(needed)
    }
}

/// What a request is about, where its path does not say so. A handler sets it for the audit log, which has a line for each
/// request with one.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Subject(Arc<OnceLock<String>>);

impl Subject {
    pub(in crate::server) fn set(&self, subject: impl fmt::Display) {
        // The first one counts.
        let _ = self.0.set(subject.to_string());
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Subject {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // Nothing is written down of a request within the process, which has none.
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// Decides on requests.
#[derive(Clone)]
pub(in crate::server) struct Access {
    operations: Arc<HashMap<(Method, String), Documented>>,
    tokens: Tokens,
    entrance: Arc<Entrance>,
}

impl Access {
    pub(in crate::server) fn new(document: &OpenApi, tokens: Tokens, entrance: Entrance) -> Self {
        Self {
            operations: Arc::new(operations(document)),
            tokens,
            entrance: Arc::new(entrance),
        }
    }

    /// Whether the document says anything of a path.
    fn is_documented(&self, path: &str) -> bool {
        self.operations.keys().any(|(_, known)| known == path)
    }

    fn audit(&self, event: &Event) {
        if let Entrance::Door { audit, .. } = &*self.entrance {
            audit.write(event);
        }
    }

    fn audit_refusal(&self, event: &Event) {
        if let Entrance::Door { audit, .. } = &*self.entrance {
            audit.write_refusal(event);
        }
    }

    fn identify(&self, headers: &HeaderMap, uri: &Uri) -> Result<Identity, Problem> {
        let refused = |text: &str| Problem::new(Code::Unauthenticated, text);
        let (local_token, is_open) = match &*self.entrance {
            Entrance::Owner => return Ok(Identity::all_powerful(OWNER)),
            Entrance::Door {
                local_token,
                is_open,
                ..
            } => (local_token, *is_open),
        };
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            if is_open && !self.tokens.has_had_any() {
                is_named_here(headers, uri)?;
                return Ok(Identity::all_powerful(ANONYMOUS));
            }
            return Err(refused(match (self.tokens.is_empty(), is_open) {
                (false, _) => TOKEN_NEEDED,
                (true, true) => NO_TOKENS_LEFT,
                (true, false) => NO_TOKENS_LEFT_ELSEWHERE,
            }));
        };
        let token = value.to_str().ok().and_then(bearer).ok_or_else(|| {
            refused("the header `Authorization` is malformed; expected `Bearer TOKEN`")
        })?;
        if is_same(token.as_bytes(), local_token.as_bytes()) {
            return Ok(Identity::all_powerful(LOCAL));
        }
        self.tokens
            .identify(token)
            .ok_or_else(|| refused("the token is unknown, revoked or expired"))
    }
}

/// Why a token is not let through.
fn lacks(identity: &Identity, roles: &[Role]) -> Problem {
    let name = &identity.name;
    let text = match roles {
        [role] => format!("the token `{name}` does not have the role `{role}`, which this needs"),
        roles => {
            let roles: Vec<_> = roles.iter().map(|role| format!("`{role}`")).collect();
            let roles = roles.join(", ");
            format!("the token `{name}` has none of the roles {roles}, of which this needs one")
        }
    };
    Problem::new(Code::Forbidden, text)
}

/// The middleware of what anyone on the server's machine may read.
pub(in crate::server) async fn check_elsewhere(
    StateOf(access): StateOf<Access>,
    request: Request,
    next: Next,
) -> Response {
    if is_over_loopback(&request) {
        return next.run(request).await;
    }
    match access.identify(request.headers(), request.uri()) {
        Ok(_) => next.run(request).await,
        Err(problem) => {
            access.audit_refusal(&refused(Seen::of(&request, None), &problem));
            refuse(request, problem).await
        }
    }
}

/// The middleware: identifies, decides, and writes down what changed something.
pub(in crate::server) async fn check(
    StateOf(access): StateOf<Access>,
    mut request: Request,
    next: Next,
) -> Response {
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::DELETE
    ) {
        // No operation with these methods takes one.
        drain(std::mem::take(request.body_mut())).await;
    }
    let path = request.extensions().get::<MatchedPath>();
    let operation = path.map(|path| (request.method().clone(), path.as_str().to_owned()));
    let documented = match &operation {
        // HEAD is answered by the handler of GET.
        Some((Method::HEAD, path)) => access.operations.get(&(Method::GET, path.clone())),
        Some(operation) => access.operations.get(operation),
        None => None,
    };
    let roles: &[Role] = match documented.map(|it| &it.need) {
        Some(Need::TokenFromElsewhere) => {
            return check_elsewhere(StateOf(access), request, next).await;
        }
        Some(Need::OneOf(roles)) => roles,
        // There is nothing, or the method does not exist: any token may learn that.
        None if path.is_none_or(|path| access.is_documented(path.as_str())) => &[],
        None => &[Role::Admin],
    };
    let identity = match access.identify(request.headers(), request.uri()) {
        Ok(identity) => identity,
        Err(problem) => {
            access.audit_refusal(&refused(Seen::of(&request, None), &problem));
            return refuse(request, problem).await;
        }
    };
    if !roles.is_empty() && !roles.iter().any(|role| identity.may(*role)) {
        let problem = lacks(&identity, roles);
        access.audit_refusal(&refused(Seen::of(&request, Some(&identity)), &problem));
        return refuse(request, problem).await;
    }
    let problem = documented.and_then(|it| unknown_parameter(request.uri(), &it.parameters));
    if let Some(problem) = problem {
        return refuse(request, problem).await;
    }
    let subject = Subject::default();
    let may_change = !matches!(*request.method(), Method::GET | Method::HEAD);
    let written = may_change.then(|| Written {
        is_change: is_for_operators(roles),
        seen: Seen::of(&request, Some(&identity)),
        access: access.clone(),
        subject: subject.clone(),
        // What a server writes down of a client that did not wait for its answer.
        status: CLIENT_GONE,
    });
    let is_anonymous = !identity.has_token() && &*identity.name == ANONYMOUS;
    let standing = Standing::new(identity.clone(), access.tokens.clone(), is_anonymous);
    request.extensions_mut().insert(standing);
    request.extensions_mut().insert(identity);
    request.extensions_mut().insert(subject);
    let response = next.run(request).await;
    if let Some(mut written) = written {
        written.status = response.status().as_u16();
    }
    response
}

fn refused(seen: Seen, problem: &Problem) -> Event {
    seen.event(problem.code.status().as_u16(), None)
}

/// Answers a request that is refused.
async fn refuse(request: Request, problem: Problem) -> Response {
    // Reading the body would tell a client that waits for a word to send all of it.
    if !request.headers().contains_key(header::EXPECT) {
        drain(request.into_body()).await;
    }
    problem.into_response()
}

async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    discard(&mut chunks, DRAINED_BYTES, DRAIN_PATIENCE).await;
}

/// Writes an event down when it is dropped, if it belongs into the audit log.
struct Written {
    /// Whether it does for what the operation is; else it does if its handler has said what it is about, or refused it.
    is_change: bool,
    seen: Seen,
    access: Access,
    subject: Subject,
    status: u16,
}

impl Drop for Written {
    fn drop(&mut self) {
        let subject = self.subject.0.get().cloned();
        let is_change = self.is_change || subject.is_some();
        let is_refused = self.status == StatusCode::FORBIDDEN.as_u16();
        if !is_change && !is_refused {
            return;
        }
        let event = self.seen.event(self.status, subject);
        match is_refused {
            true => self.access.audit_refusal(&event),
            false => self.access.audit(&event),
        }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Compares in a time that does not depend on where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        assert!(is_same(b"abc", b"abc"));
        assert!(!is_same(b"abc", b"abd"));
        assert!(!is_same(b"abc", b"ab"));
        assert_eq!(bearer("bearer  x "), Some("x"));
        assert_eq!(bearer("Basic x"), None);
    }
}
