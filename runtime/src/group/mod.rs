//! Consumer groups: named sets of committed offsets.
//!
//! A group exists once it has committed an offset. The committed offset is the offset of the next
//! record that the group reads, as in Kafka.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::model::{self, GroupName, TopicName};
use crate::storage::schema::group_gaps;
use crate::storage::schema::group_offset::{self, CommittedOffset};
use crate::storage::schema::{KeyKind, kind_prefix, prefix_end};
use crate::storage::{self, Commit, Partition, Scan, Store};

/// What can go wrong with consumer groups.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No group of this name has committed an offset.
    #[error("there is no consumer group `{0}`: no offset has been committed under this name")]
    UnknownGroup(GroupName),
    /// A stored batch cannot be read.
    #[error(transparent)]
    Batch(#[from] model::batch::Error),
    /// The data directory failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
}

/// A group's committed offset in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupPosition {
    /// The id of the topic.
    pub topic_id: u32,
    /// The partition.
    pub partition: u32,
    /// The offset and when it was committed.
    pub committed: CommittedOffset,
}

/// The lag of a group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lag {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: u32,
    /// The offset of the next record that the group reads.
    pub committed_offset: u64,
    /// The offset after the last record.
    pub high_watermark: u64,
    /// Records in between.
    pub lag_records: u64,
    /// Age of the oldest record in between, in ms; 0 if there is none.
    pub lag_ms: u64,
}

impl Lag {
    /// The records behind an offset, whatever their age.
    pub(crate) fn without_age(
        topic: &TopicName,
        partition: &Partition,
        committed_offset: u64,
    ) -> Self {
        let high_watermark = partition.high_watermark();
        let from = committed_offset.max(partition.start_offset());
        Self {
            topic: topic.clone(),
            partition: partition.index(),
            committed_offset,
            high_watermark,
            lag_records: high_watermark.saturating_sub(from),
            lag_ms: 0,
        }
    }

    /// Where the oldest of the records in between is, or was; `None` if there are none.
    pub(crate) fn oldest_offset(&self) -> Option<u64> {
        (self.lag_records > 0).then(|| self.high_watermark.saturating_sub(self.lag_records))
    }
}

/// The consumer groups of a data directory. Clones share it.
#[derive(Clone)]
pub struct Groups {
    store: Store,
}

/// A lane of a task, and the offsets beyond the committed one that it has processed.
pub type LaneGaps = (u32, Vec<Range<u64>>);

impl Groups {
    /// The groups of an open data directory.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// All groups with their positions, by name.
    pub fn list(&self) -> Result<BTreeMap<String, Vec<GroupPosition>>, Error> {
        let mut groups: BTreeMap<String, Vec<GroupPosition>> = BTreeMap::new();
        self.visit(&kind_prefix(KeyKind::GroupOffset), |group, position| {
            groups.entry(group.to_owned()).or_default().push(position);
        })?;
        Ok(groups)
    }

    /// The positions of one group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]
    pub fn positions(&self, group: &GroupName) -> Result<Vec<GroupPosition>, Error> {
        let mut positions = Vec::new();
        self.visit(
            &group_offset::group_prefix(group.as_str()),
            |_, position| positions.push(position),
        )?;
        if positions.is_empty() {
            return Err(Error::UnknownGroup(group.clone()));
        }
        Ok(positions)
    }

    /// The group's committed offset in a partition; `None` if it has not committed any.
    pub fn committed(
        &self,
        group: &GroupName,
        partition: &Partition,
    ) -> Result<Option<CommittedOffset>, Error> {
        let key = group_offset::key(group.as_str(), partition.topic_id(), partition.index());
        let Some(value) = self.store.get(KeyKind::GroupOffset, &key)? else {
            return Ok(None);
        };
        let committed = group_offset::parse_value(&value).ok_or_else(|| damaged(group.as_str()))?;
        Ok(Some(committed))
    }

    /// What a pipeline has processed of a partition beyond the group's committed offset, by lane.
    pub fn gaps(&self, group: &GroupName, partition: &Partition) -> Result<Vec<LaneGaps>, Error> {
        let (topic_id, index) = (partition.topic_id(), partition.index());
        let from = group_gaps::partition_prefix(group.as_str(), topic_id, index);
        let to = prefix_end(&from);
        let mut gaps = Vec::new();
        self.store
            .scan(KeyKind::GroupGaps, &from, to.as_deref(), |key, value| {
                let parsed = group_gaps::parse_key(key).zip(group_gaps::parse_value(value));
                let ((_, _, _, lane), ranges) = parsed.ok_or_else(|| damaged(group.as_str()))?;
                gaps.push((lane, ranges));
                Ok(Scan::Continue)
            })?;
        Ok(gaps)
    }

    /// Commits offsets of a group, all at once, and waits for the acknowledgement.
    ///
    /// # Errors
    /// [`storage::Error::PartitionDeleted`]; then none is committed.
    pub async fn commit<'a>(
        &self,
        group: &GroupName,
        offsets: impl IntoIterator<Item = (&'a Partition, u64)>,
    ) -> Result<(), Error> {
        let committed_at_ms = self.store.clock().now_ms();
        let mut commit = Commit::new();
        for (partition, offset) in offsets {
            if partition.is_deleted() {
                return Err(storage::Error::deleted(partition).into());
            }
            let committed = CommittedOffset {
                offset,
                committed_at_ms,
            };
            commit.commit_offset(
                group.as_str(),
                partition.topic_id(),
                partition.index(),
                committed,
            );
            // What a pipeline has processed beyond its offset is of another position. There is hardly ever
            // any, and a range that is deleted costs every reader.
            if !self.gaps(group, partition)?.is_empty() {
                commit.forget_gaps(group.as_str(), partition.topic_id(), partition.index());
            }
        }
        self.store.commit(commit).await?;
        Ok(())
    }

    /// Forgets a group: all its committed offsets.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]
    pub async fn delete(&self, group: &GroupName) -> Result<(), Error> {
        let mut commit = Commit::new();
        for position in self.positions(group)? {
            commit.delete_offset(group.as_str(), position.topic_id, position.partition);
        }
        self.store.commit(commit).await?;
        Ok(())
    }

    /// The lag of an offset: records up to the high watermark, and the age of the oldest of them.
    pub fn lag(
        &self,
        topic: &TopicName,
        partition: &Partition,
        committed_offset: u64,
    ) -> Result<Lag, Error> {
        let lag = Lag::without_age(topic, partition, committed_offset);
        let oldest_ms = match lag.oldest_offset() {
            Some(offset) => self.timestamp_at(partition, offset)?,
            None => None,
        };
        let now_ms = self.store.clock().now_ms();
        Ok(Lag {
            lag_ms: oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms)),
            ..lag
        })
    }

    /// The timestamp of the first record from an offset on. Of the record, since a batch's header
    /// says when its first record was made (if the cleaner has not put something else there).
    pub(crate) fn timestamp_at(
        &self,
        partition: &Partition,
        offset: u64,
    ) -> Result<Option<u64>, Error> {
        let Some(batch) = self.store.batch_at(partition, offset)? else {
            return Ok(None);
        };
        for record in batch.records()?.iter() {
            let record = record?;
            if record.offset >= offset {
                return Ok(Some(record.timestamp_ms));
            }
        }
        Ok(None)
    }

    fn visit(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&str, GroupPosition),
    ) -> Result<(), Error> {
        self.store
            .scan(KeyKind::GroupOffset, prefix, None, |key, value| {
                if !key.starts_with(prefix) {
                    return Ok(Scan::Stop);
                }
                let (group, topic_id, partition) =
                    group_offset::parse_key(key).ok_or_else(|| damaged("a group"))?;
                let committed = group_offset::parse_value(value).ok_or_else(|| damaged(group))?;
                visit(
                    group,
                    GroupPosition {
                        topic_id,
                        partition,
                        committed,
                    },
                );
                Ok(Scan::Continue)
            })?;
        Ok(())
    }
}

fn damaged(group: &str) -> storage::Error {
    storage::Error::Damaged {
        what: format!("an offset of group {group}"),
        reason: "malformed".to_owned(),
    }
}

#[cfg(test)]
mod tests;
