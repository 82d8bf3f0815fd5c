//! `/v1/groups`: list, describe, reset and delete consumer groups, and commit their offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State as StateOf;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;
use tokio::task::block_in_place;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{Rights, Role, Subject};
use super::extract::{Json, PathOf, objects};
use super::offset_spec;
use super::problem::{Code, Problem};
use super::state::{Data, State, to_its_end};
use crate::group::{GroupPosition, Lag};
use crate::log::{OffsetSpec, Topic};
use crate::model::{GroupName, PipelineName, TopicName};
use crate::pipeline;
use crate::storage::Partition;

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(describe, delete))
        .routes(routes!(reset))
        .routes(routes!(commit))
}

/// Where a group stands in a partition.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LagView {
    /// The topic.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// The partition.
    pub partition: u32,
    /// The offset of the next record that the group reads.
    pub committed_offset: u64,
    /// The offset after the last record.
    pub high_watermark: u64,
    /// Records in between.
    pub lag_records: u64,
    /// Age of the oldest record in between; 0 if there is none.
    pub lag_ms: u64,
}

impl From<Lag> for LagView {
    fn from(lag: Lag) -> Self {
        Self {
            topic: lag.topic,
            partition: lag.partition,
            committed_offset: lag.committed_offset,
            high_watermark: lag.high_watermark,
            lag_records: lag.lag_records,
            lag_ms: lag.lag_ms,
        }
    }
}

/// A group in a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// The topics in which it has committed offsets.
    #[schema(value_type = Vec<String>)]
    pub topics: Vec<TopicName>,
    /// Partitions in which it has committed offsets.
    pub partitions: usize,
    /// Records that it has not read yet, in all of them.
    pub lag_records: u64,
}

/// A group and where it stands.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct GroupDescription {
    /// Its name.
    #[schema(value_type = String)]
    pub name: GroupName,
    /// By partition.
    pub positions: Vec<LagView>,
}

/// Where a group's offsets are to go.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// The topic.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// The partitions; all of them if there are none.
    #[serde(default)]
    pub partitions: Vec<u32>,
    /// `earliest`, `latest`, an offset, or a time such as `2013-01-01T00:00:00Z`.
    pub to: String,
    /// Whether to tell only what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// A committed offset that moves.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OffsetMove {
    /// The topic.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// The partition.
    pub partition: u32,
    /// Where it was; null if none was committed.
    pub from_offset: Option<u64>,
    /// Where it is now.
    pub to_offset: u64,
    /// The offset that was asked for, if the partition does not hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_range: Option<u64>,
    /// The first offset that the partition holds.
    pub start_offset: u64,
    /// The offset after its last record.
    pub end_offset: u64,
}

/// What a reset has done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ResetView {
    /// The group.
    #[schema(value_type = String)]
    pub name: GroupName,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// By partition.
    pub partitions: Vec<OffsetMove>,
    /// The pipelines whose position the group is and that have records waiting to be tried again: those are tried again
    /// besides, also if they come once more from the topic.
    #[serde(default)]
    pub parked: Vec<ParkedView>,
}

/// What a pipeline has parked.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ParkedView {
    /// The pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// Records that wait to be tried again.
    pub records: u64,
}

/// Offsets to commit.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OffsetCommit {
    /// The topic.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// By partition: the offset of the next record to read.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1)]
    pub offsets: Vec<PartitionOffset>,
}

/// An offset in a partition.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PartitionOffset {
    /// The partition.
    pub partition: u32,
    /// The offset of the next record to read.
    pub offset: u64,
}

/// What was deleted with a group.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeletedGroup {
    /// The group.
    #[schema(value_type = String)]
    pub name: GroupName,
    /// Partitions in which it had committed offsets.
    pub partitions: usize,
}

/// The lag of each position. Topics that have been deleted since are left out.
fn lags(data: &Data, positions: &[GroupPosition]) -> Result<Vec<LagView>, Problem> {
    let topics: BTreeMap<u32, Topic> = data
        .log
        .topics()
        .into_iter()
        .map(|topic| (topic.id(), topic))
        .collect();
    let mut lags = Vec::new();
    for position in positions {
        let Some(topic) = topics.get(&position.topic_id) else {
            continue;
        };
        let partition = topic.partition(position.partition)?;
        let lag = data
            .groups
            .lag(topic.name(), partition, position.committed.offset)?;
        lags.push(LagView::from(lag));
    }
    lags.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Ok(lags)
}

/// All consumer groups, by name.
#[utoipa::path(get, path = "/groups", security(("token" = ["read"])), tag = "groups",
    responses((status = 200, body = Vec<GroupSummary>)))]
async fn list(StateOf(state): StateOf<State>) -> Result<axum::Json<Vec<GroupSummary>>, Problem> {
    Ok(axum::Json(block_in_place(|| summaries(&state.data))?))
}

fn summaries(data: &Data) -> Result<Vec<GroupSummary>, Problem> {
    let mut groups = Vec::new();
    for (name, positions) in data.groups.list()? {
        let lags = lags(data, &positions)?;
        let mut topics: Vec<_> = lags.iter().map(|lag| lag.topic.clone()).collect();
        topics.dedup();
        groups.push(GroupSummary {
            name,
            topics,
            partitions: lags.len(),
            lag_records: lags.iter().map(|lag| lag.lag_records).sum(),
        });
    }
    Ok(groups)
}

/// A group's committed offset and lag in each partition.
#[utoipa::path(get, path = "/groups/{group}", security(("token" = ["read"])), tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, body = GroupDescription), (status = 404)))]
async fn describe(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<GroupName>,
) -> Result<axum::Json<GroupDescription>, Problem> {
    let data = &state.data;
    let positions = block_in_place(|| lags(data, &data.groups.positions(&name)?))?;
    Ok(axum::Json(GroupDescription { name, positions }))
}

/// Move a group's committed offsets in a topic. A group that does not exist yet is created by this.
#[utoipa::path(post, path = "/groups/{group}/reset", security(("token" = ["admin"])), tag = "groups", request_body = ResetRequest,
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, body = ResetView), (status = 404), (status = 409)))]
async fn reset(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<GroupName>,
    Json(request): Json<ResetRequest>,
) -> Result<axum::Json<ResetView>, Problem> {
    let to = offset_spec::parse(&request.to)
        .map_err(|reason| Problem::invalid(format!("`to` is `{}`: {reason}", request.to)))?;
    // Until it has moved, no pipeline of the group starts.
    let held = match request.dry_run {
        true => None,
        false => state.hold_pipelines().await,
    };
    let view = to_its_end(async move {
        let _held = held;
        reset_now(&state, name, &request, to).await
    });
    Ok(axum::Json(view.await?))
}

async fn reset_now(
    state: &State,
    name: GroupName,
    request: &ResetRequest,
    to: OffsetSpec,
) -> Result<ResetView, Problem> {
    if !request.dry_run {
        check_not_running(state, &name)?;
    }
    let data = &state.data;
    let topic = data.log.topic(&request.topic)?;
    let partitions = partitions_of(&topic, &request.partitions)?;
    let moves = partitions.iter();
    let moves = moves.map(|partition| offset_move(data, &name, &topic, partition, to));
    let moves = block_in_place(|| moves.collect::<Result<Vec<_>, _>>())?;
    // Before anything has moved: a failure says that nothing has.
    let parked = block_in_place(|| pipeline::parked_of_group(data.log.store(), &name))?;
    if !request.dry_run {
        let offsets = partitions.iter().zip(&moves);
        let offsets = offsets.map(|(partition, step)| (&**partition, step.to_offset));
        data.groups.commit(&name, offsets).await?;
    }
    let parked = parked.into_iter();
    Ok(ResetView {
        name,
        dry_run: request.dry_run,
        partitions: moves,
        parked: parked
            .map(|(pipeline, records)| ParkedView { pipeline, records })
            .collect(),
    })
}

/// Where a reset takes a group in a partition.
fn offset_move(
    data: &Data,
    name: &GroupName,
    topic: &Topic,
    partition: &Partition,
    to: OffsetSpec,
) -> Result<OffsetMove, Problem> {
    let from = data.groups.committed(name, partition)?;
    let to_offset = data.log.resolve_offset(partition, to)?;
    let out_of_range = match to {
        OffsetSpec::Offset(wanted) if wanted != to_offset => Some(wanted),
        _ => None,
    };
    Ok(OffsetMove {
        topic: topic.name().clone(),
        partition: partition.index(),
        from_offset: from.map(|committed| committed.offset),
        to_offset,
        out_of_range,
        start_offset: partition.start_offset(),
        end_offset: partition.high_watermark(),
    })
}

/// Commit offsets of a group, all at once. Those of a pipeline's group need the role `deploy`.
#[utoipa::path(post, path = "/groups/{group}/offsets", security(("token" = ["consume"])), tag = "groups", request_body = OffsetCommit,
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 204), (status = 404), (status = 409), (status = 416)))]
async fn commit(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<GroupName>,
    rights: Rights,
    subject: Subject,
    Json(request): Json<OffsetCommit>,
) -> Result<axum::http::StatusCode, Problem> {
    let held = hold_owner(&state, &name, &rights, &subject).await?;
    to_its_end(async move {
        let _held = held;
        commit_now(&state, &name, &request).await
    })
    .await?;
    Ok(axum::http::StatusCode::NO_CONTENT)
}

/// Keeps the pipeline of which a group is the position from starting until what is returned is dropped, if whoever asks
/// may move it; nothing of a group that is of none, whose consumers must not wait for deploys.
async fn hold_owner(
    state: &State,
    name: &GroupName,
    rights: &Rights,
    subject: &Subject,
) -> Result<Option<OwnedMutexGuard<()>>, Problem> {
    let write_down = |owner: &PipelineName| {
        subject.set(format_args!("position of pipeline {owner}"));
    };
    let Some(owner) = owner_of(state, name)? else {
        return Ok(None);
    };
    check_may_move(rights, name, &owner).inspect_err(|_| write_down(&owner))?;
    let held = state.hold_pipelines().await;
    // By now it may be another pipeline's, or nobody's.
    if let Some(owner) = owner_of(state, name)? {
        write_down(&owner);
    }
    Ok(held)
}

async fn commit_now(
    state: &State,
    name: &GroupName,
    request: &OffsetCommit,
) -> Result<(), Problem> {
    check_not_running(state, name)?;
    if request.offsets.is_empty() {
        return Err(Problem::invalid(
            "`offsets` is empty; expected one at least",
        ));
    }
    let topic = state.data.log.topic(&request.topic)?;
    let mut offsets = Vec::new();
    let mut partitions = BTreeSet::new();
    for PartitionOffset { partition, offset } in &request.offsets {
        if !partitions.insert(*partition) {
            let text = format!("`offsets` has partition {partition} twice");
            return Err(Problem::invalid(text));
        }
        let partition = topic.partition(*partition)?;
        let end = partition.high_watermark();
        if *offset > end {
            return Err(Problem::new(
                Code::OffsetOutOfRange,
                format!(
                    "offset {offset} is beyond the end of partition {} of topic `{}`, which is {end}",
                    partition.index(),
                    topic.name()
                ),
            ));
        }
        offsets.push((&**partition, *offset));
    }
    Ok(state.data.groups.commit(name, offsets).await?)
}

/// Forget a group with all its committed offsets. That of a pipeline that runs is not forgotten.
#[utoipa::path(delete, path = "/groups/{group}", security(("token" = ["admin"])), tag = "groups",
    params(("group" = String, Path, description = "The group's name")),
    responses((status = 200, body = DeletedGroup), (status = 404), (status = 409)))]
async fn delete(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<GroupName>,
) -> Result<axum::Json<DeletedGroup>, Problem> {
    let held = state.hold_pipelines().await;
    let deleted = to_its_end(async move {
        let _held = held;
        check_not_running(&state, &name)?;
        let groups = &state.data.groups;
        let partitions = block_in_place(|| groups.positions(&name))?.len();
        groups.delete(&name).await?;
        Ok::<_, Problem>(DeletedGroup { name, partitions })
    });
    Ok(axum::Json(deleted.await?))
}

/// The pipeline of which a group is the position, if it is of one.
fn owner_of(state: &State, name: &GroupName) -> Result<Option<PipelineName>, Problem> {
    let store = state.data.log.store();
    let owners = block_in_place(|| pipeline::owners_of_group(store, name))?;
    Ok(owners.into_iter().next())
}

/// Whoever moves the position of a pipeline lets it skip records, or process them again: that is for those who deploy it.
fn check_may_move(rights: &Rights, name: &GroupName, owner: &PipelineName) -> Result<(), Problem> {
    match rights.may(Role::Deploy) {
        true => Ok(()),
        false => Err(Problem::new(
            Code::Forbidden,
            format!(
                "the group `{name}` is the position of pipeline `{owner}`; moving it needs the role `deploy`"
            ),
        )),
    }
}

/// A task that runs keeps its position in memory, and would write it over another one.
fn check_not_running(state: &State, name: &GroupName) -> Result<(), Problem> {
    let pipelines = state.pipelines();
    match pipelines.and_then(|it| it.running_pipeline_of_group(name)) {
        Some(pipeline) => Err(Problem::new(
            Code::Conflict,
            format!(
                "the group `{name}` is of pipeline `{pipeline}`, of which tasks run; pause it first: `millstream pipeline pause {pipeline}`"
            ),
        )),
        None => Ok(()),
    }
}

/// The partitions that are named, or all.
pub(super) fn partitions_of(topic: &Topic, named: &[u32]) -> Result<Vec<Arc<Partition>>, Problem> {
    if named.is_empty() {
        return Ok(topic.partitions().to_vec());
    }
    let mut indexes = named.to_vec();
    indexes.sort_unstable();
    indexes.dedup();
    let found = indexes
        .into_iter()
        .map(|index| topic.partition(index).cloned());
    Ok(found.collect::<Result<_, _>>()?)
}
