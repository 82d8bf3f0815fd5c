//! The queues of a data directory: create, find, change, delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Error, Queue, QueueConfig};
use crate::model::{QueueName, Target, suggest};
use crate::storage::schema::partition_head::{self, PartitionHead};
use crate::storage::schema::{KeyKind, queue as queue_key};
use crate::storage::{self, Commit, Partition, Scan, Store};

/// The set of queues of a data directory. Clones share it.
///
/// A data directory has one: open it once, clone it, and keep it as long as any of its queues, which
/// find their dead-letter queue through it.
#[derive(Clone)]
pub struct Queues {
    store: Store,
    registry: Arc<Registry>,
    /// Queues are created, changed and deleted one after the other.
    pub(super) changes: Arc<Mutex<()>>,
}

/// Queues by name.
#[derive(Default)]
pub(super) struct Registry(RwLock<BTreeMap<QueueName, Queue>>);

impl Registry {
    pub(super) fn find(&self, name: &QueueName) -> Option<Queue> {
        self.0.read().get(name).cloned()
    }
}

/// What is stored of a queue. A deleted one's entry stays as a mark, so that its id is not reused.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredQueue {
    pub(crate) name: QueueName,
    pub(crate) config: QueueConfig,
    #[serde(default)]
    pub(crate) deleted: bool,
}

impl Queues {
    /// Reads the queues of an open data directory. Their messages are read when they are used.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub fn open(store: Store) -> Result<Self, Error> {
        let mut stored_queues = Vec::new();
        store.scan_kind(KeyKind::Queue, |key, value| {
            let id =
                queue_key::parse_key(key).ok_or_else(|| damaged("a queue", "malformed key"))?;
            let stored: StoredQueue = serde_json::from_slice(value)
                .map_err(|error| damaged(&format!("queue id {id}"), &error.to_string()))?;
            stored_queues.push((id, stored));
            Ok(Scan::Continue)
        })?;
        let queues = Self {
            store,
            registry: Arc::default(),
            changes: Arc::default(),
        };
        for (id, stored) in stored_queues {
            // In order of the ids: of several queues of a name, the last is the one.
            if stored.deleted {
                queues.registry.0.write().remove(&stored.name);
                continue;
            }
            let head = queues.stored_head(id)?;
            queues.register(id, stored.name, stored.config, head);
        }
        Ok(queues)
    }

    fn stored_head(&self, id: u32) -> Result<PartitionHead, Error> {
        let value = self
            .store
            .get(KeyKind::PartitionHead, &partition_head::key(id, 0))?;
        let Some(value) = value else {
            return Ok(PartitionHead::default());
        };
        partition_head::parse_value(&value)
            .ok_or_else(|| damaged("a partition head", "malformed").into())
    }

    /// Makes everybody see a queue.
    pub(super) fn register(
        &self,
        id: u32,
        name: QueueName,
        config: QueueConfig,
        head: PartitionHead,
    ) {
        let target = Target::Queue(name.clone());
        let partition = Arc::new(Partition::new(target, id, 0, head));
        let registry = Arc::downgrade(&self.registry);
        let queue = Queue::new(
            self.store.clone(),
            registry,
            name.clone(),
            config,
            partition,
        );
        self.registry.0.write().insert(name, queue);
    }

    /// The data directory.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All queues, by name.
    pub fn queues(&self) -> Vec<Queue> {
        self.registry.0.read().values().cloned().collect()
    }

    /// A queue.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], with a similar name if there is one.
    pub fn queue(&self, name: &QueueName) -> Result<Queue, Error> {
        self.registry.find(name).ok_or_else(|| {
            let queues = self.registry.0.read();
            let known = queues.keys().map(QueueName::as_str);
            let hint = match suggest(name.as_str(), known) {
                Some(known) => format!("; did you mean `{known}`?"),
                None => format!("; create it with `millstream queue create {name}`"),
            };
            Error::UnknownQueue {
                name: name.clone(),
                hint,
            }
        })
    }

    /// Creates a queue, and its dead-letter queue with the default settings if there is none.
    ///
    /// # Errors
    /// [`Error::QueueExists`], [`Error::InvalidConfig`], [`Error::TooManyQueues`], [`Error::Storage`]
    pub async fn create_queue(
        &self,
        name: &QueueName,
        config: QueueConfig,
    ) -> Result<Queue, Error> {
        let mut planned = self.begin_plan().await;
        if self.find(name).is_some() {
            return Err(Error::QueueExists { name: name.clone() });
        }
        planned.add([(name.clone(), config)], [])?;
        planned.store().await?;
        self.queue(name)
    }

    /// Creates a queue, or gives an existing one these settings. Its dead-letter queue is created with
    /// the default settings if there is none.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], [`Error::TooManyQueues`], [`Error::Storage`]
    pub async fn ensure_queue(
        &self,
        name: &QueueName,
        config: QueueConfig,
    ) -> Result<Queue, Error> {
        let planned = self.plan([(name.clone(), config)], []).await?;
        planned.store().await?;
        self.queue(name)
    }

    pub(super) fn find(&self, name: &QueueName) -> Option<Queue> {
        self.registry.find(name)
    }

    /// How many queues there are.
    pub(super) fn queue_count(&self) -> usize {
        self.registry.0.read().len()
    }

    /// Deletes a queue with all its messages. Whether somebody else than a queue uses it is not asked.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], [`Error::TakesDeadLetters`], [`Error::Storage`]
    pub async fn delete_queue(&self, name: &QueueName) -> Result<(), Error> {
        let queue = self.remove_queue(name).await?;
        self.free_removed(&queue).await
    }

    /// Frees the room that a removed queue takes on the disk.
    ///
    /// # Errors
    /// [`Error::Storage`]
    pub async fn free_removed(&self, queue: &Queue) -> Result<(), Error> {
        let store = self.store.clone();
        let partition = Arc::clone(queue.partition());
        let compacted =
            tokio::task::spawn_blocking(move || store.compact_partition(&partition, 0..u64::MAX));
        compacted.await.map_err(|_| storage::Error::Closed)?;
        Ok(())
    }

    /// As [`delete_queue`](Self::delete_queue), but the room that it takes on the disk is still to be freed: that can take
    /// long.
    ///
    /// # Errors
    /// [`Error::UnknownQueue`], [`Error::TakesDeadLetters`], [`Error::Storage`]
    pub async fn remove_queue(&self, name: &QueueName) -> Result<Queue, Error> {
        let _one_at_a_time = self.changes.lock().await;
        let queue = self.queue(name)?;
        let user = self
            .queues()
            .into_iter()
            .find(|user| user.config().dead_letter.as_ref() == Some(name));
        if let Some(user) = user {
            return Err(Error::TakesDeadLetters {
                name: name.clone(),
                user: user.name().clone(),
            });
        }
        let mut commit = Commit::new();
        put(&mut commit, queue.id(), name, &queue.config(), true)?;
        commit.delete_partition(queue.partition());
        commit.delete_queue_chunks(queue.id(), 0, u64::MAX);
        commit.delete_deduplication(queue.id(), 0, u64::MAX);
        self.store.commit(commit).await?;
        self.registry.0.write().remove(name);
        Ok(queue)
    }
}

/// Adds a queue's entry to a commit.
pub(super) fn put(
    commit: &mut Commit,
    id: u32,
    name: &QueueName,
    config: &QueueConfig,
    deleted: bool,
) -> Result<(), Error> {
    let stored = StoredQueue {
        name: name.clone(),
        config: config.clone(),
        deleted,
    };
    let value =
        serde_json::to_vec(&stored).map_err(|error| damaged("a queue", &error.to_string()))?;
    commit.put_queue(id, value);
    Ok(())
}

fn damaged(what: &str, reason: &str) -> storage::Error {
    storage::Error::Damaged {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}
