//! Several topics at a time: what is to become of all of them is checked before anything of it is stored.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::topics::StoredTopic;
use super::{Error, Log, Topic, TopicConfig};
use crate::model::{Target, TopicName, limits};
use crate::storage::schema::partition_head::PartitionHead;
use crate::storage::{Commit, Partition};

/// Topics to create and settings to change, checked and not stored yet. Nobody else creates, changes or deletes a
/// topic as long as this exists; dropping it leaves everything as it is.
pub struct PlannedTopics {
    log: Log,
    new: Vec<(TopicName, TopicConfig)>,
    changed: Vec<(Topic, TopicConfig)>,
    _one_at_a_time: OwnedMutexGuard<()>,
}

/// Planned topics whose entries a commit holds: they are there once it has happened.
pub struct CommittedTopics {
    planned: PlannedTopics,
    created: Vec<Topic>,
}

impl Log {
    /// Begins to plan, once nobody else does or changes a topic.
    pub async fn plan(&self) -> PlannedTopics {
        PlannedTopics {
            log: self.clone(),
            new: Vec::new(),
            changed: Vec::new(),
            _one_at_a_time: Arc::clone(&self.changes).lock_owned().await,
        }
    }
}

impl PlannedTopics {
    /// Plans to create a topic, or to change the settings of an existing one. `settings` makes them from those that it
    /// has, if it exists. A name may come once.
    ///
    /// # Errors
    /// What `settings` returns; [`Error::InvalidConfig`], [`Error::TooManyTopics`]; [`Error::PartitionCount`] if it
    /// exists with another number of partitions. What was planned before stays planned.
    pub fn ensure(
        &mut self,
        name: &TopicName,
        settings: impl FnOnce(Option<&TopicConfig>) -> Result<TopicConfig, Error>,
    ) -> Result<(), Error> {
        match self.log.topic(name) {
            Err(_) => self.create(name, settings(None)?),
            Ok(topic) => {
                let config = settings(Some(&topic.config()))?;
                self.change(&topic, config)
            }
        }
    }

    /// Plans to create a topic.
    ///
    /// # Errors
    /// [`Error::TopicExists`], [`Error::InvalidConfig`], [`Error::TooManyTopics`].
    pub(super) fn create(&mut self, name: &TopicName, config: TopicConfig) -> Result<(), Error> {
        config.validate(name)?;
        if self.log.topic(name).is_ok() {
            return Err(Error::TopicExists { name: name.clone() });
        }
        if self.log.topic_count() + self.new.len() >= limits::MAX_TOPICS as usize {
            return Err(Error::TooManyTopics {
                limit: limits::MAX_TOPICS,
            });
        }
        self.new.push((name.clone(), config));
        Ok(())
    }

    /// Plans to change the settings of a topic.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], [`Error::PartitionCount`]; [`Error::UnknownTopic`] if it has been deleted.
    pub(super) fn change(&mut self, topic: &Topic, config: TopicConfig) -> Result<(), Error> {
        config.validate(topic.name())?;
        // Its entry must not be written again once it is deleted, even if another topic has its name.
        if self.log.topic(topic.name())?.id() != topic.id() {
            return Err(Error::UnknownTopic {
                name: topic.name().clone(),
                hint: ": it has been deleted and created anew".to_owned(),
            });
        }
        let existing = topic.config();
        if existing.partitions != config.partitions {
            return Err(Error::PartitionCount {
                name: topic.name().clone(),
                existing: existing.partitions,
                wanted: config.partitions,
            });
        }
        if existing != config {
            self.changed.push((topic.clone(), config));
        }
        Ok(())
    }

    /// Adds what is planned to a commit.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn put_in(self, commit: &mut Commit) -> Result<CommittedTopics, Error> {
        let mut created = Vec::new();
        for (name, config) in &self.new {
            let id = self.log.store().allocate_id();
            commit.put_topic(id, &stored(name, config))?;
            let target = Target::Topic(name.clone());
            let partitions = (0..config.partitions)
                .map(|index| Partition::new(target.clone(), id, index, PartitionHead::default()));
            let partitions = partitions.map(Arc::new).collect();
            created.push(Topic::new(id, name.clone(), config.clone(), partitions));
        }
        for (topic, config) in &self.changed {
            commit.put_topic(topic.id(), &stored(topic.name(), config))?;
        }
        Ok(CommittedTopics {
            planned: self,
            created,
        })
    }

    /// Stores what is planned, in one commit.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub async fn store(self) -> Result<(), Error> {
        let store = self.log.store().clone();
        let mut commit = Commit::new();
        let committed = self.put_in(&mut commit)?;
        if !commit.is_empty() {
            store.commit(commit).await?;
        }
        committed.publish();
        Ok(())
    }
}

impl CommittedTopics {
    /// Makes everybody see them; to be called when the commit has happened.
    pub fn publish(self) {
        for topic in self.created {
            self.planned.log.insert(topic);
        }
        for (topic, config) in self.planned.changed {
            topic.set_config(config);
        }
    }
}

fn stored(name: &TopicName, config: &TopicConfig) -> StoredTopic {
    StoredTopic {
        name: name.clone(),
        config: config.clone(),
        deleted: false,
    }
}
