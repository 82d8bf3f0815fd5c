//! The topics of a data directory: create, find, change, delete; and offsets by time.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::maintenance::{Upkeep, blocking};
use super::topic::{Topic, TopicConfig};
use super::{Cleanup, Error};
use crate::model::{Target, TopicName, suggest};
use crate::storage::schema::partition_head;
use crate::storage::schema::{KeyKind, topic as topic_key};
use crate::storage::{self, Commit, Partition, Scan, Store};

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first offset that can still be read.
    Earliest,
    /// The high watermark: only what comes from now on.
    Latest,
    /// This offset; moved into the range that the partition holds.
    Offset(u64),
    /// The first record with this timestamp (ms since the epoch) or a later one.
    TimeMs(u64),
}

/// The set of topics of a data directory. Clones share it.
///
/// A data directory has one log: open it once and clone it, since partitions live in it.
#[derive(Clone)]
pub struct Log {
    store: Store,
    topics: Arc<RwLock<Topics>>,
    /// Topics are created, changed and deleted one after the other.
    pub(super) changes: Arc<Mutex<()>>,
    pub(super) upkeep: Upkeep,
}

#[derive(Default)]
struct Topics {
    by_name: BTreeMap<TopicName, Topic>,
}

/// What is stored of a topic. A deleted topic's entry stays as a mark, so that its id is not reused.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredTopic {
    pub(crate) name: TopicName,
    pub(crate) config: TopicConfig,
    #[serde(default)]
    pub(crate) deleted: bool,
}

impl Log {
    /// Reads the topics of an open data directory.
    pub fn open(store: Store) -> Result<Self, Error> {
        let mut heads = BTreeMap::new();
        store.scan_kind(KeyKind::PartitionHead, |key, value| {
            let parsed = partition_head::parse_key(key).zip(partition_head::parse_value(value));
            let (at, head) = parsed.ok_or_else(|| damaged("a partition head", "malformed"))?;
            heads.insert(at, head);
            Ok(Scan::Continue)
        })?;
        let mut topics = Topics::default();
        store.scan_kind(KeyKind::Topic, |key, value| {
            let id =
                topic_key::parse_key(key).ok_or_else(|| damaged("a topic", "malformed key"))?;
            let stored: StoredTopic = serde_json::from_slice(value)
                .map_err(|error| damaged(&format!("topic id {id}"), &error.to_string()))?;
            // In order of the ids: of several topics of a name, the last is the one.
            if stored.deleted {
                topics.by_name.remove(&stored.name);
            } else {
                let target = Target::Topic(stored.name.clone());
                let partitions = (0..stored.config.partitions)
                    .map(|index| {
                        let head = heads.get(&(id, index)).copied().unwrap_or_default();
                        Arc::new(Partition::new(target.clone(), id, index, head))
                    })
                    .collect();
                let topic = Topic::new(id, stored.name.clone(), stored.config, partitions);
                topics.by_name.insert(stored.name, topic);
            }
            Ok(Scan::Continue)
        })?;
        Ok(Self {
            store,
            topics: Arc::new(RwLock::new(topics)),
            changes: Arc::default(),
            upkeep: Upkeep::default(),
        })
    }

    /// The data directory.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Topic> {
        self.topics.read().by_name.values().cloned().collect()
    }

    /// A topic.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`], with a similar name if there is one.
    pub fn topic(&self, name: &TopicName) -> Result<Topic, Error> {
        let topics = self.topics.read();
        topics.by_name.get(name).cloned().ok_or_else(|| {
            let known = topics.by_name.keys().map(TopicName::as_str);
            let hint = match suggest(name.as_str(), known) {
                Some(known) => format!("; did you mean `{known}`?"),
                None => format!("; create it with `millstream topic create {name}`"),
            };
            Error::UnknownTopic {
                name: name.clone(),
                hint,
            }
        })
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`Error::TopicExists`], [`Error::InvalidConfig`], [`Error::TooManyTopics`].
    pub async fn create_topic(
        &self,
        name: &TopicName,
        config: TopicConfig,
    ) -> Result<Topic, Error> {
        let mut planned = self.plan().await;
        planned.create(name, config)?;
        planned.store().await?;
        self.topic(name)
    }

    /// Creates a topic, or changes the settings of an existing one. `settings` makes them from
    /// those that it has, if it exists; nothing changes in between.
    ///
    /// # Errors
    /// What [`PlannedTopics::ensure`](super::PlannedTopics::ensure) finds wrong with it.
    pub async fn ensure_topic(
        &self,
        name: &TopicName,
        settings: impl FnOnce(Option<&TopicConfig>) -> Result<TopicConfig, Error>,
    ) -> Result<Topic, Error> {
        let mut planned = self.plan().await;
        planned.ensure(name, settings)?;
        planned.store().await?;
        self.topic(name)
    }

    /// Changes the settings of a topic; the number of partitions must stay. `change` gets those that it
    /// has; nothing else changes them in between.
    ///
    /// # Errors
    /// What `change` returns; [`Error::PartitionCount`], [`Error::InvalidConfig`];
    /// [`Error::UnknownTopic`] if it has been deleted.
    pub async fn alter_topic<E: From<Error>>(
        &self,
        topic: &Topic,
        change: impl FnOnce(&mut TopicConfig) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut planned = self.plan().await;
        let mut config = topic.config();
        change(&mut config)?;
        planned.change(topic, config)?;
        Ok(planned.store().await?)
    }

    /// How many topics there are.
    pub(super) fn topic_count(&self) -> usize {
        self.topics.read().by_name.len()
    }

    /// Makes everybody see a topic.
    pub(super) fn insert(&self, topic: Topic) {
        let mut topics = self.topics.write();
        topics.by_name.insert(topic.name().clone(), topic);
    }

    /// Deletes a topic with all its records. Group offsets in it become meaningless and go with it. Whether somebody uses
    /// it is not asked.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]
    pub async fn delete_topic(&self, name: &TopicName) -> Result<(), Error> {
        let topic = self.remove_topic(name).await?;
        self.free_removed(&topic).await
    }

    /// As [`delete_topic`](Self::delete_topic), but the room that it takes on the disk is still to be freed: that can take
    /// long.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`]
    pub async fn remove_topic(&self, name: &TopicName) -> Result<Topic, Error> {
        let _one_at_a_time = self.changes.lock().await;
        let topic = self.topic(name)?;
        let mut commit = Commit::new();
        let stored = StoredTopic {
            name: name.clone(),
            config: topic.config(),
            deleted: true,
        };
        commit.put_topic(topic.id(), &stored)?;
        for partition in topic.partitions() {
            commit.delete_partition(partition);
        }
        self.delete_offsets(&topic, &mut commit)?;
        self.store.commit(commit).await?;
        self.topics.write().by_name.remove(name);
        // What was committed between the look above and the deletion; nothing comes after it.
        let mut commit = Commit::new();
        self.delete_offsets(&topic, &mut commit)?;
        self.store.commit(commit).await?;
        Ok(topic)
    }

    /// Frees the room that a removed topic takes on the disk.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub async fn free_removed(&self, topic: &Topic) -> Result<(), Error> {
        let (store, id) = (self.store.clone(), topic.id());
        blocking(move || store.compact_topic(id)).await
    }

    /// Removes the offsets that all groups have in a topic.
    fn delete_offsets(&self, topic: &Topic, commit: &mut Commit) -> Result<(), Error> {
        self.store.scan_kind(KeyKind::GroupOffset, |key, _| {
            if let Some((group, topic_id, partition)) =
                storage::schema::group_offset::parse_key(key)
                && topic_id == topic.id()
            {
                commit.delete_offset(group, topic_id, partition);
            }
            Ok(Scan::Continue)
        })?;
        Ok(())
    }

    /// The offset that a place stands for.
    pub fn resolve_offset(&self, partition: &Partition, spec: OffsetSpec) -> Result<u64, Error> {
        let (start, end) = (partition.start_offset(), partition.high_watermark());
        match spec {
            OffsetSpec::Earliest => Ok(start),
            OffsetSpec::Latest => Ok(end),
            OffsetSpec::Offset(offset) => Ok(offset.clamp(start, end.max(start))),
            OffsetSpec::TimeMs(time_ms) => self.offset_at_time(partition, time_ms),
        }
    }

    /// Where records with the timestamp `time_ms` or a later one begin; the high watermark if there
    /// are none.
    ///
    /// A binary search over the batches' greatest timestamps, so it reads about 20 headers of a
    /// million. As long as no batch's greatest timestamp is below that of a batch before it, the
    /// answer is the first record that is not earlier than `time_ms`, as in Kafka. Where they fall,
    /// finding that would take a look at every batch, or an index; then the answer is a place where
    /// the timestamps pass `time_ms`: its record is not earlier, it is the first such of its batch,
    /// and all records of the batch before are earlier. Records that are not earlier may lie before
    /// that batch. (At the high watermark: all records of the last batch are earlier.)
    pub fn offset_at_time(&self, partition: &Partition, time_ms: u64) -> Result<u64, Error> {
        let end = partition.high_watermark();
        let (mut low, mut high) = (partition.start_offset(), end);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(batch) = self.store.batch_at(partition, middle)? else {
                high = middle;
                continue;
            };
            if batch.max_timestamp_ms() >= time_ms {
                // The batch may start before `middle`, and even before `low`.
                high = middle.min(batch.base_offset().max(low));
            } else {
                low = batch.next_offset();
            }
        }
        let Some(batch) = self.store.batch_at(partition, low)? else {
            return Ok(end);
        };
        for record in batch.records()?.iter() {
            let record = record?;
            if record.timestamp_ms >= time_ms && record.offset >= low {
                return Ok(record.offset);
            }
        }
        Ok(batch.next_offset().min(end))
    }

    /// Whether a topic keeps the newest record of each key only.
    pub(super) fn is_compacted(topic: &Topic) -> bool {
        topic.config().cleanup == Cleanup::Compact
    }
}

impl Commit {
    pub(super) fn put_topic(&mut self, id: u32, stored: &StoredTopic) -> Result<(), Error> {
        let value =
            serde_json::to_vec(stored).map_err(|error| damaged("a topic", &error.to_string()))?;
        self.put(KeyKind::Topic, topic_key::key(id), value.into());
        Ok(())
    }
}

fn damaged(what: &str, reason: &str) -> storage::Error {
    storage::Error::Damaged {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}
