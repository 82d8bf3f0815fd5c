//! `GET /v1/pipelines/{pipeline}/logs`: what a pipeline's plugin logs.

use std::time::Duration;

use axum::extract::State as StateOf;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::access::Standing;
use super::super::extract::{PathOf, QueryOf};
use super::super::problem::{Code, Problem};
use super::super::state::State;
use crate::model::PipelineName;
use crate::plugin::LogLine;

const MAX_WAIT_MS: u64 = 60_000;

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct After {
    /// Only lines after the one with this number.
    #[serde(default)]
    #[param(default = 0)]
    after: u64,
    /// How long to wait for a line if there is none.
    #[serde(default)]
    #[param(minimum = 0, maximum = 60_000, default = 0)]
    wait_ms: u64,
}

/// A line that a plugin logged.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LogLineView {
    /// Its number; later lines have greater ones.
    pub number: u64,
    /// When it was logged, in ms since the epoch.
    pub time_ms: u64,
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The partition of the task.
    pub partition: u32,
    /// The part of the plugin that speaks; empty if it does not say.
    pub context: String,
    /// What it says.
    pub message: String,
}

impl From<LogLine> for LogLineView {
    fn from(line: LogLine) -> Self {
        Self {
            number: line.number,
            time_ms: line.time_ms,
            level: line.level.as_str().to_ascii_lowercase(),
            partition: line.partition,
            context: line.context,
            message: line.message,
        }
    }
}

/// The last lines that a pipeline's plugin logged, of level info and above, oldest first.
#[utoipa::path(get, path = "/pipelines/{pipeline}/logs", security(("token" = ["read"])), tag = "pipelines",
    params(("pipeline" = String, Path, description = "The pipeline's name"), After),
    responses((status = 200, body = Vec<LogLineView>), (status = 404), (status = 409), (status = 429)))]
pub(super) async fn logs(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PipelineName>,
    QueryOf(After { after, wait_ms }): QueryOf<After>,
    standing: Standing,
) -> Result<axum::Json<Vec<LogLineView>>, Problem> {
    let pipelines = state.deployments()?.pipelines();
    let unknown = || {
        Problem::new(
            Code::UnknownPipeline,
            format!(
                "no pipeline `{name}` runs here; `millstream pipeline list` lists those that do"
            ),
        )
    };
    let mut lines = pipelines.logs_after(&name, after).ok_or_else(unknown)?;
    if lines.is_empty() && wait_ms > 0 {
        let _waiting = state.may_wait()?;
        tokio::select! {
            () = pipelines.log_added(&name) => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms.min(MAX_WAIT_MS))) => {}
            ended = state.let_go(&standing) => ended?,
        }
        lines = pipelines.logs_after(&name, after).ok_or_else(unknown)?;
    }
    let lines = lines.into_iter().map(LogLineView::from);
    Ok(axum::Json(lines.collect()))
}
