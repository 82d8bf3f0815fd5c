//! Enqueuing: messages are encoded as batches and added to a commit.

use std::sync::Arc;

use super::attributes::{Attributes, has_times, with_times};
use super::shared::Queue;
use super::{Error, MaxLengthPolicy, QueueConfig};
use crate::model::{BatchBuilder, Compression, EncodedBatch, HeadersBuf, HeadersRef, Record};
use crate::storage::Commit;

/// Bytes after which a batch is closed: what has to be read to deliver one message of it.
const BATCH_BYTES: usize = 60 << 10;

/// What became of messages that were enqueued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enqueued {
    /// The offset of the first message; those that are no duplicates follow one after the other.
    pub base_offset: Option<u64>,
    /// Messages that are stored.
    pub stored_count: u64,
    /// Messages that were dropped at once, by a queue that drops its oldest and is too short for all of them: the first
    /// ones of those that are no duplicates.
    pub dropped_count: u64,
    /// Which of the messages, counted from 0 in the order in which they were pushed, were not stored,
    /// since one with their deduplication id was enqueued within the window.
    pub duplicates: Vec<u64>,
}

impl Enqueued {
    /// Messages that the queue has taken, what it does not keep included.
    pub fn accepted_count(&self) -> u64 {
        self.stored_count + self.dropped_count
    }
}

/// Messages to enqueue together. Deduplication ids are reserved when a message is pushed, and free
/// again if the batch is dropped, or the commit that it was added to does not happen.
pub struct MessageBatch {
    queue: Queue,
    config: Arc<QueueConfig>,
    builder: BatchBuilder,
    closed: Vec<EncodedBatch>,
    headers: HeadersBuf,
    reserved_ids: Vec<u128>,
    id_owner: Option<u64>,
    pushed_count: u64,
    stored_count: u64,
    duplicates: Vec<u64>,
    bytes: usize,
    /// Whether a full queue may not drop any of them.
    keeps_all: bool,
}

impl MessageBatch {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            config: queue.config(),
            queue,
            builder: BatchBuilder::new(Compression::None),
            closed: Vec::new(),
            headers: HeadersBuf::new(),
            reserved_ids: Vec::new(),
            id_owner: None,
            pushed_count: 0,
            stored_count: 0,
            duplicates: Vec::new(),
            bytes: 0,
            keeps_all: false,
        }
    }

    /// Adds a message; `false` if it is a duplicate, which is not enqueued. Its attributes are headers
    /// ([`Attributes`]). A dead letter that somebody puts into a queue again is no duplicate of anything, and waits and
    /// expires as the queue says, or as whoever enqueues it says with a delay or a time to live.
    ///
    /// # Errors
    /// [`Error::Attribute`]; [`Error::Undecided`]; [`Error::Batch`] for a message beyond the limits.
    /// What was pushed before stays.
    pub fn push(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<bool, Error> {
        let attributes = Attributes::parse(headers)?.of_kept();
        self.push_with(timestamp_ms, key, value, headers, &attributes)
    }

    /// As [`push`](Self::push), of what a pipeline makes of a record: what its headers say counts, also if they say that it
    /// is a dead letter.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub(crate) fn push_output(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<bool, Error> {
        let attributes = Attributes::parse(headers)?;
        self.push_with(timestamp_ms, key, value, headers, &attributes)
    }

    fn push_with(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
        attributes: &Attributes<'_>,
    ) -> Result<bool, Error> {
        let times = self.times_of(attributes);
        let mut id = None;
        let has_window = self.config.deduplication_window_ms > 0;
        if let Some(given) = attributes.deduplication_id.filter(|_| has_window) {
            let owner = self.id_owner.get_or_insert_with(|| self.queue.id_owner());
            id = self.queue.reserve_id(given, *owner)?;
            if id.is_none() {
                self.duplicates.push(self.pushed_count);
                self.pushed_count += 1;
                return Ok(false);
            }
        }
        let pushed = self.encode(timestamp_ms, key, value, headers, times);
        match (&pushed, id) {
            (Ok(()), Some(id)) => self.reserved_ids.push(id),
            (Err(_), Some(id)) => self.queue.free_ids(&[id]),
            (_, None) => {}
        }
        pushed.map(|()| true)
    }

    /// As [`push`](Self::push), but waits until it is known whether a message with the same deduplication id is
    /// enqueued. A batch with ids of its own does not wait, since the other may wait for one of those.
    ///
    /// # Errors
    /// As [`push`](Self::push); [`Error::Undecided`] only if the batch has reserved an id.
    pub async fn push_when_decided(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<bool, Error> {
        let queue = self.queue.clone();
        loop {
            let changed = queue.state.changed.notified();
            tokio::pin!(changed);
            // Registered before the attempt: a decision in between is not missed.
            changed.as_mut().enable();
            match self.push(timestamp_ms, key, value, headers) {
                Err(Error::Undecided) if self.reserved_ids.is_empty() => changed.await,
                pushed => return pushed,
            }
        }
    }

    /// Adds a message that comes back from a dead-letter queue: the queue's time to live applies as to any other, but
    /// it is no duplicate of what it was before, and has waited out the queue's delay then. A queue that is too short for
    /// all of the batch refuses it, whatever its policy: what it dropped would be lost, or a dead letter again.
    ///
    /// # Errors
    /// [`Error::Batch`] for a message beyond the limits.
    pub(crate) fn push_redriven(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        let (_, expires_at_ms) = self.times_of(&Attributes::default());
        let times = (None, expires_at_ms);
        self.encode(timestamp_ms, key, value, headers, times)?;
        self.keeps_all = true;
        Ok(())
    }

    /// Adds a dead letter: the queue's delay and time to live apply, and not what its headers say of times, since
    /// those are of the queue that it was in. It is no duplicate of anything.
    ///
    /// # Errors
    /// [`Error::Batch`] for a record beyond the limits.
    pub(crate) fn push_dead_letter(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        let times = self.times_of(&Attributes::default());
        self.encode(timestamp_ms, key, value, headers, times)
    }

    /// As [`push_dead_letter`](Self::push_dead_letter), of one that is too large with what it says besides: if need be
    /// also without times, since it is better kept for ever than lost.
    ///
    /// # Errors
    /// As [`push_dead_letter`](Self::push_dead_letter).
    pub(crate) fn push_large_dead_letter(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
    ) -> Result<(), Error> {
        match self.push_dead_letter(timestamp_ms, key, value, headers) {
            Err(Error::Batch(_)) => self.encode(timestamp_ms, key, value, headers, (None, None)),
            pushed => pushed,
        }
    }

    /// Adds the dead letters to a commit, whatever the queue's max-length: nothing may be lost.
    ///
    /// # Errors
    /// [`Error::Batch`] for messages that make no batch.
    pub(crate) fn add_dead_letters_to(&mut self, commit: &mut Commit) -> Result<(), Error> {
        self.close()?;
        self.append_to(commit);
        self.pushed_count = 0;
        self.stored_count = 0;
        self.bytes = 0;
        Ok(())
    }

    /// When a message that says this may be delivered, and when it expires, under the queue's settings.
    fn times_of(&mut self, attributes: &Attributes<'_>) -> (Option<u64>, Option<u64>) {
        // Who keeps a batch for long is to see that the settings have changed.
        if self.is_empty() {
            self.config = self.queue.config();
        }
        attributes.resolve(&self.config, self.queue.now_ms())
    }

    fn encode(
        &mut self,
        timestamp_ms: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: HeadersRef<'_>,
        times: (Option<u64>, Option<u64>),
    ) -> Result<(), Error> {
        let fields = [key, value, Some(headers.as_encoded())];
        let size_bytes: usize = fields.iter().flatten().map(|field| field.len()).sum();
        if self.builder.size_bytes() + size_bytes > BATCH_BYTES {
            self.close()?;
        }
        if times == (None, None) && !has_times(headers) {
            self.builder.push(timestamp_ms, key, value, headers)?;
        } else {
            with_times(headers, times, &mut self.headers)?;
            let headers = self.headers.as_headers();
            self.builder.push(timestamp_ms, key, value, headers)?;
        }
        self.pushed_count += 1;
        self.stored_count += 1;
        self.bytes += size_bytes;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        self.closed.extend(self.builder.build()?);
        Ok(())
    }

    /// Messages that were pushed, duplicates included.
    pub fn len(&self) -> u64 {
        self.pushed_count
    }

    /// Whether no message was pushed.
    pub fn is_empty(&self) -> bool {
        self.pushed_count == 0
    }

    /// Bytes of keys, values and headers to be stored.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Moves the messages to a commit; the batch is empty again, for more. What is returned has no
    /// offset, which is known when the commit has happened.
    ///
    /// # Errors
    /// [`Error::Full`]; the messages stay in the batch. [`Error::RoomFirst`], and what goes wrong with reading what a
    /// full queue drops: the same, but drop the commit then.
    pub fn add_to(&mut self, commit: &mut Commit) -> Result<Enqueued, Error> {
        self.close()?;
        let dropped_count = self.surplus();
        let stored_count = self.stored_count - dropped_count;
        if stored_count > 0 {
            let next_offset = self.queue.announced_end();
            self.queue.reserve_room(stored_count, self.bytes, commit)?;
            if dropped_count > 0 {
                self.drop_first(dropped_count, next_offset, commit)?;
            }
            self.move_to(commit);
        }
        let enqueued = Enqueued {
            base_offset: None,
            stored_count,
            dropped_count,
            duplicates: std::mem::take(&mut self.duplicates),
        };
        self.pushed_count = 0;
        self.stored_count = 0;
        self.bytes = 0;
        self.keeps_all = false;
        Ok(enqueued)
    }

    /// After [`Error::RoomFirst`]: lets as much leave the queue, in commits of its own, as makes room for the messages.
    /// Others may fill it again before they are added.
    ///
    /// # Errors
    /// As [`Queue::make_room`].
    pub async fn make_room(&self) -> Result<(), Error> {
        let added = self.stored_count - self.surplus();
        self.queue.make_room(added).await
    }

    /// How many of the messages a queue that drops its oldest has no room for, even if all others leave it.
    fn surplus(&self) -> u64 {
        let config = self.queue.config();
        match (config.max_length, config.max_length_policy) {
            (Some(limit), MaxLengthPolicy::DropOldest) if !self.keeps_all => {
                self.stored_count.saturating_sub(limit)
            }
            _ => 0,
        }
    }

    /// Takes the first messages out of the batch, and adds to a commit what becomes of them when the queue drops them.
    /// Their deduplication ids stay known.
    fn drop_first(
        &mut self,
        count: u64,
        next_offset: u64,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let mut dropped = self.queue.dropped_at_once(next_offset);
        for batch in std::mem::take(&mut self.closed) {
            if dropped.count() == count {
                self.closed.push(batch);
                continue;
            }
            for record in &batch.assign(0).records()? {
                let record = record?;
                if dropped.count() < count {
                    dropped.push(&record)?;
                } else {
                    let (key, value) = (record.key, record.value);
                    self.builder
                        .push(record.timestamp_ms, key, value, record.headers)?;
                }
            }
            self.close()?;
        }
        dropped.add_to(commit)
    }

    /// As [`add_to`](Self::add_to), but there is always room: for dead letters, which must not be lost.
    pub(super) fn append_to(&mut self, commit: &mut Commit) {
        if self.stored_count > 0 {
            self.queue.announce_in(self.stored_count, commit);
        }
        self.move_to(commit);
    }

    fn move_to(&mut self, commit: &mut Commit) {
        for batch in self.closed.drain(..) {
            commit.append(Arc::clone(self.queue.partition()), batch);
        }
        if !self.reserved_ids.is_empty() {
            let ids = std::mem::take(&mut self.reserved_ids);
            // What is pushed from now on goes with another commit.
            self.id_owner = None;
            self.queue.remember_ids_in(ids, commit);
        }
    }

    /// Closes the last batch; before [`append_to`](Self::append_to).
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.close()
    }

    /// Enqueues the messages by themselves, and waits until they are stored.
    ///
    /// # Errors
    /// [`Error::Full`]; the messages stay in the batch. [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`].
    pub async fn enqueue(&mut self) -> Result<Enqueued, Error> {
        if self.config.max_length.is_some() {
            self.queue.catch_up().await?;
        }
        let (commit, mut enqueued) = loop {
            let mut commit = Commit::new();
            match self.add_to(&mut commit) {
                Ok(enqueued) => break (commit, enqueued),
                Err(Error::RoomFirst { .. }) => {
                    drop(commit);
                    self.make_room().await?;
                }
                Err(error) if error.is_overtaken() => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        };
        if enqueued.stored_count == 0 {
            return Ok(enqueued);
        }
        // A full queue may have appended dead letters first.
        let own_batch = commit.first_append_to(self.queue.partition());
        let committed = self.queue.commit(commit).await?;
        enqueued.base_offset = committed.base_offsets.get(own_batch).copied();
        Ok(enqueued)
    }
}

impl Drop for MessageBatch {
    fn drop(&mut self) {
        self.queue.free_ids(&self.reserved_ids);
    }
}

impl Queue {
    /// A batch of messages to enqueue.
    pub fn batch(&self) -> MessageBatch {
        MessageBatch::new(self.clone())
    }

    /// Enqueues messages and waits until they are stored, all of them or none.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Attribute`], [`Error::Batch`], [`Error::Deleted`],
    /// [`Error::Storage`].
    pub async fn enqueue(&self, messages: &[Record]) -> Result<Enqueued, Error> {
        loop {
            let changed = self.state.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.batch_of(messages) {
                Ok(mut batch) => return batch.enqueue().await,
                Err(Error::Undecided) => changed.await,
                Err(error) => return Err(error),
            }
        }
    }

    fn batch_of(&self, messages: &[Record]) -> Result<MessageBatch, Error> {
        let mut batch = self.batch();
        let mut headers = HeadersBuf::new();
        for message in messages {
            headers.clear();
            for header in &message.headers {
                headers.push(&header.name, header.value.as_deref())?;
            }
            batch.push(
                message.timestamp_ms,
                message.key.as_deref(),
                message.value.as_deref(),
                headers.as_headers(),
            )?;
        }
        Ok(batch)
    }
}
