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
use crate::pipeline::input::Source;
use crate::pipeline::retry::{self, GroupId};
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

/// The first record of an input in a group that has only waited so far.
struct FirstWaiting {
    offset: u64,
    sequence: u64,
}

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
        let first = block_in_place(|| self.first_waiting())?;
        for turn in 0..self.inputs.len() {
            let of_input = first.iter().filter(|((of, _), _)| *of == turn);
            if let Some(last) = of_input.map(|(_, first)| first.offset).max() {
                self.read_before(turn, last, stop).await?;
            }
        }
        if *stop.borrow() {
            // Not all that may belong there has been read: the next run does it.
            return Ok(());
        }
        let overtaken = self.backlog.take_where(|waiting| {
            let first = first.get(&(waiting.fetched.turn, waiting.group));
            first.is_some_and(|first| waiting.offset() < first.offset)
        });
        let to_park = block_in_place(|| self.before(overtaken, &first))?;
        self.park(to_park).await?;
        Ok(())
    }

    /// By input and group: the first of the records that wait behind others and were perhaps parked before those had
    /// ended.
    fn first_waiting(&self) -> Result<HashMap<(usize, GroupId), FirstWaiting>, TaskError> {
        let mut first = HashMap::new();
        let mut inputs = self.inputs.iter().zip(&self.resumed);
        let may_have_overtaken = inputs.any(|(input, done)| match input.source {
            Source::Topic(_) => !done.is_empty(),
            Source::Queue(_) => true,
        });
        let parked = self.parked.lock();
        let has_order = self.pipeline.spec.retry.order != RetryOrder::None;
        if parked.is_empty() || !may_have_overtaken || !has_order {
            return Ok(first);
        }
        parked.read_all(|waiting| {
            let retry::Waiting {
                group,
                sequence,
                parked,
            } = waiting;
            let Some(turn) = self.turn_of(parked.input) else {
                return;
            };
            let offset = parked.record.base_offset();
            let is_beyond = match &self.inputs[turn].source {
                Source::Topic(cursor) => offset >= cursor.offset(),
                Source::Queue(_) => true,
            };
            // One that has failed, or is held, has run: what is before it had ended.
            let has_run = parked.attempt_count > 0 || parked.is_held();
            if is_beyond && !has_run {
                let entry = first.entry((turn, group));
                entry.or_insert(FirstWaiting { offset, sequence });
            }
        })?;
        Ok(first)
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
        first: &HashMap<(usize, GroupId), FirstWaiting>,
    ) -> Result<Vec<ToPark>, TaskError> {
        let parked = self.parked.lock();
        let mut taken: HashSet<(GroupId, u64)> = HashSet::new();
        let mut to_park = Vec::new();
        // The last ones first: then what a kill leaves undone still is before all that is parked.
        for waiting in overtaken.into_iter().rev() {
            let group = waiting.group;
            let sequence = match first.get(&(waiting.fetched.turn, group)) {
                Some(first) => parked.free_before(group, first.sequence, |sequence| {
                    taken.contains(&(group, sequence))
                })?,
                None => None,
            };
            taken.extend(sequence.map(|sequence| (group, sequence)));
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
        {
            let parked = self.parked.lock();
            self.status.set_parked(parked.len(), parked.group_count());
        }
        let mut progress = self.progress.lock().await;
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

    /// Releases messages that were leased and not run.
    pub(super) fn give_back(&mut self) {
        for (queue, receipts) in self.backlog.take_messages() {
            if let Err(error) = block_in_place(|| queue.release_unchanged(&receipts)) {
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
