//! What a task with several instances parks by itself, beside what its lanes park: records that wait behind one that
//! takes long, when memory has no room for more; and, after a restart, those before them that had not ended.
//!
//! The places of records that run are before those of the records parked behind them, but known to memory alone. A task
//! that starts anew finds them again: they are what it has not done yet of a group, at a lower offset than the first
//! record that waits there. It parks them in these places before anything runs.

use std::ops::Range;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::ConcurrentTask;
use super::backlog::{Waiting, messages};
use crate::manifest::RetryOrder;
use crate::pipeline::TaskError;
use crate::pipeline::checkpoint::Checkpoint;
use crate::pipeline::claim::give_messages_back;
use crate::pipeline::input::Source;
use crate::pipeline::lane_progress::OffsetRanges;
use crate::pipeline::retry::{self, Further, GroupId};
use crate::pipeline::settle::fresh;
use crate::queue::Receipt;

/// Bytes of records that go into one commit together: far below what one takes.
const MAX_PORTION_BYTES: usize = 16 << 20;
/// What a parked record takes in a commit besides its own bytes, about.
const PARKED_BYTES: usize = 256;

/// How long free lanes wait for a busy one, when all that is read belongs to busy ones, until that is parked: lanes are
/// mostly done with their batches much sooner, and what is parked costs more than to wait for that.
pub(super) const STALL_PAUSE: Duration = Duration::from_millis(100);

/// A record that is to be parked.
struct ToPark {
    waiting: Waiting,
    /// Its place; behind all others if it has none.
    sequence: Option<u64>,
}

/// The first record of an input in a group that has only waited so far. (Before one that has run, everything had ended.)
struct FirstWaiting {
    offset: u64,
    sequence: u64,
}

/// By input and group.
type FirstWaitings = HashMap<(usize, GroupId), FirstWaiting>;

impl ConcurrentTask {
    /// If the backlog is full of records that wait for others, parks them behind those; if it is full of records of
    /// which a lane has the state that does something else for long, parks these.
    pub(super) async fn make_room(&mut self) -> Result<(), TaskError> {
        let free_lanes = self.lanes.all_free();
        let stalled_since = self.stalled_since.take();
        if self.backlog.has_room() || free_lanes.is_empty() {
            return Ok(());
        }
        let blocked = self.backlog.take_blocked(&self.parked.lock());
        self.park_behind(blocked).await?;
        if self.backlog.has_room() {
            return Ok(());
        }
        let since = stalled_since.unwrap_or_else(Instant::now);
        if since.elapsed() < STALL_PAUSE {
            self.stalled_since = Some(since);
            return Ok(());
        }
        let bound = self.backlog.take_bound(&free_lanes);
        self.park_behind(bound).await
    }

    /// Parks records behind those of their group.
    async fn park_behind(&mut self, waiting: Vec<Waiting>) -> Result<(), TaskError> {
        let to_park = waiting.into_iter().map(|waiting| ToPark {
            waiting,
            sequence: None,
        });
        let parked_count = self.park(to_park.collect()).await?;
        if parked_count > 0 {
            tracing::debug!(pipeline = %self.pipeline.spec.name, parked_count, "parked records behind others that take long");
        }
        Ok(())
    }

    /// Parks records that an earlier run has not ended before those that it has parked behind them.
    pub(super) async fn restore_order(
        &mut self,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        let has_order = self.pipeline.spec.retry.order != RetryOrder::None;
        if self.parked.lock().is_empty() || !has_order {
            return Ok(());
        }
        let mut first = block_in_place(|| self.first_messages())?;
        for turn in 0..self.inputs.len() {
            let before = match &self.inputs[turn].source {
                // What it has parked beyond its offset is done there.
                Source::Topic(_) => self.resumed.get(turn).and_then(OffsetRanges::end),
                Source::Queue(_) => {
                    let of_input = first.iter().filter(|((of, _), _)| *of == turn);
                    of_input.map(|(_, first)| first.offset).max()
                }
            };
            if let Some(before) = before {
                self.read_before(turn, before, stop).await?;
            }
        }
        if *stop.borrow() {
            // Not all that may belong there has been read: the next run does it.
            return Ok(());
        }
        block_in_place(|| self.add_first_records(&mut first))?;
        let overtaken = self.backlog.take_where(|waiting| {
            let first = first.get(&(waiting.fetched.turn, waiting.group));
            first.is_some_and(|first| waiting.offset() < first.offset)
        });
        let to_park = block_in_place(|| self.before(overtaken, &first))?;
        self.park(to_park).await?;
        Ok(())
    }

    /// By queue and group: the first of the messages that wait behind others and were perhaps parked before those had
    /// ended.
    fn first_messages(&self) -> Result<FirstWaitings, TaskError> {
        let mut first = FirstWaitings::new();
        let parked = self.parked.lock();
        let mut inputs = self.inputs.iter();
        if !inputs.any(|input| matches!(input.source, Source::Queue(_))) {
            return Ok(first);
        }
        parked.visit(|waiting| {
            let retry::Waiting {
                group,
                sequence,
                parked: record,
            } = waiting;
            if let Some(turn) = self.turn_of(record.input)
                && self.is_queue(turn)
                && record.has_only_waited()
            {
                let offset = record.record.base_offset();
                let entry = first.entry((turn, group));
                entry.or_insert(FirstWaiting { offset, sequence });
            }
            let is_known = |turn| first.contains_key(&(turn, group));
            let mut turns = (0..self.inputs.len()).filter(|turn| self.is_queue(*turn));
            let may_have_others = turns.any(|turn| {
                let number = self.pipeline.input_number(self.inputs[turn].index);
                parked.inputs_of(group).may_contain(number) && !is_known(turn)
            });
            match may_have_others {
                true => Further::Record,
                false => Further::Group,
            }
        })?;
        Ok(first)
    }

    /// Adds, for the records of topics that have been read and that an earlier run has not ended: the first of those of
    /// their group that wait behind them.
    fn add_first_records(&self, first: &mut FirstWaitings) -> Result<(), TaskError> {
        let parked = self.parked.lock();
        for ((turn, group), lowest) in self.backlog.lowest_offsets() {
            if self.is_queue(turn) {
                continue;
            }
            let number = self.pipeline.input_number(self.inputs[turn].index);
            let found = parked.find(group, lowest, |record| {
                let is_beyond = record.record.base_offset() > lowest;
                record.input == number && is_beyond && record.has_only_waited()
            })?;
            if let Some(found) = found {
                let offset = found.parked.record.base_offset();
                let sequence = found.sequence;
                first.insert((turn, group), FirstWaiting { offset, sequence });
            }
        }
        Ok(())
    }

    fn is_queue(&self, turn: usize) -> bool {
        let input = self.inputs.get(turn);
        input.is_some_and(|input| matches!(input.source, Source::Queue(_)))
    }

    /// Which input of the task parked records name by a number; none if they are timers.
    fn turn_of(&self, number: u32) -> Option<usize> {
        let index = self.pipeline.input_index(number).ok()?;
        self.inputs.iter().position(|input| input.index == index)
    }

    /// Reads what an input has before an offset. Of a queue that is what can be leased now, and as much as there is
    /// room for.
    async fn read_before(
        &mut self,
        turn: usize,
        offset: u64,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        while !*stop.borrow() {
            let has_more = match &self.inputs[turn].source {
                Source::Topic(cursor) => cursor.offset() < offset && !cursor.is_at_end(),
                Source::Queue(queue) => {
                    let first = block_in_place(|| queue.first_ready_offset())?;
                    self.backlog.has_room() && first.is_some_and(|first| first < offset)
                }
            };
            if !has_more {
                break;
            }
            let mut limits = self.pipeline.spec.batch;
            limits.max_wait = Duration::ZERO;
            self.fill(turn, limits, stop).await?;
        }
        Ok(())
    }

    /// Gives records places before those that have overtaken them.
    fn before(
        &self,
        overtaken: Vec<Waiting>,
        first: &FirstWaitings,
    ) -> Result<Vec<ToPark>, TaskError> {
        let parked = self.parked.lock();
        let mut taken: HashSet<(GroupId, u64)> = HashSet::new();
        // What lies between the first one that waits and the place that was found last is passed over once.
        let mut found: HashMap<(usize, GroupId), u64> = HashMap::new();
        let mut to_park = Vec::new();
        // The last ones first: then what a kill leaves undone still is before all that is parked.
        for waiting in overtaken.into_iter().rev() {
            let group = waiting.group;
            let of_input = (waiting.fetched.turn, group);
            let before = found.get(&of_input).copied();
            let before = before.or_else(|| first.get(&of_input).map(|first| first.sequence));
            let sequence = match before {
                Some(before) => parked
                    .free_before(group, before, |sequence| taken.contains(&(group, sequence)))?,
                None => None,
            };
            taken.extend(sequence.map(|sequence| (group, sequence)));
            found.extend(sequence.map(|sequence| (of_input, sequence)));
            to_park.push(ToPark { waiting, sequence });
        }
        Ok(to_park)
    }

    /// Parks records, and waits until that is durable. Returns how many: messages that others have taken meanwhile are
    /// left out.
    async fn park(&mut self, to_park: Vec<ToPark>) -> Result<u64, TaskError> {
        let mut parked_count = 0;
        let size_bytes = |to_park: &ToPark| {
            let Waiting { fetched, index, .. } = &to_park.waiting;
            fetched.columns.record_bytes(*index) + PARKED_BYTES
        };
        for portion in portions(&to_park, MAX_PORTION_BYTES, size_bytes) {
            let checkpoint = block_in_place(|| self.park_in(&to_park[portion]))?;
            parked_count += checkpoint.counts.records_in;
            self.submit_own(checkpoint).await?;
        }
        Ok(parked_count)
    }

    /// A checkpoint that parks records. They leave their inputs with it.
    fn park_in(&mut self, to_park: &[ToPark]) -> Result<Checkpoint, TaskError> {
        let now_ms = self.now_ms();
        let mut checkpoint = Checkpoint::default();
        let mut lost: HashSet<(u32, Receipt)> = HashSet::new();
        for (queue, receipts) in messages(to_park.iter().map(|to_park| &to_park.waiting)) {
            let settled = queue.acknowledge_in(&receipts, &mut checkpoint.commit)?;
            let stale = settled.stale.into_iter();
            lost.extend(stale.map(|receipt| (queue.id(), receipt)));
        }
        let mut parked = self.parked.lock();
        for ToPark { waiting, sequence } in to_park {
            let message = waiting.message();
            if message.is_some_and(|(queue, receipt)| lost.contains(&(queue.id(), receipt))) {
                continue;
            }
            let columns = &waiting.fetched.columns;
            let record = fresh(&self.pipeline, columns, waiting.index, now_ms)?;
            let (group, commit) = (waiting.group, &mut checkpoint.commit);
            match sequence {
                Some(sequence) => parked.park_at(*sequence, group, &record, commit),
                None => parked.park(group, &record, commit),
            }
            if message.is_none() {
                let offset = std::iter::once(waiting.offset());
                self.own_progress.finished(waiting.fetched.turn, offset);
            }
            checkpoint.counts.records_in += 1;
        }
        Ok(checkpoint)
    }

    /// Commits something of the task itself, and waits until it is durable.
    async fn submit_own(&mut self, mut checkpoint: Checkpoint) -> Result<(), TaskError> {
        let now_ms = self.now_ms();
        // Commits are completed in the order in which they are submitted, which this lock is for.
        let mut progress = self.progress.lock().await;
        {
            let mut parked = self.parked.lock();
            parked.complete(&mut checkpoint.commit);
            self.status.set_parked(parked.len(), parked.group_count());
        }
        self.own_progress
            .add_to(&mut progress, now_ms, &mut checkpoint.commit);
        let (commit, counts) = (checkpoint.commit, checkpoint.counts);
        self.own_checkpoints
            .submit(commit, counts, &self.status)
            .await?;
        drop(progress);
        self.own_checkpoints.settle(&self.status).await?;
        self.own_progress.acknowledged(&self.status).await;
        Ok(())
    }

    /// Gives messages back that were leased and not run.
    pub(super) async fn give_back(&mut self) {
        for (queue, receipts) in self.backlog.take_messages() {
            if let Err(error) = give_messages_back(&queue, &receipts).await {
                tracing::warn!(queue = %queue.name(), %error, "messages stay leased until their visibility timeout");
            }
        }
    }
}

/// Splits items into portions of at most so many bytes, or of one item.
fn portions<T>(
    items: &[T],
    max_bytes: usize,
    size_bytes: impl Fn(&T) -> usize,
) -> Vec<Range<usize>> {
    let mut portions: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (index, item) in items.iter().enumerate() {
        let of_item = size_bytes(item);
        bytes += of_item;
        match portions.last_mut() {
            Some(portion) if bytes <= max_bytes => portion.end = index + 1,
            _ => {
                bytes = of_item;
                portions.push(index..index + 1);
            }
        }
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A commit takes 128 MiB, and the backlog may hold more.
    #[test]
    fn what_is_parked_together_fits_into_commits() {
        let split = |sizes: &[usize]| portions(sizes, 10, |size| *size);
        assert!(split(&[]).is_empty());
        assert_eq!(split(&[4, 6, 1]), [0..2, 2..3]);
        assert_eq!(split(&[11, 3, 20, 2, 8]), [0..1, 1..2, 2..3, 3..5]);
        let sizes = vec![3; 100];
        let portions = split(&sizes);
        assert!(portions.iter().all(|portion| portion.len() <= 3));
        assert!(portions.into_iter().flatten().eq(0..100));
    }
}
