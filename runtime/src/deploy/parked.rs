//! What waits to be tried again in a pipeline that goes back, and would be lost with it.
//!
//! A record that was read after the checkpoint comes again, and one that waited at the checkpoint waits again. What else
//! waits does neither: messages that were taken out of a queue since, and dead letters that were sent back since. They
//! go on waiting, behind what the checkpoint has, and the earlier version tries them as if they had not run.

use std::ops::Range;

use hashbrown::{HashMap, HashSet};
use tokio::task::block_in_place;

use super::state::{COMMIT_BYTES, Returning, position_in};
use super::{Deployments, Error};
use crate::log::{Cleanup, Topic};
use crate::model::{TIMERS_INPUT, key_hash};
use crate::pipeline;
use crate::queue::letter::{DeadLetter, Origin};
use crate::storage::schema::parked::{self, KEY_LEN_BYTES, ParkedRecord};
use crate::storage::schema::{KeyKind, group_gaps, partition_head, pipeline_prefix, prefix_end};
use crate::storage::{self, Commit, Partition, ReadOnlyStore, Scan};

/// The key of a parked record.
type Key = [u8; KEY_LEN_BYTES];

/// What a pipeline has again when it has gone back.
struct Returns<'a> {
    checkpoint: &'a ReadOnlyStore,
    /// What waits in the checkpoint.
    waiting: HashSet<Identity>,
    /// Where it stands in its topics, by the number of the input and the partition.
    positions: HashMap<(u32, u32), Position>,
}

/// What tells the parked records of a pipeline apart.
#[derive(PartialEq, Eq, Hash)]
struct Identity {
    task: u32,
    input: u32,
    offset: u64,
    /// Timers of one time may have the same in the place of an offset.
    key_hash: u64,
}

impl Identity {
    fn of(task: u32, parked: &ParkedRecord) -> Result<Self, storage::Error> {
        let records = parked.record.records().map_err(|_| parked::damaged())?;
        let record = records.iter().next().and_then(Result::ok);
        let record = record.ok_or_else(parked::damaged)?;
        Ok(Self {
            task,
            input: parked.input,
            offset: record.offset,
            key_hash: record.key.map_or(0, key_hash),
        })
    }
}

/// Where a pipeline stands again in a partition.
struct Position {
    topic: Topic,
    partition: u32,
    /// What is read again begins here.
    from: u64,
    /// What of that has been processed.
    processed: Vec<Range<u64>>,
}

impl Position {
    fn comes_again(&self, store: &storage::Store, offset: u64) -> Result<bool, storage::Error> {
        if offset < self.from || self.processed.iter().any(|range| range.contains(&offset)) {
            return Ok(false);
        }
        let Ok(partition) = self.topic.partition(self.partition) else {
            return Ok(false);
        };
        match self.topic.config().cleanup {
            Cleanup::Delete => Ok(true),
            // The cleaner may have removed it.
            Cleanup::Compact => has_record(store, partition, offset),
        }
    }
}

/// Where a parked record goes.
#[derive(Debug)]
pub(super) struct Move {
    from: Key,
    to_sequence: u64,
}

impl Deployments {
    /// Leaves of what is parked in a pipeline that which does not come again, behind everything that the checkpoint has
    /// parked, and deletes the rest. Returns how many records are left. May be run again, however far it came.
    pub(super) async fn keep_parked(
        &self,
        checkpoint: &ReadOnlyStore,
        pipeline: &Returning,
    ) -> Result<usize, Error> {
        let moves = self.moves(checkpoint, pipeline).await?;
        let count = moves.len();
        self.move_parked(moves).await?;
        Ok(count)
    }

    /// Deletes what comes again. Returns how the others are to be moved, the last one first: whatever is moved when the
    /// process ends, the others of a group are before it, and it stays in its place when this is run again.
    pub(super) async fn moves(
        &self,
        checkpoint: &ReadOnlyStore,
        pipeline: &Returning,
    ) -> Result<Vec<Move>, Error> {
        let returns = block_in_place(|| self.returns(checkpoint, pipeline))?;
        self.delete_what_comes_again(&returns, pipeline).await
    }

    fn returns<'a>(
        &self,
        checkpoint: &'a ReadOnlyStore,
        pipeline: &Returning,
    ) -> Result<Returns<'a>, Error> {
        let mut returns = Returns {
            checkpoint,
            waiting: HashSet::new(),
            positions: HashMap::new(),
        };
        if let Some(then) = &pipeline.then {
            let prefix = pipeline_prefix(KeyKind::Parked, then.id);
            checkpoint.scan_prefix(KeyKind::Parked, &prefix, |key, value| {
                let (_, task, _, _) = parked::parse_key(key).ok_or_else(parked::damaged)?;
                let identity = Identity::of(task, &parked::read(value)?)?;
                returns.waiting.insert(identity);
                Ok(Scan::Continue)
            })?;
        }
        for (number, input) in (0..).zip(&pipeline.now.numbered_inputs) {
            // One that has been deleted has no records to come.
            let Some(topic) = input.topic().and_then(|it| self.shared.log.topic(it).ok()) else {
                continue;
            };
            for partition in topic.partitions() {
                let position = self.position(checkpoint, pipeline, &topic, partition)?;
                let index = partition.index();
                returns.positions.insert((number, index), position);
            }
        }
        Ok(returns)
    }

    fn position(
        &self,
        checkpoint: &ReadOnlyStore,
        pipeline: &Returning,
        topic: &Topic,
        partition: &Partition,
    ) -> Result<Position, Error> {
        let (topic_id, index) = (partition.topic_id(), partition.index());
        let (mut committed, mut processed) = (None, Vec::new());
        if let Some(then) = &pipeline.then {
            let group = then.group.as_str();
            committed = position_in(checkpoint, group, partition)?;
            let prefix = group_gaps::partition_prefix(group, topic_id, index);
            checkpoint.scan_prefix(KeyKind::GroupGaps, &prefix, |_, value| {
                processed.extend(group_gaps::parse_value(value).unwrap_or_default());
                Ok(Scan::Continue)
            })?;
        }
        let from = match committed {
            Some(committed) => committed.offset,
            None => pipeline::start_offset(&self.shared.log, partition, pipeline.now.start)
                .map_err(pipeline::Error::from)?,
        };
        Ok(Position {
            topic: topic.clone(),
            partition: index,
            // What retention has deleted waits still, and does not come again.
            from: from.max(partition.start_offset()),
            processed,
        })
    }

    async fn delete_what_comes_again(
        &self,
        returns: &Returns<'_>,
        pipeline: &Returning,
    ) -> Result<Vec<Move>, Error> {
        let (mut deleted, mut kept): (Vec<Key>, Vec<Key>) = (Vec::new(), Vec::new());
        let mut free = 0;
        let prefix = pipeline_prefix(KeyKind::Parked, pipeline.now.id);
        let end = prefix_end(&prefix);
        let visit = |key: &[u8], value: &[u8]| {
            let (_, task, _, sequence) = parked::parse_key(key).ok_or_else(parked::damaged)?;
            free = free.max(sequence.saturating_add(1));
            let comes_again = self.comes_again(returns, task, &parked::read(value)?)?;
            let keys = if comes_again { &mut deleted } else { &mut kept };
            keys.push(key.try_into().map_err(|_| parked::damaged())?);
            Ok(Scan::Continue)
        };
        let store = &self.shared.store;
        block_in_place(|| store.scan(KeyKind::Parked, &prefix, end.as_deref(), visit))?;
        if let Some(then) = &pipeline.then {
            let prefix = pipeline_prefix(KeyKind::Parked, then.id);
            block_in_place(|| {
                returns
                    .checkpoint
                    .scan_prefix(KeyKind::Parked, &prefix, |key, _| {
                        let (_, _, _, sequence) =
                            parked::parse_key(key).ok_or_else(parked::damaged)?;
                        free = free.max(sequence.saturating_add(1));
                        Ok(Scan::Continue)
                    })
            })?;
        }
        for keys in deleted.chunks(COMMIT_BYTES / KEY_LEN_BYTES) {
            let mut commit = Commit::new();
            for key in keys {
                commit.delete(KeyKind::Parked, *key);
            }
            store.commit(commit).await?;
        }
        let moves = kept.into_iter().zip(free..);
        let moves = moves.map(|(from, to_sequence)| Move { from, to_sequence });
        let mut moves: Vec<Move> = moves.collect();
        moves.reverse();
        Ok(moves)
    }

    /// Moves parked records, in commits of bounded size.
    pub(super) async fn move_parked(&self, moves: Vec<Move>) -> Result<(), Error> {
        let store = &self.shared.store;
        let mut commit = Commit::new();
        for step in moves {
            let (pipeline, task, group, _) =
                parked::parse_key(&step.from).ok_or_else(parked::damaged)?;
            let Some(value) = store.get(KeyKind::Parked, &step.from)? else {
                continue;
            };
            let parked = parked::parse_value(&value).ok_or_else(parked::damaged)?;
            let anew = ParkedRecord::new(parked.input, parked.record);
            commit.delete(KeyKind::Parked, step.from);
            commit.park(pipeline, task, group, step.to_sequence, &anew);
            if commit.len_bytes() >= COMMIT_BYTES {
                store.commit(std::mem::take(&mut commit)).await?;
            }
        }
        store.commit(commit).await?;
        Ok(())
    }

    /// Whether a record that is parked now will be there again.
    fn comes_again(
        &self,
        returns: &Returns<'_>,
        task: u32,
        parked: &ParkedRecord,
    ) -> Result<bool, storage::Error> {
        let identity = Identity::of(task, parked)?;
        let offset = identity.offset;
        if returns.waiting.contains(&identity) {
            return Ok(true);
        }
        if parked.input == TIMERS_INPUT {
            // Else it was set again, or will be.
            return Ok(!self.was_a_letter(returns.checkpoint, parked)?);
        }
        match returns.positions.get(&(parked.input, task)) {
            Some(position) => position.comes_again(&self.shared.store, offset),
            None => Ok(false),
        }
    }

    /// Whether a record that was sent back was a dead letter already when the checkpoint was taken.
    fn was_a_letter(
        &self,
        checkpoint: &ReadOnlyStore,
        parked: &ParkedRecord,
    ) -> Result<bool, storage::Error> {
        let records = parked.record.records().map_err(|_| parked::damaged())?;
        let record = records.iter().next().and_then(Result::ok);
        let record = record.ok_or_else(parked::damaged)?;
        let from = DeadLetter::read(record.headers).redriven_from;
        let Some(Origin::Queue { queue, offset }) = from.and_then(|from| from.parse().ok()) else {
            return Ok(false);
        };
        let Ok(queue) = self.shared.queues.queue(&queue) else {
            // Nobody can tell any more, and it is better tried twice than lost.
            return Ok(true);
        };
        let partition = queue.partition();
        let key = partition_head::key(partition.topic_id(), partition.index());
        let head = checkpoint.get(KeyKind::PartitionHead, &key)?;
        let head = head.as_deref().and_then(partition_head::parse_value);
        Ok(head.is_some_and(|head| offset < head.next_offset))
    }
}

/// Whether a partition still has a record.
fn has_record(
    store: &storage::Store,
    partition: &Partition,
    offset: u64,
) -> Result<bool, storage::Error> {
    let batches = match store.read(partition, offset, 1) {
        Ok(batches) => batches,
        Err(storage::Error::OffsetOutOfRange { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(batches.iter().any(|batch| {
        let records = batch.records();
        records.is_ok_and(|records| {
            let mut records = records.iter().filter_map(Result::ok);
            records.any(|record| record.offset == offset)
        })
    }))
}
