//! What waits to be tried again in a pipeline that goes back, and would be lost with it.
//!
//! A record that was read after the checkpoint comes again, and one that waited at the checkpoint waits again. What else
//! waits does neither: messages that were taken out of a queue since, and dead letters that were sent back since. They
//! go on waiting, behind what the checkpoint has, and the earlier version tries them as if they had not run.

use std::ops::Range;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use tokio::task::block_in_place;

use super::state::{COMMIT_BYTES, Returning, position_in};
use super::{Deployments, Error};
use crate::model::TIMERS_INPUT;
use crate::queue::letter::{DeadLetter, Origin};
use crate::storage::schema::parked::{self, ParkedRecord};
use crate::storage::schema::{KeyKind, group_gaps, partition_head, pipeline_prefix, prefix_end};
use crate::storage::{self, Commit, ReadOnlyStore, Scan};

/// What a pipeline has again when it has gone back.
struct Returns<'a> {
    checkpoint: &'a ReadOnlyStore,
    pipeline: &'a Returning,
    /// What waits in the checkpoint: task, number of the input, offset.
    waiting: HashSet<(u32, u32, u64)>,
    /// Where it stands in its topics, by the number of the input and the partition.
    positions: HashMap<(u32, u32), Position>,
}

/// Where a pipeline stands again in a partition.
#[derive(Default)]
struct Position {
    /// What is read again begins here.
    from: u64,
    /// What of that has been processed.
    processed: Vec<Range<u64>>,
}

impl Position {
    fn comes_again(&self, offset: u64) -> bool {
        offset >= self.from && !self.processed.iter().any(|range| range.contains(&offset))
    }
}

/// The change of some of what is parked.
#[derive(Default)]
struct Kept {
    commit: Commit,
    count: u64,
    /// Where to go on; `None` at the end.
    next: Option<Vec<u8>>,
}

impl Deployments {
    /// Leaves of what is parked in a pipeline that which does not come again, behind everything that the checkpoint has
    /// parked, and deletes the rest. Returns how many records are left. May be run again, however far it came.
    pub(super) async fn keep_parked(
        &self,
        checkpoint: &ReadOnlyStore,
        pipeline: &Returning,
    ) -> Result<u64, Error> {
        let (returns, sequence) = block_in_place(|| {
            let returns = self.returns(checkpoint, pipeline)?;
            let sequence = self.free_sequence(&returns)?;
            Ok::<_, Error>((returns, sequence))
        })?;
        let mut from = pipeline_prefix(KeyKind::Parked, pipeline.now.id).to_vec();
        let mut count = 0;
        loop {
            let kept = block_in_place(|| self.keep_some(&returns, sequence, &from))?;
            count += kept.count;
            self.shared.store.commit(kept.commit).await?;
            fail::fail_point!("deploy::parked-partly-kept");
            match kept.next {
                Some(next) => from = next,
                None => return Ok(count),
            }
        }
    }

    fn returns<'a>(
        &self,
        checkpoint: &'a ReadOnlyStore,
        pipeline: &'a Returning,
    ) -> Result<Returns<'a>, Error> {
        let mut returns = Returns {
            checkpoint,
            pipeline,
            waiting: HashSet::new(),
            positions: HashMap::new(),
        };
        if let Some(then) = &pipeline.then {
            let prefix = pipeline_prefix(KeyKind::Parked, then.id);
            checkpoint.scan_prefix(KeyKind::Parked, &prefix, |key, value| {
                let (_, task, _, _) = parked::parse_key(key).ok_or_else(damaged)?;
                let parked = parse(value)?;
                let offset = parked.record.base_offset();
                returns.waiting.insert((task, parked.input, offset));
                Ok(Scan::Continue)
            })?;
        }
        for (number, input) in (0..).zip(&pipeline.now.numbered_inputs) {
            // One that has been deleted has no records to come.
            let topic = input
                .topic()
                .and_then(|name| self.shared.log.topic(name).ok());
            for partition in topic.iter().flat_map(|topic| topic.partitions().iter()) {
                let mut position = Position::default();
                if let Some(then) = &pipeline.then {
                    let group = then.group.as_str();
                    let committed = position_in(checkpoint, group, partition)?;
                    position.from = committed.map_or(0, |committed| committed.offset);
                    let (topic_id, index) = (partition.topic_id(), partition.index());
                    let prefix = group_gaps::partition_prefix(group, topic_id, index);
                    checkpoint.scan_prefix(KeyKind::GroupGaps, &prefix, |_, value| {
                        let ranges = group_gaps::parse_value(value).ok_or_else(damaged)?;
                        position.processed.extend(ranges);
                        Ok(Scan::Continue)
                    })?;
                }
                // What retention has deleted waits still, and does not come again.
                position.from = position.from.max(partition.start_offset());
                returns
                    .positions
                    .insert((number, partition.index()), position);
            }
        }
        Ok(returns)
    }

    /// A sequence beyond all that are parked now, or in the checkpoint.
    fn free_sequence(&self, returns: &Returns<'_>) -> Result<u64, Error> {
        let mut free = 0;
        let mut look = |key: &[u8]| {
            let (_, _, _, sequence) = parked::parse_key(key).ok_or_else(damaged)?;
            free = free.max(sequence.saturating_add(1));
            Ok(Scan::Continue)
        };
        if let Some(then) = &returns.pipeline.then {
            let prefix = pipeline_prefix(KeyKind::Parked, then.id);
            returns
                .checkpoint
                .scan_prefix(KeyKind::Parked, &prefix, |key, _| look(key))?;
        }
        let prefix = pipeline_prefix(KeyKind::Parked, returns.pipeline.now.id);
        let end = prefix_end(&prefix);
        self.shared
            .store
            .scan(KeyKind::Parked, &prefix, end.as_deref(), |key, _| look(key))?;
        Ok(free)
    }

    /// Looks at what is parked from a key on, until a commit is full. Records that are kept get sequences from `free` on,
    /// in their order.
    fn keep_some(&self, returns: &Returns<'_>, free: u64, from: &[u8]) -> Result<Kept, Error> {
        let id = returns.pipeline.now.id;
        let end = prefix_end(&pipeline_prefix(KeyKind::Parked, id));
        let mut kept = Kept::default();
        let visit = |key: &[u8], value: &[u8]| {
            if kept.commit.len_bytes() >= COMMIT_BYTES {
                kept.next = Some(key.to_vec());
                return Ok(Scan::Stop);
            }
            let (_, task, group, sequence) = parked::parse_key(key).ok_or_else(damaged)?;
            if sequence >= free {
                // It has been kept a moment ago.
                return Ok(Scan::Continue);
            }
            let parked = parse(value)?;
            kept.commit.delete(KeyKind::Parked, key);
            if !self.comes_again(returns, task, &parked)? {
                let anew = ParkedRecord::new(parked.input, parked.record);
                let behind = free.saturating_add(sequence);
                kept.commit.park(id, task, group, behind, &anew);
                kept.count += 1;
            }
            Ok(Scan::Continue)
        };
        let store = &self.shared.store;
        store.scan(KeyKind::Parked, from, end.as_deref(), visit)?;
        Ok(kept)
    }

    /// Whether a record that is parked now will be there again.
    fn comes_again(
        &self,
        returns: &Returns<'_>,
        task: u32,
        parked: &ParkedRecord,
    ) -> Result<bool, storage::Error> {
        let offset = parked.record.base_offset();
        if returns.waiting.contains(&(task, parked.input, offset)) {
            return Ok(true);
        }
        if parked.input == TIMERS_INPUT {
            // Else it was set again, or will be.
            return Ok(!self.was_a_letter(returns.checkpoint, parked)?);
        }
        let position = returns.positions.get(&(parked.input, task));
        Ok(position.is_some_and(|position| position.comes_again(offset)))
    }

    /// Whether a record that was sent back was a dead letter already when the checkpoint was taken.
    fn was_a_letter(
        &self,
        checkpoint: &ReadOnlyStore,
        parked: &ParkedRecord,
    ) -> Result<bool, storage::Error> {
        let records = parked.record.records().map_err(|_| damaged())?;
        let record = records.iter().next().and_then(Result::ok);
        let record = record.ok_or_else(damaged)?;
        let from = DeadLetter::read(record.headers).redriven_from;
        let Some(Origin::Queue { queue, offset }) = from.and_then(|from| from.parse().ok()) else {
            return Ok(false);
        };
        let Ok(queue) = self.shared.queues.queue(&queue) else {
            return Ok(false);
        };
        let partition = queue.partition();
        let key = partition_head::key(partition.topic_id(), partition.index());
        let head = checkpoint.get(KeyKind::PartitionHead, &key)?;
        let head = head.as_deref().and_then(partition_head::parse_value);
        Ok(head.is_some_and(|head| offset < head.next_offset))
    }
}

fn parse(value: &[u8]) -> Result<ParkedRecord, storage::Error> {
    parked::parse_value(&Bytes::copy_from_slice(value)).ok_or_else(damaged)
}

fn damaged() -> storage::Error {
    storage::Error::Damaged {
        what: "what a pipeline has parked or processed".to_owned(),
        reason: "malformed".to_owned(),
    }
}
