//! `GET /v1/topics/{topic}/stream`: a topic as server-sent events (WHATWG HTML, section 9.2).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State as StateOf;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::block_in_place;

use super::super::access::Standing;
use super::super::extract::{PathOf, QueryOf};
use super::super::problem::Problem;
use super::super::state::State;
use super::position::{Position, Reader, any_readable, readers_at, write_offsets};
use crate::model::TopicName;

/// How often a comment is sent when there are no records, so that nothing in between closes the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Records that are sent in one piece at most, and bytes beyond which no further one is added.
const CHUNK_RECORDS: usize = 256;
const CHUNK_BYTES: usize = 256 << 10;

/// What a stream holds.
struct Events {
    state: State,
    readers: Vec<Reader>,
    turn: usize,
    /// Set once the stream has to end.
    is_over: bool,
    standing: Standing,
    _waiting: OwnedSemaphorePermit,
}

/// Follow a topic.
///
/// One event for each record, its data the same JSON object as of a fetch. The event's id says where to go on: a client
/// that connects again with `Last-Event-ID`, as browsers do, misses nothing; the first id comes at once, without an event. An event `error` carries a problem
/// document, and is the last one.
#[utoipa::path(get, path = "/topics/{topic}/stream", security(("token" = ["consume"])), tag = "records",
    params(("topic" = String, Path, description = "The topic's name"), Position),
    responses((status = 200, body = String, content_type = "text/event-stream"), (status = 404), (status = 416),
        (status = 429)))]
pub(super) async fn follow(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
    QueryOf(position): QueryOf<Position>,
    standing: Standing,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let topic = state.data.log.topic(&name)?;
    let readers = match headers.get("last-event-id") {
        Some(id) => {
            let offsets = id.to_str().map_err(|_| {
                Problem::invalid("`Last-Event-ID` is not ASCII; expected the id of an event")
            })?;
            readers_at(&state.data, &topic, offsets)?
        }
        None => block_in_place(|| position.readers(&state.data, &topic))?,
    };
    // Whoever is cut off before the first record goes on where this one has begun.
    let beginning = format!("id: {}\n\n", write_offsets(&readers));
    let events = Events {
        _waiting: state.waiting.may_follow()?,
        state,
        standing,
        readers,
        turn: 0,
        is_over: false,
    };
    let first = stream::iter([Ok(Bytes::from(beginning))]);
    let chunks = stream::unfold(events, |mut events| async move {
        let chunk = events.next().await?;
        Some((Ok::<_, Infallible>(chunk), events))
    });
    let chunks = first.chain(chunks);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}

impl Events {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        loop {
            let mut chunk = Vec::new();
            // Before each piece: a client that is always behind never comes to wait.
            let read = self.standing.check();
            if let Err(problem) = read.and_then(|()| block_in_place(|| self.read(&mut chunk))) {
                self.end_with(&problem, &mut chunk);
            }
            if !chunk.is_empty() {
                return Some(chunk.into());
            }
            tokio::select! {
                () = any_readable(&self.readers) => {}
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b":\n\n")),
                ended = self.state.let_go(&self.standing) => {
                    let problem = ended.err()?;
                    self.end_with(&problem, &mut chunk);
                    return Some(chunk.into());
                }
            }
        }
    }

    /// Appends the last event.
    fn end_with(&mut self, problem: &Problem, chunk: &mut Vec<u8>) {
        self.is_over = true;
        let document = serde_json::to_string(problem).unwrap_or_default();
        chunk.extend_from_slice(format!("event: error\ndata: {document}\n\n").as_bytes());
    }

    /// Appends the events of the next records, of the partitions in turn.
    fn read(&mut self, chunk: &mut Vec<u8>) -> Result<(), Problem> {
        let (mut records, mut without) = (0, 0);
        let mut line = Vec::new();
        while records < CHUNK_RECORDS && chunk.len() < CHUNK_BYTES && without < self.readers.len() {
            let turn = self.turn % self.readers.len();
            self.turn = turn + 1;
            line.clear();
            let has_read = match self.readers.get_mut(turn) {
                Some(reader) => reader.write_next(&mut line)?,
                None => false,
            };
            if !has_read {
                without += 1;
                continue;
            }
            (records, without) = (records + 1, 0);
            chunk.extend_from_slice(b"id: ");
            chunk.extend_from_slice(write_offsets(&self.readers).as_bytes());
            chunk.extend_from_slice(b"\ndata: ");
            // It ends with the end of its line.
            chunk.extend_from_slice(&line);
            chunk.push(b'\n');
        }
        Ok(())
    }
}
