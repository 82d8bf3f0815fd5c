//! `/v1/queues`: list, create, describe, delete and purge queues; `messages.rs`: enqueue, peek, lease and settle.

mod messages;
#[cfg(test)]
mod tests;
mod view;

use axum::extract::State as StateOf;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use tokio::task::block_in_place;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use messages::{
    EnqueuedView, ExtendRequest, LeaseBody, ReceiptsRequest, ReleaseRequest, SettledView,
};
pub use view::{NewQueue, QueueConfigView, QueueSettings, QueueView, RemovedMessages};

use super::access::Subject;
use super::extract::{Json, PathOf};
use super::problem::Problem;
use super::state::{State, to_its_end};
use crate::deploy::check_unused;
use crate::model::{QueueName, Target};

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(describe, delete))
        .routes(routes!(purge))
        .merge(messages::router())
}

/// All queues, by name.
#[utoipa::path(get, path = "/queues", security(("token" = ["read"])), tag = "queues",
    responses((status = 200, body = Vec<QueueView>)))]
async fn list(StateOf(state): StateOf<State>) -> Result<axum::Json<Vec<QueueView>>, Problem> {
    let mut queues = Vec::new();
    for queue in state.data.queues.queues() {
        queues.push(QueueView::of(&queue, &queue.describe().await?));
    }
    Ok(axum::Json(queues))
}

/// Create a queue.
#[utoipa::path(post, path = "/queues", security(("token" = ["admin"])), tag = "queues", request_body = NewQueue,
    responses((status = 201, body = QueueView), (status = 409)))]
async fn create(
    StateOf(state): StateOf<State>,
    subject: Subject,
    Json(new): Json<NewQueue>,
) -> Result<impl IntoResponse, Problem> {
    subject.set(&new.name);
    let queues = state.data.queues.clone();
    let creating = async move { queues.create_queue(&new.name, new.settings.config()).await };
    let queue = to_its_end(creating).await?;
    let view = QueueView::of(&queue, &queue.describe().await?);
    Ok((StatusCode::CREATED, axum::Json(view)))
}

/// A queue's settings, and how many messages wait, are delayed and leased.
#[utoipa::path(get, path = "/queues/{queue}", security(("token" = ["read"]), ("token" = ["produce"])), tag = "queues",
    params(("queue" = String, Path, description = "The queue's name")),
    responses((status = 200, body = QueueView), (status = 404)))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
) -> Result<axum::Json<QueueView>, Problem> {
    let queue = state.data.queues.queue(&name)?;
    Ok(axum::Json(QueueView::of(&queue, &queue.describe().await?)))
}

/// Delete a queue with all its messages. One that a pipeline uses is not deleted.
#[utoipa::path(delete, path = "/queues/{queue}", security(("token" = ["admin"])), tag = "queues",
    params(("queue" = String, Path, description = "The queue's name")),
    responses((status = 200, body = RemovedMessages), (status = 404), (status = 409)))]
async fn delete(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
) -> Result<axum::Json<RemovedMessages>, Problem> {
    let queues = state.data.queues.clone();
    let messages = queues.queue(&name)?.message_count().await?;
    let held = state.hold_pipelines().await;
    let target = Target::Queue(name.clone());
    let deleted = name.clone();
    to_its_end::<_, Problem>(async move {
        block_in_place(|| check_unused(queues.store(), &target))?;
        let queue = queues.remove_queue(&deleted).await?;
        // Nobody can begin to use it any more.
        drop(held);
        Ok(queues.free_removed(&queue).await?)
    })
    .await?;
    Ok(axum::Json(RemovedMessages { name, messages }))
}

/// Delete all messages of a queue.
#[utoipa::path(post, path = "/queues/{queue}/purge", security(("token" = ["admin"])), tag = "queues",
    params(("queue" = String, Path, description = "The queue's name")),
    responses((status = 200, body = RemovedMessages), (status = 404)))]
async fn purge(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<QueueName>,
) -> Result<axum::Json<RemovedMessages>, Problem> {
    let messages = state.data.queues.queue(&name)?.purge().await?;
    Ok(axum::Json(RemovedMessages { name, messages }))
}
