//! Takes committed batches into the index: when somebody asks for messages, from where it stopped up
//! to the high watermark.
//!
//! The first time after a data directory was opened that is all that is stored, together with what
//! the chunks say of it. Batches are read and taken apart outside of the index's lock.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;

use super::attributes::Placement;
use super::index::Index;
use super::offset_set::place;
use super::shared::{Queue, State};
use super::{Error, GroupBy, QueueConfig};
use crate::model::{self, RecordBatch};
use crate::storage::schema::KeyKind;
use crate::storage::schema::queue_chunk::{self, Chunk};
use crate::storage::{self, Scan};

/// Bytes of batches taken in at a time.
const STEP_BYTES: usize = 1 << 20;
/// Messages from which on taking in goes to a thread that may block.
const MANY_MESSAGES: u64 = 50_000;

/// What taking in needs to know from one time to the next.
#[derive(Debug, Default)]
pub(super) struct Ingest {
    /// The end of what was stored when the first was taken in, of which chunks tell; `None` until then.
    stored_to: Option<u64>,
    hasher: RandomState,
}

/// A batch, taken apart.
struct Parsed {
    base_offset: u64,
    next_offset: u64,
    len_bytes: u64,
    parts: Vec<Part>,
}

enum Part {
    /// Messages `from <= offset < to` without attributes.
    Plain { from: u64, to: u64 },
    /// A message with attributes.
    One { offset: u64, placement: Placement },
    /// Offsets `from <= offset < to` without a message.
    Gap { from: u64, to: u64 },
}

impl Queue {
    /// Takes in what is committed.
    pub(super) fn ingest(&self) -> Result<(), Error> {
        let state = &self.state;
        let mut ingest = state.ingest.lock();
        let high_watermark = state.partition.high_watermark();
        let stored_to = *ingest.stored_to.get_or_insert(high_watermark);
        loop {
            let from = state.index.lock().indexed_to();
            if from >= state.partition.high_watermark() {
                return Ok(());
            }
            let batches = self.store.read(&state.partition, from, STEP_BYTES)?;
            if batches.is_empty() {
                return Ok(());
            }
            let config = self.config();
            let parsed = batches
                .iter()
                .map(|batch| Parsed::of(batch, &config, &ingest.hasher))
                .collect::<Result<Vec<_>, _>>()?;
            let stored = self.stored_chunks(&parsed, stored_to)?;
            let now_ms = self.now_ms();
            let mut index = state.index.lock();
            for batch in &parsed {
                batch.take_in(&mut index, &stored, &config, now_ms);
            }
        }
    }

    /// As [`ingest`](Self::ingest); when there is much to take in, on a thread that may block.
    pub(super) async fn catch_up(&self) -> Result<(), Error> {
        let (from, end) = (
            self.state.index.lock().indexed_to(),
            self.state.partition.high_watermark(),
        );
        if from >= end {
            return Ok(());
        }
        if end - from < MANY_MESSAGES {
            return self.ingest();
        }
        let queue = self.clone();
        let ingested = tokio::task::spawn_blocking(move || queue.ingest()).await;
        ingested.map_err(|_| storage::Error::Closed)?
    }

    /// Whether what was stored when the data directory was opened is in the index.
    pub(super) fn is_taken_in(&self) -> bool {
        self.state.ingest.lock().stored_to.is_some()
    }

    /// What is stored of the messages of batches that begin before `stored_to`: of the others nothing can be.
    fn stored_chunks(
        &self,
        batches: &[Parsed],
        stored_to: u64,
    ) -> Result<BTreeMap<u64, Chunk>, Error> {
        let mut chunks = BTreeMap::new();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return Ok(chunks);
        };
        if first.base_offset >= stored_to {
            return Ok(chunks);
        }
        let (from, to) = (
            queue_chunk::key(self.id(), place(first.base_offset).0),
            queue_chunk::key(self.id(), place(last.next_offset).0 + 1),
        );
        self.store
            .scan(KeyKind::QueueChunk, &from, Some(&to), |key, value| {
                let parsed = queue_chunk::parse_key(key).zip(queue_chunk::parse_value(value));
                let ((_, number), chunk) = parsed.ok_or_else(|| storage::Error::Damaged {
                    what: format!("a chunk of queue `{}`", self.name()),
                    reason: "malformed".to_owned(),
                })?;
                chunks.insert(number, chunk);
                Ok(Scan::Continue)
            })?;
        Ok(chunks)
    }
}

impl State {
    /// Forgets what is in memory, so that it is read again from what is stored.
    pub(super) fn forget(&self) {
        let mut ingest = self.ingest.lock();
        ingest.stored_to = None;
        *self.index.lock() = Index::new(self.partition.start_offset());
    }
}

impl Parsed {
    fn of(
        batch: &RecordBatch,
        config: &QueueConfig,
        hasher: &RandomState,
    ) -> Result<Self, model::batch::Error> {
        let mut parsed = Self {
            base_offset: batch.base_offset(),
            next_offset: batch.next_offset(),
            len_bytes: batch.len_bytes() as u64,
            parts: Vec::new(),
        };
        let mut next = parsed.base_offset;
        if !batch.is_control() {
            let by_key = config.groups == GroupBy::Key;
            let plain = Placement::plain(config);
            for record in &batch.records()? {
                let record = record?;
                parsed.gap(next, record.offset);
                next = record.offset + 1;
                if record.headers.is_empty() && !(by_key && record.key.is_some()) {
                    parsed.plain(record.offset);
                    continue;
                }
                let placement = Placement::of(&record, config, hasher);
                if placement == plain {
                    parsed.plain(record.offset);
                } else {
                    let offset = record.offset;
                    parsed.parts.push(Part::One { offset, placement });
                }
            }
        }
        parsed.gap(next, parsed.next_offset);
        Ok(parsed)
    }

    fn gap(&mut self, from: u64, to: u64) {
        if from < to {
            self.parts.push(Part::Gap { from, to });
        }
    }

    fn plain(&mut self, offset: u64) {
        match self.parts.last_mut() {
            Some(Part::Plain { to, .. }) if *to == offset => *to += 1,
            _ => self.parts.push(Part::Plain {
                from: offset,
                to: offset + 1,
            }),
        }
    }

    fn take_in(
        &self,
        index: &mut Index,
        stored: &BTreeMap<u64, Chunk>,
        config: &QueueConfig,
        now_ms: u64,
    ) {
        let plain = Placement::plain(config);
        index.append(self.base_offset, self.next_offset, self.len_bytes);
        for part in &self.parts {
            match part {
                Part::Plain { from, to } if stored.is_empty() => {
                    index.insert_plain(*from, *to, plain.priority);
                }
                Part::Plain { from, to } => {
                    for offset in *from..*to {
                        take_in_one(index, stored, offset, &plain, now_ms);
                    }
                }
                Part::One { offset, placement } => {
                    take_in_one(index, stored, *offset, placement, now_ms);
                }
                Part::Gap { from, to } => {
                    for offset in *from..*to {
                        index.finish(offset);
                    }
                }
            }
        }
    }
}

fn take_in_one(
    index: &mut Index,
    stored: &BTreeMap<u64, Chunk>,
    offset: u64,
    placement: &Placement,
    now_ms: u64,
) {
    let (number, position) = place(offset);
    match stored.get(&number) {
        Some(chunk) if chunk.acknowledged.contains(position) => {
            index.finish(offset);
        }
        Some(chunk) => index.insert(offset, placement, chunk.deliveries(position), now_ms),
        None => index.insert(offset, placement, Default::default(), now_ms),
    }
}
