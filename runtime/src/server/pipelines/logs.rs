//! `GET /v1/pipelines/{pipeline}/logs`: what a pipeline's plugin logs, or has logged.

use axum::extract::State as StateOf;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;
use utoipa::{IntoParams, ToSchema};

use super::super::access::Standing;
use super::super::extract::{PathOf, QueryOf};
use super::super::problem::Problem;
use super::super::state::State;
use super::super::waiting::wait_of;
use crate::model::PipelineName;
use crate::pipeline;
use crate::plugin::LogLine;

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

impl LogLineView {
    fn of(line: &LogLine) -> Self {
        Self {
            number: line.number,
            time_ms: line.time_ms,
            level: line.level.as_str().to_ascii_lowercase(),
            partition: line.partition,
            context: line.context.clone(),
            message: line.message.clone(),
        }
    }
}

/// What a pipeline's plugin has logged, of level info and above, oldest first: the lines that are kept, also of earlier
/// versions and before the server started.
#[utoipa::path(get, path = "/pipelines/{pipeline}/logs", security(("token" = ["read"])), tag = "pipelines",
    params(("pipeline" = String, Path, description = "The pipeline's name"), After),
    responses((status = 200, body = Vec<LogLineView>), (status = 404), (status = 429)))]
pub(super) async fn logs(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<PipelineName>,
    QueryOf(After { after, wait_ms }): QueryOf<After>,
    standing: Standing,
) -> Result<axum::Json<Vec<LogLineView>>, Problem> {
    let wait = wait_of(wait_ms)?;
    let pipelines = state.pipelines();
    let read = || {
        block_in_place(|| match pipelines {
            Some(pipelines) => pipelines.logs_after(&name, after),
            None => pipeline::stored_log_lines(state.data.log.store(), &name, after),
        })
    };
    // First: a line that comes after the look is not waited past.
    let news = pipelines.and_then(|it| it.log_news(&name));
    let mut lines = read()?;
    // Where nothing runs, none will come.
    if lines.is_empty() && !wait.is_zero() && pipelines.is_some() {
        let _waiting = state.waiting.may_wait()?;
        let news = async {
            match news {
                // An error is its end, about which the next look has something to say.
                Some(mut news) => {
                    let _ = news.changed().await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = news => {}
            () = tokio::time::sleep(wait) => {}
            ended = state.let_go(&standing) => ended?,
        }
        lines = read()?;
    }
    let lines = lines.iter().map(|line| LogLineView::of(line));
    Ok(axum::Json(lines.collect()))
}
