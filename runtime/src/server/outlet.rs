//! Bounds what the answers that clients have not read yet hold in memory.
//!
//! The bytes of an answer count until the last of them has gone to its connection: a client that asks and doesn't read
//! keeps them. While there is no room for more, whoever reads is refused before anything is read for it; an answer to
//! what has been done is given all the same, and counts. One that is alone gets through, however large it is. A connection
//! on which an answer is not read in time is closed. What is streamed without an end does not count: it is made when the
//! connection takes it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State as StateOf};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;

use super::connections::Connection;
use super::problem::{Code, Problem};
use super::room::{Held, Room};

/// How long a client may take to read an answer, besides what it has for each byte.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that it reads in a second at least.
const LEAST_BYTES_A_SECOND: u64 = 64 << 10;
/// Answers that are no larger may stay: they take less than what watches over them.
const SMALL_BYTES: usize = 1 << 10;

/// Where the bytes of answers count. Clones share it.
#[derive(Clone)]
pub(super) struct Outlet {
    room: Room,
    patience: Duration,
}

impl Outlet {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            room: Room::new(most_bytes),
            patience: PATIENCE,
        }
    }

    #[cfg(test)]
    pub(super) fn with_patience(most_bytes: usize, patience: Duration) -> Self {
        Self {
            room: Room::new(most_bytes),
            patience,
        }
    }

    /// Bytes that clients have not read yet.
    pub(super) fn held_bytes(&self) -> usize {
        self.room.held_bytes()
    }

    /// That there is room for another answer.
    ///
    /// # Errors
    /// A problem if clients have left too much unread.
    pub(super) fn check(&self) -> Result<(), Problem> {
        match self.room.has(1) {
            true => Ok(()),
            false => Err(overloaded()),
        }
    }

    /// Closes the connection if an answer is still there when it should have been read.
    fn watch(&self, bytes: usize, connection: Option<Arc<Connection>>) -> Option<AbortHandle> {
        let connection = connection.filter(|_| bytes > SMALL_BYTES)?;
        let for_bytes = Duration::from_secs(bytes as u64 / LEAST_BYTES_A_SECOND);
        let patience = self.patience + for_bytes;
        let watching = tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            connection.give_up();
        });
        Some(watching.abort_handle())
    }
}

/// The middleware.
pub(super) async fn bound(
    StateOf(outlet): StateOf<Outlet>,
    request: Request,
    next: Next,
) -> Response {
    let only_reads = *request.method() == Method::GET;
    if only_reads && let Err(problem) = outlet.check() {
        return problem.into_response();
    }
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let response = next.run(request).await;
    let Some(bytes) = response.body().size_hint().exact() else {
        return response;
    };
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let held = outlet.room.hold();
    match held.take(bytes) {
        true => {}
        false if only_reads => return overloaded().into_response(),
        false => held.take_anyway(bytes),
    }
    let answer = Arc::new(Answer {
        watching: outlet.watch(bytes, connection),
        _held: held,
    });
    response.map(|body| Body::new(Unread { body, answer }))
}

fn overloaded() -> Problem {
    Problem::new(
        Code::Overloaded,
        "the answers that clients have not read yet hold as many bytes as the server keeps at a time; send the request again later, or raise --max-unread-bytes",
    )
}

/// What there is of an answer until all of it has been read.
struct Answer {
    watching: Option<AbortHandle>,
    _held: Held,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

/// The body of an answer.
struct Unread {
    body: Body,
    answer: Arc<Answer>,
}

/// A part of it, on its way to the connection.
struct Part {
    bytes: Bytes,
    _answer: Arc<Answer>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Unread {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| {
            frame.map_data(|bytes| {
                Bytes::from_owner(Part {
                    bytes,
                    _answer: Arc::clone(&self.answer),
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{StatusCode, header};
    use axum::routing::get;
    use futures_util::StreamExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn answered(router: &Router, method: Method) -> Response {
        let request = Request::builder().method(method).uri("/");
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    /// Fails when a body is not counted, when it is counted only until it is given to the connection, and when a lease
    /// that has begun is not answered.
    #[tokio::test]
    async fn answers_that_nobody_reads_keep_others_from_reading() {
        let outlet = Outlet::new(100);
        let answer = || async { [0_u8; 60] };
        let router: Router = Router::new()
            .route("/", get(answer).post(answer))
            .layer(axum::middleware::from_fn_with_state(outlet.clone(), bound));
        let unread = answered(&router, Method::GET).await;
        assert_eq!(unread.status(), StatusCode::OK);
        assert_eq!(unread.headers()[header::CONTENT_LENGTH], "60");
        let refused = answered(&router, Method::GET).await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        let done = answered(&router, Method::POST).await;
        assert_eq!(done.status(), StatusCode::OK);
        assert_eq!(outlet.held_bytes(), 120);
        assert!(outlet.check().is_err());
        drop(done);

        let mut parts = unread.into_body().into_data_stream();
        let part = parts.next().await.unwrap().unwrap();
        assert!(parts.next().await.is_none());
        drop(parts);
        assert_eq!((part.len(), outlet.held_bytes()), (60, 60));
        drop(part);
        assert_eq!(outlet.held_bytes(), 0);
        let read = answered(&router, Method::GET).await;
        assert_eq!(read.status(), StatusCode::OK);
    }
}
