//! Where a consumer reads: its partitions, each with a cursor.

use std::fmt::Write as _;
use std::sync::Arc;
use std::task::Poll;

use axum::extract::State as StateOf;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;
use utoipa::{IntoParams, ToSchema};

use super::super::extract::{PathOf, QueryOf};
use super::super::groups::partitions_of;
use super::super::json_record::Writer;
use super::super::offset_spec;
use super::super::problem::Problem;
use super::super::state::{Data, State};
use crate::log::{Cursor, OffsetSpec, Topic};
use crate::model::{GroupName, TopicName};
use crate::storage::{self, Partition};

/// Where reading starts.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Position {
    /// `earliest`, `latest`, an offset, or a time such as `2013-01-01T00:00:00Z`; with `group`, where the group has no
    /// committed offset.
    #[serde(default)]
    #[param(default = "earliest")]
    from: Option<String>,
    /// Partitions, separated by commas; all of them by default.
    #[serde(default)]
    #[param(example = "0,1")]
    partitions: Option<String>,
    /// Partitions, each with the offset of the next record; in the place of `from`, `partitions` and `group`.
    #[serde(default)]
    #[param(example = "0:42,1:17")]
    offsets: Option<String>,
    /// Start at the committed offsets of this consumer group. Reading does not commit.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    group: Option<GroupName>,
}

impl Position {
    /// Where reading starts in each partition.
    fn places(
        &self,
        data: &Data,
        topic: &Topic,
    ) -> Result<Vec<(Arc<Partition>, PlaceView)>, Problem> {
        if let Some(offsets) = &self.offsets {
            let others = [
                ("from", self.from.is_some()),
                ("partitions", self.partitions.is_some()),
                ("group", self.group.is_some()),
            ];
            if let Some((name, _)) = others.iter().find(|(_, is_given)| *is_given) {
                let text = format!("`offsets` says where to read; leave `{name}` out");
                return Err(Problem::invalid(text));
            }
            return at_offsets(topic, offsets);
        }
        let from = match &self.from {
            Some(from) => offset_spec::parse(from)
                .map_err(|reason| Problem::invalid(format!("`from` is `{from}`: {reason}")))?,
            None => OffsetSpec::Earliest,
        };
        let partitions = match &self.partitions {
            Some(text) => read_numbers(text)?,
            None => Vec::new(),
        };
        let mut places = Vec::new();
        for partition in partitions_of(topic, &partitions)? {
            let place = place(data, &partition, self.group.as_ref(), from)?;
            places.push((partition, place));
        }
        Ok(places)
    }

    /// A reader for each partition.
    pub(super) fn readers(&self, data: &Data, topic: &Topic) -> Result<Vec<Reader>, Problem> {
        let places = self.places(data, topic)?.into_iter();
        let reader =
            |(partition, place): (_, PlaceView)| Reader::new(data, topic, partition, place.offset);
        Ok(places.map(reader).collect())
    }
}

/// Where reading starts in a partition.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PlaceView {
    /// The partition.
    pub partition: u32,
    /// The offset of the next record to read.
    pub offset: u64,
    /// The offset that was asked for or committed, if the partition does not hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_range: Option<u64>,
    /// Whether it is where the group has committed.
    pub committed: bool,
    /// The first offset that the partition holds.
    pub start_offset: u64,
    /// The offset after its last record.
    pub end_offset: u64,
}

/// Where reading would start in each partition, as Kafka's ListOffsets tells it.
#[utoipa::path(get, path = "/topics/{topic}/offsets", security(("token" = ["read"]), ("token" = ["consume"])), tag = "records",
    params(("topic" = String, Path, description = "The topic's name"), Position),
    responses((status = 200, body = Vec<PlaceView>), (status = 404), (status = 416)))]
pub(super) async fn offsets(
    StateOf(state): StateOf<State>,
    PathOf(name): PathOf<TopicName>,
    QueryOf(position): QueryOf<Position>,
) -> Result<axum::Json<Vec<PlaceView>>, Problem> {
    let topic = state.data.log.topic(&name)?;
    let places = block_in_place(|| position.places(&state.data, &topic))?;
    Ok(axum::Json(
        places.into_iter().map(|(_, place)| place).collect(),
    ))
}

/// Reads one partition.
pub(super) struct Reader {
    cursor: Cursor,
    json: Writer,
}

impl Reader {
    fn new(data: &Data, topic: &Topic, partition: Arc<Partition>, offset: u64) -> Self {
        let json = Writer::new(topic.name(), partition.index());
        let cursor = Cursor::new(data.log.store().clone(), partition, offset);
        Self { cursor, json }
    }

    /// Appends records as JSON lines, up to `max_records`, and no further one once there are `max_bytes`; returns how
    /// many.
    pub(super) fn write_lines(
        &mut self,
        max_records: usize,
        max_bytes: usize,
        into: &mut Vec<u8>,
    ) -> Result<usize, Problem> {
        let json = &self.json;
        let read = self.cursor.read(max_records, max_bytes, |record| {
            json.write(record, into);
        });
        Ok(read?)
    }

    /// The next record, if there is one, appended as a JSON line.
    pub(super) fn write_next(&mut self, into: &mut Vec<u8>) -> Result<bool, Problem> {
        Ok(self.write_lines(1, usize::MAX, into)? > 0)
    }
}

/// Where all of them go on, as `Position` takes it in `offsets`.
pub(super) fn write_offsets(readers: &[Reader]) -> String {
    let mut text = String::new();
    for reader in readers {
        let comma = if text.is_empty() { "" } else { "," };
        let (partition, offset) = (reader.cursor.partition().index(), reader.cursor.offset());
        // Writing to memory does not fail.
        let _ = write!(text, "{comma}{partition}:{offset}");
    }
    text
}

/// Waits until one of the partitions has records.
pub(super) async fn any_readable(readers: &[Reader]) {
    let mut waits: Vec<_> = readers
        .iter()
        .map(|reader| Box::pin(reader.cursor.wait()))
        .collect();
    std::future::poll_fn(|context| {
        let is_ready = waits
            .iter_mut()
            .any(|wait| wait.as_mut().poll(context).is_ready());
        match is_ready {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// A reader for each of `0:42,1:17`.
pub(super) fn readers_at(data: &Data, topic: &Topic, text: &str) -> Result<Vec<Reader>, Problem> {
    let places = at_offsets(topic, text)?.into_iter();
    let reader =
        |(partition, place): (_, PlaceView)| Reader::new(data, topic, partition, place.offset);
    Ok(places.map(reader).collect())
}

fn at_offsets(topic: &Topic, text: &str) -> Result<Vec<(Arc<Partition>, PlaceView)>, Problem> {
    let malformed = || {
        Problem::invalid(format!(
            "`offsets` is `{text}`; expected partitions with offsets, such as `0:42,1:17`"
        ))
    };
    let mut places: Vec<(Arc<Partition>, PlaceView)> = Vec::new();
    for part in text.split(',') {
        let (index, offset) = part.split_once(':').ok_or_else(malformed)?;
        let index: u32 = index.parse().map_err(|_| malformed())?;
        let offset: u64 = offset.parse().map_err(|_| malformed())?;
        if places.iter().any(|(_, place)| place.partition == index) {
            return Err(malformed());
        }
        let partition = Arc::clone(topic.partition(index)?);
        let (start_offset, end_offset) = (partition.start_offset(), partition.high_watermark());
        if offset < start_offset || offset > end_offset {
            let error = storage::Error::OffsetOutOfRange {
                offset,
                start: start_offset,
                end: end_offset,
            };
            return Err(error.into());
        }
        let place = PlaceView {
            partition: index,
            offset,
            out_of_range: None,
            committed: false,
            start_offset,
            end_offset,
        };
        places.push((partition, place));
    }
    Ok(places)
}

fn read_numbers(text: &str) -> Result<Vec<u32>, Problem> {
    let numbers = text.split(',').map(str::parse);
    numbers.collect::<Result<_, _>>().map_err(|_| {
        Problem::invalid(format!(
            "`partitions` is `{text}`; expected numbers separated by commas, such as `0,1`"
        ))
    })
}

fn place(
    data: &Data,
    partition: &Partition,
    group: Option<&GroupName>,
    from: OffsetSpec,
) -> Result<PlaceView, Problem> {
    let committed = match group {
        Some(group) => data.groups.committed(group, partition)?,
        None => None,
    };
    let start_offset = partition.start_offset();
    let end_offset = partition.high_watermark().max(start_offset);
    let (offset, wanted) = match (committed, from) {
        // What retention took since is passed over, as Kafka's consumers do by default.
        (Some(committed), _) => (
            committed.offset.clamp(start_offset, end_offset),
            Some(committed.offset),
        ),
        (None, OffsetSpec::Offset(wanted)) => {
            (data.log.resolve_offset(partition, from)?, Some(wanted))
        }
        (None, _) => (data.log.resolve_offset(partition, from)?, None),
    };
    Ok(PlaceView {
        partition: partition.index(),
        offset,
        out_of_range: wanted.filter(|wanted| *wanted != offset),
        committed: committed.is_some(),
        start_offset,
        end_offset,
    })
}
