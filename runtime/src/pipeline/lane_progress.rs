//! How far a task's inputs are processed when several lanes do it at a time, out of order.
//!
//! What is committed is an offset below which everything is done, as everywhere, and what is done beyond it:
//! each lane says of itself which offsets it has finished, with the commit that holds their outputs. Offsets go
//! below the committed one only when they are durable, so that no commit claims what another one that is still
//! on its way may fail to do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use super::TaskError;
use super::runtime::PipelineRuntime;
use super::status::{InputStatus, TaskStatus};
use crate::model::GroupName;
use crate::storage::schema::group_offset::CommittedOffset;
use crate::storage::{Commit, Partition};

/// The progress of all lanes of a task. Clones share it.
#[derive(Clone)]
pub(super) struct SharedProgress(Arc<Mutex<Progress>>);

/// The progress of each input of a task.
pub(super) struct Progress {
    group: GroupName,
    /// By number among the task's inputs; `None` for a queue.
    inputs: Vec<Option<InputProgress>>,
}

struct InputProgress {
    partition: Arc<Partition>,
    /// Everything below is done, durably.
    low: u64,
    /// The offset that was committed last.
    committed: u64,
    /// What is done beyond it, durably.
    done: OffsetRanges,
    /// What each lane has committed beyond it, or is about to.
    lanes: Vec<OffsetRanges>,
}

/// A set of offsets that mostly lie side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OffsetRanges(BTreeMap<u64, u64>);

impl OffsetRanges {
    pub(super) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        // Whatever it overlaps or touches becomes a part of it.
        while let Some((first, last)) = self.0.range(..=end).next_back().map(|(f, l)| (*f, *l)) {
            if last < start {
                break;
            }
            start = start.min(first);
            end = end.max(last);
            self.0.remove(&first);
        }
        self.0.insert(start, end);
    }

    /// The offset after the last one in the set.
    pub(super) fn end(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, end)| *end)
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        let before = self.0.range(..=offset).next_back();
        before.is_some_and(|(_, end)| *end > offset)
    }

    /// The first offset from `low` on that is not in the set; what is below it goes.
    fn advance(&mut self, low: u64) -> u64 {
        self.forget_below(low);
        match self.0.first_key_value() {
            Some((start, end)) if *start == low => {
                let end = *end;
                self.0.pop_first();
                end
            }
            _ => low,
        }
    }

    fn forget_below(&mut self, low: u64) {
        while let Some((start, end)) = self.0.first_key_value().map(|(s, e)| (*s, *e)) {
            if start >= low {
                break;
            }
            self.0.pop_first();
            if end > low {
                self.0.insert(low, end);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }
}

impl SharedProgress {
    /// Reads the progress of a task's inputs, for so many lanes. What an earlier run with more lanes has left
    /// is the first lane's from now on.
    pub(super) async fn open(
        pipeline: &PipelineRuntime,
        status: &TaskStatus,
        lanes: u32,
    ) -> Result<Self, TaskError> {
        let group = &pipeline.spec.group;
        let mut inputs = Vec::new();
        let mut commit = Commit::new();
        for input in &status.inputs {
            let InputStatus::Topic { partition, .. } = input else {
                inputs.push(None);
                continue;
            };
            let low = pipeline.start_offset(partition)?;
            let mut progress = InputProgress {
                partition: Arc::clone(partition),
                low,
                committed: low,
                done: OffsetRanges::default(),
                lanes: vec![OffsetRanges::default(); lanes as usize],
            };
            for (lane, ranges) in pipeline.groups.gaps(group, partition)? {
                let lane_number = if lane < lanes { lane } else { 0 };
                for range in ranges {
                    progress.done.insert(range.clone());
                    if let Some(of_lane) = progress.lanes.get_mut(lane_number as usize) {
                        of_lane.insert(range);
                    }
                }
                if lane >= lanes {
                    progress.commit_lane(group, 0, &mut commit);
                    progress.forget_lane(group, lane, &mut commit);
                }
            }
            progress.advance();
            input.set_offset(progress.low);
            inputs.push(Some(progress));
        }
        if !commit.is_empty() {
            pipeline.log.store().commit(commit).await?;
        }
        Ok(Self(Arc::new(Mutex::new(Progress {
            group: group.clone(),
            inputs,
        }))))
    }

    pub(super) async fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().await
    }
}

impl Progress {
    /// The offset of an input below which everything is done, and what is done beyond it; `None` for a queue.
    pub(super) fn position(&self, turn: usize) -> Option<(u64, OffsetRanges)> {
        let input = self.inputs.get(turn)?.as_ref()?;
        Some((input.low, input.done.clone()))
    }

    /// Notes that an input has no records at these offsets.
    pub(super) fn skip(&mut self, turn: usize, range: Range<u64>, status: &TaskStatus) {
        self.acknowledge(&[(turn, range)], status);
    }

    /// Whether something is done that the committed offsets do not say.
    pub(super) fn is_behind(&self) -> bool {
        let mut inputs = self.inputs.iter().flatten();
        inputs.any(|input| input.low > input.committed)
    }

    /// Adds to a commit how far everything is done.
    pub(super) fn add_to(&mut self, now_ms: u64, commit: &mut Commit) {
        for input in self.inputs.iter_mut().flatten() {
            if input.low > input.committed {
                input.commit_offset(&self.group, now_ms, commit);
                for lane in 0..input.lanes.len() {
                    input.commit_lane(&self.group, lane as u32, commit);
                }
            }
        }
    }

    fn finish(
        &mut self,
        lane: u32,
        finished: &[(usize, Range<u64>)],
        now_ms: u64,
        commit: &mut Commit,
    ) {
        for (turn, input) in self.inputs.iter_mut().enumerate() {
            let Some(input) = input else { continue };
            let mut has_changed = false;
            if let Some(of_lane) = input.lanes.get_mut(lane as usize) {
                for (_, range) in finished.iter().filter(|(of, _)| *of == turn) {
                    of_lane.insert(range.clone());
                    has_changed = true;
                }
            }
            if has_changed {
                input.commit_offset(&self.group, now_ms, commit);
                input.commit_lane(&self.group, lane, commit);
            }
        }
    }

    fn acknowledge(&mut self, finished: &[(usize, Range<u64>)], status: &TaskStatus) {
        for (turn, range) in finished {
            let Some(input) = self.inputs.get_mut(*turn).and_then(Option::as_mut) else {
                continue;
            };
            input.done.insert(range.clone());
            input.advance();
            if let Some(shown) = status.inputs.get(*turn) {
                shown.set_offset(input.low);
            }
        }
    }
}

impl InputProgress {
    fn advance(&mut self) {
        self.low = self.done.advance(self.low);
    }

    fn commit_offset(&mut self, group: &GroupName, now_ms: u64, commit: &mut Commit) {
        let committed = CommittedOffset {
            offset: self.low,
            committed_at_ms: now_ms,
        };
        let (topic_id, partition) = (self.partition.topic_id(), self.partition.index());
        commit.commit_offset(group.as_str(), topic_id, partition, committed);
        self.committed = self.low;
    }

    fn commit_lane(&mut self, group: &GroupName, lane: u32, commit: &mut Commit) {
        let (topic_id, partition) = (self.partition.topic_id(), self.partition.index());
        if let Some(of_lane) = self.lanes.get_mut(lane as usize) {
            of_lane.forget_below(self.low);
            commit.commit_gaps(group.as_str(), topic_id, partition, lane, of_lane.iter());
        }
    }

    fn forget_lane(&self, group: &GroupName, lane: u32, commit: &mut Commit) {
        let (topic_id, partition) = (self.partition.topic_id(), self.partition.index());
        commit.commit_gaps(
            group.as_str(),
            topic_id,
            partition,
            lane,
            std::iter::empty(),
        );
    }
}

/// What one lane adds to the progress.
pub(super) struct LaneProgress {
    number: u32,
    shared: SharedProgress,
    /// Finished, and in no commit yet.
    finished: Vec<(usize, Range<u64>)>,
    /// In a commit that is on its way.
    submitted: Vec<(usize, Range<u64>)>,
}

impl LaneProgress {
    pub(super) fn new(number: u32, shared: SharedProgress) -> Self {
        Self {
            number,
            shared,
            finished: Vec::new(),
            submitted: Vec::new(),
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn shared(&self) -> SharedProgress {
        self.shared.clone()
    }

    /// Notes offsets of an input that the next checkpoint finishes.
    pub(super) fn finished(&mut self, turn: usize, offsets: impl Iterator<Item = u64>) {
        for offset in offsets {
            match self.finished.last_mut() {
                Some((of, range)) if *of == turn && range.end == offset => range.end = offset + 1,
                _ => self.finished.push((turn, offset..offset + 1)),
            }
        }
    }

    /// Adds what was finished to a commit, and how far everything is done.
    pub(super) fn add_to(&mut self, progress: &mut Progress, now_ms: u64, commit: &mut Commit) {
        progress.finish(self.number, &self.finished, now_ms, commit);
        self.submitted.append(&mut self.finished);
    }

    /// Counts what was submitted as done: its commit is durable.
    pub(super) async fn acknowledged(&mut self, status: &TaskStatus) {
        if !self.submitted.is_empty() {
            let mut progress = self.shared.lock().await;
            progress.acknowledge(&self.submitted, status);
            self.submitted.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_a_set(
            inserted in prop::collection::vec((0u64..60, 0u64..12), 0..30),
            low in 0u64..70,
        ) {
            let mut ranges = OffsetRanges::default();
            let mut model = BTreeSet::new();
            for (start, len) in inserted {
                ranges.insert(start..start + len);
                model.extend(start..start + len);
            }
            for offset in 0..80 {
                prop_assert_eq!(ranges.contains(offset), model.contains(&offset));
            }
            let listed: Vec<Range<u64>> = ranges.iter().collect();
            for pair in listed.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            let advanced = ranges.advance(low);
            let expected = (low..).find(|offset| !model.contains(offset)).unwrap();
            prop_assert_eq!(advanced, expected);
            for offset in 0..80 {
                let is_left = offset >= advanced && model.contains(&offset);
                prop_assert_eq!(ranges.contains(offset), is_left);
            }
        }
    }
}
