//! Bounds what the bodies of all requests together hold in memory; each of them has its own bound, too.
//!
//! Bytes count from when they are read until the request is answered. A request for which there is no room is
//! refused as a whole; one that is alone gets through, however large it is. What a refused one still sends is read
//! and thrown away, as far as it comes soon and is not too much: an answer before the end of the body would end the
//! connection, and the client might not even see it. A client that asks first whether to send it (`Expect`) is not let
//! do so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Request, State as StateOf};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;

use super::problem::{Code, Problem};
use super::room::{Held, Room};

/// How long a client may send nothing while the body of its request is not whole.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How long the body of a request that is refused is read, to be thrown away.
const MAX_DISCARD: Duration = Duration::from_secs(10);
/// Bytes of it that are: as many as the largest body has that a server takes by default.
const MAX_DISCARDED_BYTES: usize = 128 << 20;

/// Where the bytes of bodies count. Clones share it.
#[derive(Clone)]
pub(super) struct Intake {
    room: Room,
    /// How long a client may send nothing.
    max_pause: Duration,
}

/// What the body of a request holds.
struct Taken {
    held: Held,
    is_refused: AtomicBool,
    max_pause: Duration,
}

impl Intake {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            room: Room::new(most_bytes),
            max_pause: MAX_PAUSE,
        }
    }

    /// Bytes that are held now.
    pub(super) fn held_bytes(&self) -> usize {
        self.room.held_bytes()
    }
}

impl Taken {
    /// Holds more bytes, if there is room for them and was for all before.
    fn take(&self, bytes: usize) -> bool {
        if self.is_refused() {
            return false;
        }
        let has_room = self.held.take(bytes);
        self.is_refused.store(!has_room, Ordering::Relaxed);
        has_room
    }

    fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }
}

/// The middleware.
pub(super) async fn bound(
    StateOf(intake): StateOf<Intake>,
    request: Request,
    next: Next,
) -> Response {
    let declared = request.headers().get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    // Before anything of it is read, where that can be told.
    if declared.is_some_and(|bytes| !intake.room.has(bytes)) {
        // Reading it would tell a client that waits for a word to send all of it.
        if !request.headers().contains_key(header::EXPECT) {
            let mut chunks = request.into_body().into_data_stream();
            discard(&mut chunks, MAX_DISCARDED_BYTES, MAX_DISCARD).await;
        }
        return overloaded().into_response();
    }
    let taken = Arc::new(Taken {
        held: intake.room.hold(),
        is_refused: AtomicBool::new(false),
        max_pause: intake.max_pause,
    });
    let request = request.map(|body| {
        let bounded = (body.into_data_stream(), Arc::clone(&taken));
        Body::from_stream(futures_util::stream::unfold(bounded, next_chunk))
    });
    let response = next.run(request).await;
    // What the handler made of a body that broke off is not what is wrong.
    match taken.is_refused() {
        true => overloaded().into_response(),
        false => response,
    }
}

/// The next chunk of a body. A client that stops halfway must not hold its bytes for ever.
async fn next_chunk(
    (mut chunks, taken): (BodyDataStream, Arc<Taken>),
) -> Option<(Result<Bytes, axum::BoxError>, (BodyDataStream, Arc<Taken>))> {
    let chunk = match tokio::time::timeout(taken.max_pause, chunks.next()).await {
        Ok(chunk) => chunk?.map_err(axum::BoxError::from),
        Err(_) => Err(axum::BoxError::from("nothing of the body came for a while")),
    };
    let chunk = match chunk {
        Ok(chunk) if !taken.take(chunk.len()) => {
            discard(&mut chunks, MAX_DISCARDED_BYTES, MAX_DISCARD).await;
            Err(axum::BoxError::from(overloaded()))
        }
        chunk => chunk,
    };
    Some((chunk, (chunks, taken)))
}

/// Reads what is left of a body that nobody wants: an answer that is faster than the body ends the connection, and the
/// client may not even see it.
pub(super) async fn discard(chunks: &mut BodyDataStream, max_bytes: usize, patience: Duration) {
    let reading = async {
        let mut left = max_bytes;
        while let Some(Ok(chunk)) = chunks.next().await
            && left > chunk.len()
        {
            left -= chunk.len();
        }
    };
    // Whoever takes longer, or sends more, does not get to see the answer.
    let _ = tokio::time::timeout(patience, reading).await;
}

fn overloaded() -> Problem {
    Problem::new(
        Code::Overloaded,
        "the requests under way hold as many bytes as the server takes at a time; send it again later, or raise --max-inflight-bytes",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use futures_util::stream;
    use tower::ServiceExt as _;

    use super::super::extract;
    use super::*;

    /// How many parts of 1 MiB are read of a body without an end that is refused.
    async fn parts_read_of_refused(headers: &[(header::HeaderName, &str)]) -> usize {
        const PART_BYTES: usize = 1 << 20;
        let intake = Intake::new(2 * PART_BYTES);
        let other = intake.room.hold();
        assert!(other.take(2 * PART_BYTES));
        let router: Router = Router::new()
            .route("/", post(async |_: extract::Body| StatusCode::CREATED))
            .layer(axum::middleware::from_fn_with_state(intake, bound));
        let read = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read);
        let part = Bytes::from(vec![0; PART_BYTES]);
        let parts = stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(part.clone())
        });
        let mut request = Request::post("/");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::from_stream(parts)).unwrap();
        let answered = router.oneshot(request).await.unwrap();
        assert_eq!(answered.status(), StatusCode::SERVICE_UNAVAILABLE);
        read.load(Ordering::Relaxed)
    }

    /// Fails when the time is the only bound, and when a client is made to send what it asked about.
    #[tokio::test]
    async fn what_is_thrown_away_of_a_refused_body_is_bounded() {
        let length = (header::CONTENT_LENGTH, "999999999999");
        let expect = (header::EXPECT, "100-continue");
        let most = MAX_DISCARDED_BYTES >> 20;
        assert_eq!(
            parts_read_of_refused(std::slice::from_ref(&length)).await,
            most
        );
        assert_eq!(parts_read_of_refused(&[length, expect]).await, 0);
        // Its length is not known before, and its first part is what was one too many.
        assert_eq!(parts_read_of_refused(&[]).await, 1 + most);
    }

    /// The status with which a body is answered that comes in four parts, with such pauses, and ends or goes on for
    /// ever without another byte.
    async fn status_of(pause: Duration, ends: bool) -> (StatusCode, Intake) {
        let intake = Intake {
            room: Room::new(1 << 20),
            max_pause: Duration::from_millis(400),
        };
        let router: Router = Router::new()
            .route("/", post(async |_: extract::Body| StatusCode::CREATED))
            .layer(axum::middleware::from_fn_with_state(intake.clone(), bound));
        let part = move |number: u32| async move {
            if number > 0 {
                tokio::time::sleep(pause).await;
            }
            match number {
                0..4 => Some((
                    Ok::<_, std::io::Error>(Bytes::from_static(b"part")),
                    number + 1,
                )),
                _ if ends => None,
                _ => std::future::pending().await,
            }
        };
        let request = Request::post("/").body(Body::from_stream(stream::unfold(0, part)));
        let answered = router.oneshot(request.unwrap());
        let answered = tokio::time::timeout(Duration::from_secs(30), answered).await;
        (answered.unwrap().unwrap().status(), intake)
    }

    /// Fails when nothing ends the request, and when it is its whole time that counts.
    #[tokio::test]
    async fn a_body_that_stops_halfway_ends_its_request_and_a_slow_one_does_not() {
        assert_eq!(Intake::new(1).max_pause, Duration::from_secs(30));
        let (status, intake) = status_of(Duration::from_millis(150), true).await;
        assert_eq!((status, intake.held_bytes()), (StatusCode::CREATED, 0));
        // What it has sent is held no longer.
        let (status, intake) = status_of(Duration::ZERO, false).await;
        assert_eq!((status, intake.held_bytes()), (StatusCode::BAD_REQUEST, 0));
    }
}
