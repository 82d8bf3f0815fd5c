//! `/v1/topics`: list, create, describe, change, delete and compact topics.

#[cfg(test)]
mod tests;
mod view;

use axum::extract::State as StateOf;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use tokio::task::block_in_place;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use view::{
    CompactedTopic, DeletedTopic, NewTopic, PartitionView, TopicConfigView, TopicDescription,
    TopicSettings, TopicView,
};

use super::access::Subject;
use super::extract::{Json, PathOf};
use super::problem::{Code, Problem};
use super::state::{State, to_its_end};
use crate::deploy::check_unused;
use crate::log::{Cleanup, TopicConfig};
use crate::model::{Target, TopicName};

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(describe, alter, delete))
        .routes(routes!(compact))
}

/// All topics, by name.
#[utoipa::path(get, path = "/topics", security(("token" = ["read"])), tag = "topics",
    responses((status = 200, body = Vec<TopicView>)))]
async fn list(StateOf(state): StateOf<State>) -> axum::Json<Vec<TopicView>> {
    let topics = state.data.log.topics();
    axum::Json(topics.iter().map(TopicView::of).collect())
}

/// Create a topic.
#[utoipa::path(post, path = "/topics", security(("token" = ["admin"])), tag = "topics", request_body = NewTopic,
    responses((status = 201, body = TopicView), (status = 409)))]
async fn create(
    StateOf(state): StateOf<State>,
    subject: Subject,
    Json(new): Json<NewTopic>,
) -> Result<impl IntoResponse, Problem> {
    subject.set(&new.name);
    let mut config = TopicConfig {
        partitions: new.partitions,
        ..TopicConfig::default()
    };
    new.settings.apply(&mut config)?;
    let log = state.data.log.clone();
    let topic = to_its_end(async move { log.create_topic(&new.name, config).await }).await?;
    Ok((StatusCode::CREATED, axum::Json(TopicView::of(&topic))))
}

/// A topic's settings, and start, end and size of each partition.
#[utoipa::path(get, path = "/topics/{topic}", security(("token" = ["read"]), ("token" = ["produce"])), tag = "topics",
    params(("topic" = String, Path, description = "The topic's name")),
    responses((status = 200, body = TopicDescription), (status = 404)))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
) -> Result<axum::Json<TopicDescription>, Problem> {
    let topic = state.data.log.topic(&name)?;
    Ok(axum::Json(TopicDescription::of(&topic)))
}

/// Change settings of a topic.
#[utoipa::path(patch, path = "/topics/{topic}", security(("token" = ["admin"])), tag = "topics", request_body = TopicSettings,
    params(("topic" = String, Path, description = "The topic's name")),
    responses((status = 200, body = TopicView), (status = 404)))]
async fn alter(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
    Json(settings): Json<TopicSettings>,
) -> Result<axum::Json<TopicView>, Problem> {
    let log = state.data.log.clone();
    let topic = log.topic(&name)?;
    let altered = topic.clone();
    to_its_end(async move {
        let change = |config: &mut TopicConfig| settings.apply(config);
        log.alter_topic(&altered, change).await
    })
    .await?;
    Ok(axum::Json(TopicView::of(&topic)))
}

/// Delete a topic with all its records. One that a pipeline uses is not deleted.
#[utoipa::path(delete, path = "/topics/{topic}", security(("token" = ["admin"])), tag = "topics",
    params(("topic" = String, Path, description = "The topic's name")),
    responses((status = 200, body = DeletedTopic), (status = 404), (status = 409)))]
async fn delete(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
) -> Result<axum::Json<DeletedTopic>, Problem> {
    let log = state.data.log.clone();
    let TopicView {
        records,
        size_bytes,
        ..
    } = TopicView::of(&log.topic(&name)?);
    let held = state.hold_pipelines().await;
    let target = Target::Topic(name.clone());
    let deleted = name.clone();
    to_its_end::<_, Problem>(async move {
        block_in_place(|| check_unused(log.store(), &target))?;
        let topic = log.remove_topic(&deleted).await?;
        // Nobody can begin to use it any more.
        drop(held);
        Ok(log.free_removed(&topic).await?)
    })
    .await?;
    Ok(axum::Json(DeletedTopic {
        name,
        records,
        size_bytes,
    }))
}

/// Compact a topic now, instead of when enough has changed.
#[utoipa::path(post, path = "/topics/{topic}/compact", security(("token" = ["admin"])), tag = "topics",
    params(("topic" = String, Path, description = "The topic's name")),
    responses((status = 200, body = CompactedTopic), (status = 404), (status = 409)))]
async fn compact(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
) -> Result<axum::Json<CompactedTopic>, Problem> {
    let log = &state.data.log;
    let topic = log.topic(&name)?;
    if topic.config().cleanup != Cleanup::Compact {
        return Err(Problem::new(
            Code::Conflict,
            format!(
                "topic `{name}` has cleanup `delete`, there is nothing to compact; `millstream topic alter {name} --cleanup compact` makes it keep the newest record of each key"
            ),
        ));
    }
    let report = log.clean(&topic).await?;
    Ok(axum::Json(CompactedTopic {
        name,
        records_removed: report.records_removed,
        records_kept: report.records_kept,
        freed_bytes: report.freed_bytes,
    }))
}
