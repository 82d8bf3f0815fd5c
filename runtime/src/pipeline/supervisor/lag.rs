//! How the pipelines are, with what waits for them.
//!
//! That is read from the store, in which every input has a part. Whoever does without asks for what he needs (`view.rs`).

use super::Pipelines;
use super::view::PipelineStatus;
use crate::group::Lag;
use crate::manifest::Start;
use crate::model::PipelineName;
use crate::pipeline::lag::{LagReader, QueueLag, Reads, TaskLag, lag_by_task};
use crate::pipeline::{Error, PipelineDescription, registry};

/// A pipeline that has run on the data directory, and how it is now if a manifest that was applied has it.
pub type Described = (PipelineDescription, Option<PipelineStatus>);

impl Pipelines {
    /// All pipelines of all applied manifests, by name, with what waits for them. Reads the position in each partition, and
    /// a batch where it has moved since the last look.
    pub fn status(&self) -> Vec<PipelineStatus> {
        let views: Vec<_> = {
            let managed = self.shared.managed.lock();
            self.shared
                .lag_memory
                .keep_only(|name| managed.contains_key(name));
            let managed = managed.values();
            managed.map(|it| (self.view(it), it.spec.start)).collect()
        };
        let views = views.into_iter();
        views
            .map(|(status, start)| self.with_lag(status, start))
            .collect()
    }

    /// One pipeline of an applied manifest, with what waits for it.
    pub fn status_of(&self, name: &PipelineName) -> Option<PipelineStatus> {
        let (status, start) = self.view_of(name)?;
        Some(self.with_lag(status, start))
    }

    /// All pipelines that have run on the data directory, and those of applied manifests, whose plugin may have been refused
    /// from the start; by name, as they are stored and as they are now. What waits is read once for both.
    pub fn described(&self) -> Result<Vec<Described>, Error> {
        let mut all = registry::list_with(&self.lag_reader())?;
        let others = self.of_manifests(|name| !all.iter().any(|it| it.name == *name));
        all.extend(others);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        {
            let managed = self.shared.managed.lock();
            self.shared.lag_memory.keep_only(|name| {
                let is_stored = |it: &PipelineDescription| it.name == *name;
                managed.contains_key(name) || all.iter().any(is_stored)
            });
        }
        let all = all.into_iter();
        Ok(all.map(|it| self.with_status(it)).collect())
    }

    /// One of the pipelines of [`described`](Self::described).
    ///
    /// # Errors
    /// [`Error::UnknownPipeline`]
    pub fn described_one(&self, name: &PipelineName) -> Result<Described, Error> {
        let description = match registry::describe_with(&self.lag_reader(), name) {
            Err(unknown @ Error::UnknownPipeline { .. }) => {
                let of_manifest = self.of_manifests(|managed| managed == name);
                of_manifest.into_iter().next().ok_or(unknown)?
            }
            described => described?,
        };
        Ok(self.with_status(description))
    }

    /// Pipelines as their manifests have them, and what waits for them: of those that have never run nothing is stored.
    fn of_manifests(&self, is_wanted: impl Fn(&PipelineName) -> bool) -> Vec<PipelineDescription> {
        let mut described: Vec<_> = {
            let managed = self.shared.managed.lock();
            let wanted = managed.values().filter(|it| is_wanted(&it.spec.name));
            wanted
                .map(|it| PipelineDescription::of_spec(&it.spec))
                .collect()
        };
        for description in &mut described {
            let reads = description.reads();
            let lags = self.lag_reader().lags_of(&description.name, &reads);
            (description.positions, description.queues) = (lags.partitions, lags.queues);
        }
        described
    }

    fn with_status(&self, description: PipelineDescription) -> Described {
        let status = self.view_of(&description.name).map(|(mut status, start)| {
            // One whose new version was refused is stored as it ran before.
            if reads_of(&status, start) != description.reads() {
                return self.with_lag(status, start);
            }
            status.set_lag(&description.positions, &description.queues);
            status
        });
        (description, status)
    }

    /// How a pipeline is, but for what waits, and where it starts without a position.
    fn view_of(&self, name: &PipelineName) -> Option<(PipelineStatus, Start)> {
        let managed = self.shared.managed.lock();
        let managed = managed.get(name)?;
        Some((self.view(managed), managed.spec.start))
    }

    /// Adds what waits. Nobody who changes something waits for what is read for that.
    fn with_lag(&self, mut status: PipelineStatus, start: Start) -> PipelineStatus {
        let lags = self
            .lag_reader()
            .lags_of(&status.name, &reads_of(&status, start));
        status.set_lag(&lags.partitions, &lags.queues);
        status
    }

    fn lag_reader(&self) -> LagReader<'_> {
        LagReader {
            log: &self.shared.log,
            queues: &self.shared.queues,
            groups: &self.shared.groups,
            memory: &self.shared.lag_memory,
        }
    }
}

fn reads_of(status: &PipelineStatus, start: Start) -> Reads<'_> {
    Reads {
        group: &status.group,
        inputs: &status.inputs,
        start,
    }
}

impl PipelineStatus {
    fn set_lag(&mut self, partitions: &[Lag], queues: &[QueueLag]) {
        let by_task = lag_by_task(partitions, queues);
        let mut all = TaskLag::default();
        for lag in by_task.values() {
            all.add(lag.count, lag.lag_ms);
        }
        (self.totals.lag_records, self.lag_ms) = (all.count, all.lag_ms);
        for task in &mut self.tasks {
            let lag = by_task.get(&task.partition).copied().unwrap_or_default();
            (task.totals.lag_records, task.lag_ms) = (lag.count, lag.lag_ms);
        }
    }
}
