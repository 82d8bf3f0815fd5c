//! `GET /v1/topics/{topic}/records`: records of a topic, at once or when there are any.

use std::time::Duration;

use axum::extract::State as StateOf;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::task::block_in_place;
use utoipa::IntoParams;

use super::super::access::Standing;
use super::super::extract::{PathOf, QueryOf};
use super::super::problem::Problem;
use super::super::state::State;
use super::super::waiting::wait_of;
use super::JSON_LINES;
use super::position::{Position, Reader, any_readable, write_offsets};
use crate::model::TopicName;

/// Names, for each partition that was read, the offset at which it goes on: `0:42,1:17`.
pub(crate) const NEXT_OFFSETS: &str = "millstream-next-offsets";

/// Kafka's `max.poll.records`.
const DEFAULT_RECORDS: usize = 500;
const MAX_RECORDS: usize = 100_000;
const DEFAULT_BYTES: usize = 1 << 20;
const MAX_BYTES: usize = 16 << 20;
/// Records of a partition before it is another's turn.
const TURN_RECORDS: usize = 4096;

/// How much to fetch.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Amount {
    /// Records at most.
    #[serde(default)]
    #[param(minimum = 1, maximum = 100_000, default = 500)]
    max_records: Option<usize>,
    /// Bytes of the answer, beyond which no further record is added.
    #[serde(default)]
    #[param(minimum = 1, maximum = 16_777_216, default = 1_048_576)]
    max_bytes: Option<usize>,
    /// How long to wait for records if there are none.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60_000, default = 0)]
    wait_ms: Option<u64>,
}

/// An amount within its limits.
struct Limits {
    records: usize,
    bytes: usize,
    wait: Duration,
}

impl Amount {
    fn limits(&self) -> Result<Limits, Problem> {
        let records = self.max_records.unwrap_or(DEFAULT_RECORDS);
        let bytes = self.max_bytes.unwrap_or(DEFAULT_BYTES);
        if records == 0 || records > MAX_RECORDS {
            return Err(Problem::invalid(format!(
                "max_records is {records}; expected 1 to {MAX_RECORDS}"
            )));
        }
        if bytes == 0 || bytes > MAX_BYTES {
            return Err(Problem::invalid(format!(
                "max_bytes is {bytes}; expected 1 to {MAX_BYTES}"
            )));
        }
        Ok(Limits {
            records,
            bytes,
            wait: wait_of(self.wait_ms.unwrap_or(0))?,
        })
    }
}

/// Fetch records.
///
/// One JSON object a line. The header `millstream-next-offsets` says where to go on (`offsets`).
#[utoipa::path(get, path = "/topics/{topic}/records", security(("token" = ["consume"])), tag = "records",
    params(("topic" = String, Path, description = "The topic's name"), Position, Amount),
    responses((status = 200, body = String, content_type = "application/x-ndjson"), (status = 404), (status = 416),
        (status = 429)))]
pub(super) async fn fetch(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
    QueryOf(position): QueryOf<Position>,
    QueryOf(amount): QueryOf<Amount>,
    standing: Standing,
) -> Result<Response, Problem> {
    let limits = amount.limits()?;
    let topic = state.data.log.topic(&name)?;
    let (mut readers, mut lines) = block_in_place(|| {
        let mut readers = position.readers(&state.data, &topic)?;
        let lines = read(&mut readers, &limits)?;
        Ok::<_, Problem>((readers, lines))
    })?;
    if lines.is_empty() && !limits.wait.is_zero() {
        let _waiting = state.waiting.may_wait()?;
        tokio::select! {
            () = any_readable(&readers) => {}
            () = tokio::time::sleep(limits.wait) => {}
            ended = state.let_go(&standing) => ended?,
        }
        // One append wakes all who wait.
        state.unread.check()?;
        lines = block_in_place(|| read(&mut readers, &limits))?;
    }
    let mut response = ([(header::CONTENT_TYPE, JSON_LINES)], lines).into_response();
    // Digits, colons and commas.
    if let Ok(offsets) = HeaderValue::from_str(&write_offsets(&readers)) {
        response.headers_mut().insert(NEXT_OFFSETS, offsets);
    }
    Ok(response)
}

/// Reads the partitions in turn.
fn read(readers: &mut [Reader], limits: &Limits) -> Result<Vec<u8>, Problem> {
    let mut lines = Vec::new();
    let mut left = limits.records;
    loop {
        let before = left;
        for reader in &mut *readers {
            let bytes = limits.bytes.saturating_sub(lines.len());
            if left == 0 || bytes == 0 {
                return Ok(lines);
            }
            left -= reader.write_lines(left.min(TURN_RECORDS), bytes, &mut lines)?;
        }
        if left == before {
            return Ok(lines);
        }
    }
}
