//! `POST /v1/topics/{topic}/records`: JSON lines into a topic.

use axum::extract::State as StateOf;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::extract::{Body, PathOf};
use super::super::json_record::JsonRecord;
use super::super::problem::{Code, Problem};
use super::super::request_trace::RequestTrace;
use super::super::state::State;
use crate::log::{self, Producer};
use crate::model::{HeadersBuf, TopicName, limits};

/// What was stored.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ProducedView {
    /// Records that are stored.
    pub acknowledged: u64,
}

/// Append records.
///
/// One JSON object a line, as `GET` answers them: `{"key":"k","value":"v"}`, with `partition`, `timestamp` (ms) and
/// `headers` if wanted; bytes that are not UTF-8 are `{"base64":"…"}`. The answer comes when all are stored. If a line
/// is refused the lines before it are stored, and `acknowledged` says how many. While the server exports traces, records
/// without a header `traceparent` get that of the request.
#[utoipa::path(post, path = "/topics/{topic}/records", security(("token" = ["produce"])), tag = "records",
    params(("topic" = String, Path, description = "The topic's name")),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = 200, body = ProducedView), (status = 404)))]
pub(super) async fn produce(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<axum::Json<ProducedView>, Problem> {
    let trace = RequestTrace::begin(&headers);
    let produced = store(&state, &name, &body, trace.as_ref()).await;
    if let Some(trace) = trace {
        trace.end("/v1/topics/{topic}/records", name.as_str(), &produced);
    }
    produced.map(axum::Json)
}

async fn store(
    state: &State,
    name: &TopicName,
    body: &[u8],
    trace: Option<&RequestTrace>,
) -> Result<ProducedView, Problem> {
    let log = &state.data.log;
    let topic = log.topic(name)?;
    let now_ms = log.store().clock().now_ms();
    let max_bytes = topic.config().max_batch_bytes.min(limits::MAX_RECORD_BYTES);
    let trace = trace.map(|trace| (trace, max_bytes));
    let mut producer = Producer::new(log.clone(), topic);
    let sent = send_lines(&mut producer, body, now_ms, trace).await;
    // What was sent before a line that is refused is stored, whatever is wrong with that one.
    let flushed = producer.flush().await;
    let acknowledged = producer.acknowledged().records;
    let counted = |mut problem: Problem| {
        problem.acknowledged = (acknowledged > 0).then_some(acknowledged);
        problem
    };
    flushed.map_err(|error| counted(error.into()))?;
    sent.map_err(counted)?;
    Ok(ProducedView { acknowledged })
}

/// With the trace comes how large a record of the topic may be.
async fn send_lines(
    producer: &mut Producer,
    body: &[u8],
    now_ms: u64,
    trace: Option<(&RequestTrace, usize)>,
) -> Result<(), Problem> {
    let mut headers = HeadersBuf::new();
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
        if let Some((trace, max_bytes)) = trace {
            trace.add_to(&mut headers, record.size_bytes(), max_bytes);
        }
        let sent = producer.send(
            record.partition,
            record.timestamp.unwrap_or(now_ms),
            record.key(),
            record.value(),
            headers.as_headers(),
        );
        sent.await.map_err(|error| match error {
            log::Error::Storage(error) => Problem::from(error),
            error => {
                let mut problem = Problem::from(error);
                problem.detail = format!("line {}: {}", at + 1, problem.detail);
                problem
            }
        })?;
    }
    Ok(())
}
