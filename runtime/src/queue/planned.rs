//! Several queues at a time: what is to become of all of them is checked before anything of it is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::queues::put;
use super::{Error, Queue, QueueConfig, Queues};
use crate::model::{QueueName, limits};
use crate::storage::Commit;
use crate::storage::schema::partition_head::PartitionHead;

/// Queues to create and settings to change, checked and not stored yet. Nobody else creates, changes or deletes a
/// queue as long as this exists; dropping it leaves everything as it is.
pub struct PlannedQueues {
    queues: Queues,
    new: BTreeMap<QueueName, QueueConfig>,
    changed: BTreeMap<QueueName, (Queue, QueueConfig)>,
    _one_at_a_time: OwnedMutexGuard<()>,
}

/// Planned queues whose entries a commit holds: they are there once it has happened.
pub struct CommittedQueues {
    planned: PlannedQueues,
    /// Of the new ones, in the order of their names.
    ids: Vec<u32>,
}

impl Queues {
    /// Plans to create queues, or to give existing ones these settings; no name comes twice. Those that take dead
    /// letters, and those of `needed`, are created with the default settings if there are none. Waits until nobody else
    /// plans or changes a queue.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], [`Error::TooManyQueues`]
    pub async fn plan(
        &self,
        wanted: impl IntoIterator<Item = (QueueName, QueueConfig)>,
        needed: impl IntoIterator<Item = QueueName>,
    ) -> Result<PlannedQueues, Error> {
        let mut planned = self.begin_plan().await;
        planned.add(wanted, needed)?;
        Ok(planned)
    }

    /// A plan of nothing, once nobody else plans or changes a queue.
    pub(super) async fn begin_plan(&self) -> PlannedQueues {
        PlannedQueues {
            queues: self.clone(),
            new: BTreeMap::new(),
            changed: BTreeMap::new(),
            _one_at_a_time: Arc::clone(&self.changes).lock_owned().await,
        }
    }
}

impl PlannedQueues {
    /// As [`Queues::plan`].
    pub(super) fn add(
        &mut self,
        wanted: impl IntoIterator<Item = (QueueName, QueueConfig)>,
        needed: impl IntoIterator<Item = QueueName>,
    ) -> Result<(), Error> {
        for (name, config) in wanted {
            config.validate(&name)?;
            match self.queues.find(&name) {
                Some(queue) if *queue.config() == config => {}
                Some(queue) => _ = self.changed.insert(name, (queue, config)),
                None => _ = self.new.insert(name, config),
            }
        }
        // Only now: the queue that takes the dead letters of one may be wanted behind it.
        let dead_letters = self
            .planned()
            .filter_map(|(_, config)| config.dead_letter.clone());
        let needed: Vec<_> = dead_letters.chain(needed).collect();
        for name in needed {
            if self.queues.find(&name).is_none() {
                self.new.entry(name).or_default();
            }
        }
        if !self.new.is_empty()
            && self.queues.queue_count() + self.new.len() > limits::MAX_QUEUES as usize
        {
            return Err(Error::TooManyQueues {
                limit: limits::MAX_QUEUES,
            });
        }
        self.planned()
            .try_for_each(|(name, _)| self.check_dead_letters(name))
    }

    fn planned(&self) -> impl Iterator<Item = (&QueueName, &QueueConfig)> {
        let changed = self.changed.iter();
        let changed = changed.map(|(name, (_, config))| (name, config));
        self.new.iter().chain(changed)
    }

    /// Checks that dead letters do not go round in a circle: two full queues that drop the oldest would pass them to
    /// and fro.
    fn check_dead_letters(&self, name: &QueueName) -> Result<(), Error> {
        let mut seen = BTreeSet::from([name.clone()]);
        let mut next = self.dead_letter_of(name);
        while let Some(target) = next {
            if !seen.insert(target.clone()) {
                return Err(Error::InvalidConfig {
                    name: name.clone(),
                    reason: format!(
                        "dead letters would go round in a circle, by way of `{target}`"
                    ),
                });
            }
            next = self.dead_letter_of(&target);
        }
        Ok(())
    }

    /// The queue that is to take the dead letters of another one.
    fn dead_letter_of(&self, name: &QueueName) -> Option<QueueName> {
        let changed = || Some(&self.changed.get(name)?.1);
        match self.new.get(name).or_else(changed) {
            Some(config) => config.dead_letter.clone(),
            None => self.queues.find(name)?.config().dead_letter.clone(),
        }
    }

    /// Adds what is planned to a commit.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn put_in(self, commit: &mut Commit) -> Result<CommittedQueues, Error> {
        let mut ids = Vec::new();
        for (name, config) in &self.new {
            let id = self.queues.store().allocate_id();
            put(commit, id, name, config, false)?;
            ids.push(id);
        }
        for (queue, config) in self.changed.values() {
            put(commit, queue.id(), queue.name(), config, false)?;
        }
        Ok(CommittedQueues { planned: self, ids })
    }

    /// Stores what is planned, in one commit.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub(super) async fn store(self) -> Result<(), Error> {
        let store = self.queues.store().clone();
        let mut commit = Commit::new();
        let committed = self.put_in(&mut commit)?;
        if !commit.is_empty() {
            store.commit(commit).await?;
        }
        committed.publish();
        Ok(())
    }
}

impl CommittedQueues {
    /// Makes everybody see them; to be called when the commit has happened.
    pub fn publish(self) {
        let PlannedQueues {
            queues,
            new,
            changed,
            ..
        } = self.planned;
        for ((name, config), id) in new.into_iter().zip(self.ids) {
            queues.register(id, name, config, PartitionHead::default());
        }
        for (queue, config) in changed.into_values() {
            queue.set_config(config);
        }
    }
}
