//! What the last look at each pipeline's lag has found, so that the next one reads only what has changed since.
//!
//! A look replaces what the one before has left, so there is no more of a pipeline than it has partitions. Pipelines that
//! are gone are forgotten by whoever looks at all of them.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::model::{PipelineName, Target};
use crate::storage::{CleanMark, Partition};

/// What was found of each pipeline.
#[derive(Default)]
pub(in crate::pipeline) struct LagMemory {
    by_pipeline: Mutex<HashMap<PipelineName, Arc<Remembered>>>,
}

/// What was found of one pipeline.
#[derive(Default)]
pub(super) struct Remembered {
    /// By topic id and partition.
    oldest: HashMap<(u32, u32), OldestRecord>,
    /// By topic id and partition.
    starts: HashMap<(u32, u32), StartByTime>,
    /// What cannot be read of which input, and why.
    errors: Vec<(Target, String)>,
}

/// The oldest record that waits in a partition.
#[derive(Clone, Copy)]
pub(super) struct OldestRecord {
    /// Where it was looked for. There may be none any more: then it is the next one.
    pub(super) offset: u64,
    /// How far the cleaner had come, which removes records at the offset and behind it.
    pub(super) cleaned: CleanMark,
    pub(super) timestamp_ms: u64,
}

/// Where a pipeline without a position would start in a partition.
#[derive(Clone, Copy)]
pub(super) struct StartByTime {
    /// When its first record was to have been made.
    pub(super) timestamp_ms: u64,
    /// How far the cleaner had come.
    pub(super) cleaned: CleanMark,
    /// Where the first record is that was made then, or later.
    pub(super) offset: u64,
}

impl LagMemory {
    pub(super) fn remembered(&self, name: &PipelineName) -> Arc<Remembered> {
        self.by_pipeline
            .lock()
            .get(name)
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn remember(&self, name: &PipelineName, found: Remembered) {
        let mut by_pipeline = self.by_pipeline.lock();
        by_pipeline.insert(name.clone(), Arc::new(found));
    }

    /// Forgets all other pipelines. One that is forgotten though it is there costs its next look more, and no more.
    pub(in crate::pipeline) fn keep_only(&self, is_kept: impl Fn(&PipelineName) -> bool) {
        self.by_pipeline.lock().retain(|name, _| is_kept(name));
    }

    #[cfg(test)]
    pub(in crate::pipeline) fn pipeline_count(&self) -> usize {
        self.by_pipeline.lock().len()
    }
}

impl Remembered {
    pub(super) fn oldest_in(&self, partition: &Partition) -> Option<OldestRecord> {
        self.oldest.get(&key(partition)).copied()
    }

    pub(super) fn set_oldest(&mut self, partition: &Partition, oldest: OldestRecord) {
        self.oldest.insert(key(partition), oldest);
    }

    pub(super) fn start_in(&self, partition: &Partition) -> Option<StartByTime> {
        self.starts.get(&key(partition)).copied()
    }

    pub(super) fn set_start(&mut self, partition: &Partition, start: StartByTime) {
        self.starts.insert(key(partition), start);
    }

    pub(super) fn add_error(&mut self, input: &Target, error: String) {
        let error = (input.clone(), error);
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// What cannot be read now that could be read before, or not for another reason.
    pub(super) fn errors_beyond<'a>(
        &'a self,
        before: &Self,
    ) -> impl Iterator<Item = &'a (Target, String)> {
        let errors = self.errors.iter();
        errors.filter(|error| !before.errors.contains(error))
    }
}

fn key(partition: &Partition) -> (u32, u32) {
    (partition.topic_id(), partition.index())
}
