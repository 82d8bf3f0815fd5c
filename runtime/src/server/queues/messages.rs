//! `/v1/queues/{queue}/messages` and what a lease holder does: enqueue, peek, lease, acknowledge, release, extend.

use std::time::Duration;

use axum::extract::State as StateOf;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::access::Standing;
use super::super::extract::{Body, Json, PathOf, QueryOf};
use super::super::json_record::{JsonRecord, QueueWriter};
use super::super::problem::{Code, Problem};
use super::super::records::JSON_LINES;
use super::super::request_trace::RequestTrace;
use super::super::state::State;
use super::super::waiting::wait_of;
use crate::model::{HeadersBuf, QueueName, limits};
use crate::queue::{self, LeaseRequest, MessageState, PeekedMessage, Queue, Receipt, Settled};

/// Bytes and messages after which what is waiting is enqueued.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_MESSAGES: u64 = 10_000;
const MAX_MESSAGES: usize = 10_000;
const MAX_BYTES: usize = 16 << 20;
const DEFAULT_PEEKED: usize = 10;
const MAX_PEEKED: usize = 1_000;
const MAX_RECEIPTS: usize = 10_000;
/// A year, as for a queue's setting.
const MAX_DELAY_MS: u64 = 31_536_000_000;

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(enqueue, peek))
        .routes(routes!(lease))
        .routes(routes!(acknowledge))
        .routes(routes!(release))
        .routes(routes!(extend))
}

/// What was enqueued.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EnqueuedView {
    /// Messages that are stored, with those that a queue which drops its oldest has dropped at once.
    pub acknowledged: u64,
    /// Messages that were not, since one with their deduplication id was there already.
    pub duplicates: u64,
}

/// What to lease.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseBody {
    /// Messages at most; 100 by default.
    #[schema(minimum = 1, maximum = 10_000)]
    pub max_messages: Option<usize>,
    /// Bytes of keys, values and headers at most, but one message in any case; 1,048,576 by default.
    #[schema(minimum = 1, maximum = 16_777_216)]
    pub max_bytes: Option<usize>,
    /// How long the lease lasts; the queue's visibility timeout by default.
    #[schema(minimum = 1, maximum = 43_200_000)]
    pub visibility_timeout_ms: Option<u64>,
    /// How long to wait for messages if there are none; 0 by default.
    #[schema(maximum = 60_000)]
    pub wait_ms: Option<u64>,
}

/// Messages that a lease holder is done with.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptsRequest {
    /// Their receipts.
    #[schema(max_items = 10_000)]
    pub receipts: Vec<String>,
}

/// Messages that are to be delivered again.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// Their receipts.
    #[schema(max_items = 10_000)]
    pub receipts: Vec<String>,
    /// After how long; at once by default.
    #[serde(default)]
    #[schema(maximum = 31_536_000_000u64)]
    pub delay_ms: u64,
}

/// Messages whose lease is to last longer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendRequest {
    /// Their receipts.
    #[schema(max_items = 10_000)]
    pub receipts: Vec<String>,
    /// How long, from now.
    #[schema(minimum = 1, maximum = 43_200_000)]
    pub visibility_timeout_ms: u64,
}

/// What became of receipts.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SettledView {
    /// Receipts that counted.
    pub settled: u64,
    /// Those that did not: the message was delivered again since, or is done with.
    pub stale: Vec<String>,
}

impl From<Settled> for SettledView {
    fn from(settled: Settled) -> Self {
        Self {
            settled: settled.settled_count,
            stale: settled.stale.iter().map(Receipt::to_string).collect(),
        }
    }
}

/// Enqueue messages.
///
/// One JSON object a line, as for records; headers such as `millstream-priority` and `millstream-delay` are attributes.
/// If a line is refused those before it may be stored, and `acknowledged` says how many are. While the server exports
/// traces, messages without a header `traceparent` get that of the request.
#[utoipa::path(post, path = "/queues/{queue}/messages", security(("token" = ["produce"])), tag = "messages",
    params(("queue" = String, Path, description = "The queue's name")),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = EnqueuedView), (status = 404), (status = 409)))]
async fn enqueue(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<axum::Json<EnqueuedView>, Problem> {
    let trace = RequestTrace::begin(&headers);
    let enqueued = store(&state, &name, &body, trace.as_ref()).await;
    if let Some(trace) = trace {
        trace.end("/v1/queues/{queue}/messages", name.as_str(), &enqueued);
    }
    enqueued.map(axum::Json)
}

async fn store(
    state: &State,
    name: &QueueName,
    body: &[u8],
    trace: Option<&RequestTrace>,
) -> Result<EnqueuedView, Problem> {
    let queue = state.data.queues.queue(name)?;
    let now_ms = state.data.log.store().clock().now_ms();
    let mut enqueued = EnqueuedView {
        acknowledged: 0,
        duplicates: 0,
    };
    match enqueue_lines(&queue, body, now_ms, trace, &mut enqueued).await {
        Ok(()) => Ok(enqueued),
        Err(mut problem) => {
            problem.acknowledged = (enqueued.acknowledged > 0).then_some(enqueued.acknowledged);
            Err(problem)
        }
    }
}

async fn enqueue_lines(
    queue: &Queue,
    body: &[u8],
    now_ms: u64,
    trace: Option<&RequestTrace>,
    enqueued: &mut EnqueuedView,
) -> Result<(), Problem> {
    let mut headers = HeadersBuf::new();
    let mut batch = queue.batch();
    for (at, line) in body.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let refused = |what: &dyn std::fmt::Display| {
            Problem::new(Code::InvalidRecord, format!("line {}:{what}", at + 1))
        };
        let record = JsonRecord::read(line).map_err(|mistake| refused(&mistake))?;
        record
            .encode_headers(&mut headers)
            .map_err(|mistake| refused(&mistake))?;
        if let Some(trace) = trace {
            trace.add_to(&mut headers, record.size_bytes(), limits::MAX_RECORD_BYTES);
        }
        let timestamp_ms = record.timestamp.unwrap_or(now_ms);
        let (key, value) = (record.key(), record.value());
        let mut pushed = batch.push(timestamp_ms, key, value, headers.as_headers());
        if matches!(pushed, Err(queue::Error::Undecided)) {
            // Whoever decides may wait for an id of this batch.
            enqueued.acknowledged += batch.enqueue().await?.accepted_count();
            let headers = headers.as_headers();
            pushed = batch
                .push_when_decided(timestamp_ms, key, value, headers)
                .await;
        }
        let is_new = pushed.map_err(|error| {
            let mut problem = Problem::from(error);
            problem.detail = format!("line {}: {}", at + 1, problem.detail);
            problem
        })?;
        enqueued.duplicates += u64::from(!is_new);
        if batch.len_bytes() >= BATCH_BYTES || batch.len() >= BATCH_MESSAGES {
            enqueued.acknowledged += batch.enqueue().await?.accepted_count();
        }
    }
    if !batch.is_empty() {
        enqueued.acknowledged += batch.enqueue().await?.accepted_count();
    }
    Ok(())
}

/// Which messages to look at.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Peek {
    /// The offset of the first message.
    #[serde(default)]
    #[param(default = 0)]
    from: Option<u64>,
    /// Messages at most.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1_000, default = 10)]
    max_messages: Option<usize>,
}

/// Look at messages without taking them out, whatever they wait for. One JSON object a line.
#[utoipa::path(get, path = "/queues/{queue}/messages", security(("token" = ["consume"])), tag = "messages",
    params(("queue" = String, Path, description = "The queue's name"), Peek),
    responses((status = 200, body = String, content_type = "application/x-ndjson"), (status = 404)))]
async fn peek(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
    QueryOf(peek): QueryOf<Peek>,
) -> Result<impl IntoResponse, Problem> {
    let queue = state.data.queues.queue(&name)?;
    let max = within(
        "max_messages",
        peek.max_messages.unwrap_or(DEFAULT_PEEKED),
        MAX_PEEKED,
    )?;
    let json = QueueWriter::new(&name);
    let mut lines = Vec::new();
    for message in queue.peek(peek.from.unwrap_or(0), max).await? {
        let state = Some(state_of(&message));
        json.write(
            &message.record()?,
            message.delivery_count,
            state,
            &mut lines,
        );
    }
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], lines))
}

/// The word for what a message waits for, and the time that it waits for.
fn state_of(message: &PeekedMessage) -> (&'static str, Option<u64>) {
    match message.state {
        MessageState::Ready => ("ready", None),
        MessageState::Behind => ("behind", None),
        MessageState::Delayed { until_ms } => ("delayed", Some(until_ms)),
        MessageState::Leased { deadline_ms } => ("leased", deadline_ms),
    }
}

/// Lease messages.
///
/// One JSON object a line, with a `receipt` to settle it by. A message that is not acknowledged when its lease ends
/// is delivered again.
#[utoipa::path(post, path = "/queues/{queue}/lease", security(("token" = ["consume"])), tag = "messages", request_body = LeaseBody,
    params(("queue" = String, Path, description = "The queue's name")),
    responses((status = 200, body = String, content_type = "application/x-ndjson"), (status = 404), (status = 429)))]
async fn lease(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
    standing: Standing,
    Json(body): Json<LeaseBody>,
) -> Result<impl IntoResponse, Problem> {
    let queue = state.data.queues.queue(&name)?;
    let default = LeaseRequest::default();
    let mut request = LeaseRequest {
        max_messages: within(
            "max_messages",
            body.max_messages.unwrap_or(default.max_messages),
            MAX_MESSAGES,
        )?,
        max_bytes: within(
            "max_bytes",
            body.max_bytes.unwrap_or(default.max_bytes),
            MAX_BYTES,
        )?,
        visibility_timeout_ms: timeout(body.visibility_timeout_ms)?,
        wait: Duration::ZERO,
    };
    let wait = wait_of(body.wait_ms.unwrap_or(0))?;
    // A lease that was refused afterwards would hide its messages until the visibility timeout.
    state.unread.check()?;
    let mut messages = queue.lease(&request).await?;
    if messages.is_empty() && !wait.is_zero() {
        let _waiting = state.waiting.may_wait()?;
        request.wait = wait;
        messages = tokio::select! {
            // A lease that has begun is not given up: its messages would be away until the timeout.
            leased = queue.lease(&request) => leased?,
            ended = ended_while_idle(&state, &standing, &queue) => {
                ended?;
                Vec::new()
            }
        };
    }
    let json = QueueWriter::new(&name);
    let mut lines = Vec::new();
    for message in &messages {
        json.write_leased(message, &mut lines)?;
    }
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], lines))
}

/// Returns when whoever waits is to stop, and the queue has nothing that a lease could have begun to take.
async fn ended_while_idle(
    state: &State,
    standing: &Standing,
    queue: &Queue,
) -> Result<(), Problem> {
    let ended = state.let_go(standing).await;
    while queue.has_ready().unwrap_or(false) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ended
}

/// Acknowledge messages: they are gone.
#[utoipa::path(post, path = "/queues/{queue}/acknowledge", security(("token" = ["consume"])), tag = "messages", request_body = ReceiptsRequest,
    params(("queue" = String, Path, description = "The queue's name")),
    responses((status = 200, body = SettledView), (status = 404)))]
async fn acknowledge(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
    Json(request): Json<ReceiptsRequest>,
) -> Result<axum::Json<SettledView>, Problem> {
    let queue = state.data.queues.queue(&name)?;
    let receipts = receipts(&request.receipts)?;
    Ok(axum::Json(queue.acknowledge(&receipts).await?.into()))
}

/// Release messages: they are delivered again, to whoever asks next.
#[utoipa::path(post, path = "/queues/{queue}/release", security(("token" = ["consume"])), tag = "messages", request_body = ReleaseRequest,
    params(("queue" = String, Path, description = "The queue's name")),
    responses((status = 200, body = SettledView), (status = 404)))]
async fn release(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
    Json(request): Json<ReleaseRequest>,
) -> Result<axum::Json<SettledView>, Problem> {
    let queue = state.data.queues.queue(&name)?;
    if request.delay_ms > MAX_DELAY_MS {
        return Err(Problem::invalid(format!(
            "delay_ms is {}; expected at most {MAX_DELAY_MS}",
            request.delay_ms
        )));
    }
    let receipts = receipts(&request.receipts)?;
    let released = queue.release(&receipts, request.delay_ms).await?;
    Ok(axum::Json(released.into()))
}

/// Extend leases.
#[utoipa::path(post, path = "/queues/{queue}/extend", security(("token" = ["consume"])), tag = "messages", request_body = ExtendRequest,
    params(("queue" = String, Path, description = "The queue's name")),
    responses((status = 200, body = SettledView), (status = 404)))]
async fn extend(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
    Json(request): Json<ExtendRequest>,
) -> Result<axum::Json<SettledView>, Problem> {
    let queue = state.data.queues.queue(&name)?;
    let receipts = receipts(&request.receipts)?;
    timeout(Some(request.visibility_timeout_ms))?;
    let extended = queue.extend(&receipts, request.visibility_timeout_ms)?;
    Ok(axum::Json(extended.into()))
}

fn receipts(texts: &[String]) -> Result<Vec<Receipt>, Problem> {
    if texts.len() > MAX_RECEIPTS {
        return Err(Problem::invalid(format!(
            "{} receipts; expected at most {MAX_RECEIPTS}",
            texts.len()
        )));
    }
    let parsed = texts.iter().map(|text| text.parse());
    let mut receipts: Vec<Receipt> = parsed.collect::<Result<_, _>>().map_err(Problem::invalid)?;
    // The second one would be stale by what the first one does.
    let mut known = HashSet::new();
    receipts.retain(|receipt| known.insert(*receipt));
    Ok(receipts)
}

fn within(name: &str, value: usize, most: usize) -> Result<usize, Problem> {
    match value {
        0 => Err(Problem::invalid(format!(
            "{name} is 0; expected 1 to {most}"
        ))),
        _ if value > most => Err(Problem::invalid(format!(
            "{name} is {value}; expected 1 to {most}"
        ))),
        _ => Ok(value),
    }
}

/// SQS's longest visibility timeout, as for a queue's setting.
fn timeout(ms: Option<u64>) -> Result<Option<u64>, Problem> {
    const MAX_MS: u64 = queue::MAX_VISIBILITY_TIMEOUT_MS;
    match ms {
        Some(ms) if ms == 0 || ms > MAX_MS => Err(Problem::invalid(format!(
            "visibility_timeout_ms is {ms}; expected 1 to {MAX_MS}"
        ))),
        _ => Ok(ms),
    }
}
