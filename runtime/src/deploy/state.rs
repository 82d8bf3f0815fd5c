//! Goes back to an earlier version together with the state and the positions that its pipelines had when the
//! later one was deployed.
//!
//! What they had is in the checkpoint that was taken then. It is read once to its end before anything is changed,
//! so that a damaged one changes nothing. Then the tasks are stopped, the deploy's record says that state is being
//! put back, and it is put back in commits of bounded size (what waits to be tried again: `parked.rs`); the last one makes
//! the old version current and says that all is done. If that fails, `unfinished.rs` keeps the pipelines from running. A
//! process that is killed in between begins again with that when it starts, before any pipeline does. Nothing of it
//! depends on how far it came.

use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use super::records::{self, Deploy, Mode, Outcome, Report};
use super::{Deployments, Error};
use crate::model::{PipelineName, PluginName, Target, TopicName};
use crate::pipeline::{self, PipelineIdentity};
use crate::plugin::{Digest, Plugin};
use crate::storage::schema::group_offset::{self, CommittedOffset};
use crate::storage::schema::{KeyKind, group_gaps, partition_head, pipeline as pipeline_key};
use crate::storage::{self, Commit, Partition, ReadOnlyStore, Scan};

/// Bytes of a commit after which the next one begins.
pub(super) const COMMIT_BYTES: usize = 16 << 20;
/// Kinds of entries that belong to a pipeline, and whose keys begin with its id.
const OWN_KINDS: [KeyKind; 5] = [
    KeyKind::State,
    KeyKind::Changelog,
    KeyKind::Parked,
    KeyKind::ParkedGroup,
    KeyKind::Timer,
];

/// Records that were written to an output since the checkpoint to which its pipelines went back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Unsent {
    /// The topic or queue.
    pub target: Target,
    /// Records since, whoever wrote them.
    pub records: u64,
}

/// Records of an input that would have to be processed again after a return, and that retention has deleted since the
/// checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Missing {
    /// The pipeline that has gone back.
    pub pipeline: PipelineName,
    /// The topic.
    pub topic: TopicName,
    /// Its partition.
    pub partition: u32,
    /// The offset to which the pipeline has gone back: the first one that is missing.
    pub from_offset: u64,
    /// The first offset that is still there.
    pub to_offset: u64,
}

/// A pipeline that goes back.
pub(super) struct Returning {
    name: PipelineName,
    /// What it is now.
    pub(super) now: PipelineIdentity,
    /// What it was in the checkpoint; `None` if it was not there yet.
    pub(super) then: Option<PipelineIdentity>,
    inputs: Vec<Target>,
}

impl Deployments {
    /// As [`rollback`](Self::rollback); and the pipelines that use the plugin get the keyed state, the timers, the
    /// parked records and the positions back that they had when the later version was deployed. They process
    /// again what came since. The deploy's report says which outputs were written since and cannot be taken
    /// back, and which records are to be processed again and are not there any more. Messages that were taken out of
    /// queues since, and dead letters that were sent back, do not come back if they were processed; if they wait to be tried
    /// again they go on waiting.
    ///
    /// # Errors
    /// As [`rollback`](Self::rollback); [`Error::NoCheckpoint`] if there is none of that deploy any more;
    /// [`Error::RollbackUnfinished`] if it fails midway, after which it has to be run again.
    pub async fn rollback_with_state(
        &self,
        name: &PluginName,
        by: Option<String>,
    ) -> Result<Deploy, Error> {
        let (this, name) = (self.clone(), name.clone());
        self.to_its_end(async move { this.go_back(&name, by).await })
            .await
    }

    async fn go_back(&self, name: &PluginName, by: Option<String>) -> Result<Deploy, Error> {
        let _change = self.shared.changes.lock().await;
        let (id, earlier) = self.deploy_to_undo(name)?;
        let plugin = self.load(name, &earlier)?;
        let mode = Mode::Rollback { restores: Some(id) };
        let mut deploy = self.begin(name, earlier, mode, by).await?;
        self.add_half_restored(&mut deploy)?;
        if let Err(error) = block_in_place(|| self.check_checkpoint(&deploy, id)) {
            return self.fail(deploy, error).await;
        }
        for pipeline in &deploy.pipelines {
            self.shared.pipelines.suspend(pipeline).await;
        }
        deploy.is_restoring = true;
        let mut commit = Commit::new();
        records::put_deploy(&mut commit, &deploy)?;
        self.shared.store.commit(commit).await?;
        let deploy = match self.restore_state(deploy.clone(), id).await {
            Ok(deploy) => deploy,
            Err(error) => return Err(self.leave_unfinished(deploy, error).await),
        };
        let (mut failure, mut pipelines) = (None, Vec::new());
        for pipeline in &deploy.pipelines {
            // Whatever becomes of one, the others go on.
            if let Err(error) = self.start_again(pipeline, &plugin).await {
                failure.get_or_insert(error);
                pipelines.push(pipeline.clone());
            }
        }
        match failure {
            Some(source) => Err(Error::NotStartedAgain {
                id: deploy.id,
                name: name.clone(),
                pipelines,
                source: Box::new(source),
            }),
            None => Ok(deploy),
        }
    }

    /// Starts a pipeline whose state is whole again, unless it is paused.
    async fn start_again(&self, pipeline: &PipelineName, plugin: &Plugin) -> Result<(), Error> {
        let pipelines = &self.shared.pipelines;
        match pipelines.swap(pipeline, None, plugin).await {
            Ok(_) => {}
            Err(pipeline::Error::NotApplied { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        // After a restart with half of the state it is only held back.
        let manifest = pipelines.manifest_of(pipeline);
        let applied = manifest.map(|name| records::manifest(&self.shared.store, &name));
        let applied = applied.transpose()?.flatten();
        if applied.is_some_and(|applied| applied.paused.contains(pipeline)) {
            return Ok(());
        }
        Ok(pipelines.resume(pipeline).await?)
    }

    /// The last deploy that made the current version so, and the version before it.
    fn deploy_to_undo(&self, name: &PluginName) -> Result<(u64, Digest), Error> {
        let stored = self.stored_plugin(name)?;
        let found = self.last_deploy_of(name, &stored)?;
        let (id, earlier) = found.ok_or_else(|| Error::NoEarlierVersion { name: name.clone() })?;
        match self.shared.checkpoints.has(id) {
            true => Ok((id, earlier)),
            false => Err(Error::NoCheckpoint {
                name: name.clone(),
                id,
            }),
        }
    }

    /// Reads everything that is to be put back.
    fn check_checkpoint(&self, deploy: &Deploy, id: u64) -> Result<(), Error> {
        let checkpoint = self.shared.checkpoints.open(id)?;
        for pipeline in self.returning(deploy, &checkpoint)? {
            let Some(then) = &pipeline.then else {
                continue;
            };
            for kind in OWN_KINDS {
                let prefix = storage::schema::pipeline_prefix(kind, then.id);
                checkpoint.scan_prefix(kind, &prefix, |_, _| Ok(Scan::Continue))?;
            }
        }
        Ok(())
    }

    /// Puts state and positions back, makes the earlier version current, and says that it is done.
    pub(super) async fn restore_state(&self, mut deploy: Deploy, id: u64) -> Result<Deploy, Error> {
        let checkpoint = block_in_place(|| self.shared.checkpoints.open(id))?;
        for pipeline in self.returning(&deploy, &checkpoint)? {
            self.restore_pipeline(&checkpoint, &pipeline).await?;
            tracing::info!(deploy = deploy.id, pipeline = %pipeline.name, "state and positions are back");
        }
        fail::fail_point!("deploy::state-restored", |_| Err(Error::Panicked(
            "a failpoint".to_owned()
        )));
        deploy.report = Some(Report::Unsent {
            outputs: self.unsent(&deploy, &checkpoint)?,
            missing: self.missing(&deploy, &checkpoint)?,
        });
        deploy.is_restoring = false;
        self.end(deploy, Outcome::Succeeded, None).await
    }

    /// The pipelines of a deploy that have run. Those of manifests that do not run at this moment are among them.
    pub(super) fn returning(
        &self,
        deploy: &Deploy,
        checkpoint: &ReadOnlyStore,
    ) -> Result<Vec<Returning>, Error> {
        let mut returning = Vec::new();
        for name in &deploy.pipelines {
            let key = pipeline_key::key(name.as_str());
            let Some(value) = self.shared.store.get(KeyKind::Pipeline, &key)? else {
                continue;
            };
            let then = checkpoint.get(KeyKind::Pipeline, &key)?;
            let then = then.map(|value| pipeline::parse_identity(name, &value));
            let now = pipeline::parse_identity(name, &value)?;
            returning.push(Returning {
                name: name.clone(),
                inputs: now.inputs.clone(),
                now,
                then: then.transpose()?,
            });
        }
        Ok(returning)
    }

    async fn restore_pipeline(
        &self,
        checkpoint: &ReadOnlyStore,
        pipeline: &Returning,
    ) -> Result<(), Error> {
        let kept_count = self.keep_parked(checkpoint, pipeline).await?;
        if kept_count > 0 {
            let name = &pipeline.name;
            tracing::info!(pipeline = %name, records = kept_count, "records that do not come again go on waiting to be tried");
        }
        let mut commit = Commit::new();
        commit.forget_progress(pipeline.now.id);
        self.restore_positions(checkpoint, pipeline, &mut commit)?;
        if let Some(then) = &pipeline.then {
            for kind in OWN_KINDS {
                let prefix = storage::schema::pipeline_prefix(kind, then.id);
                let mut from = prefix.to_vec();
                loop {
                    let next = block_in_place(|| {
                        copy_some(checkpoint, kind, &from, &prefix, pipeline, &mut commit)
                    })?;
                    let Some(next) = next else { break };
                    let full = std::mem::take(&mut commit);
                    self.shared.store.commit(full).await?;
                    fail::fail_point!("deploy::state-partly-restored");
                    from = next;
                }
            }
        }
        self.shared.store.commit(commit).await?;
        Ok(())
    }

    /// Adds where the pipeline stood in its topics.
    fn restore_positions(
        &self,
        checkpoint: &ReadOnlyStore,
        pipeline: &Returning,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let group = pipeline.now.group.as_str();
        for input in pipeline.inputs.iter().filter_map(Target::topic) {
            // One that has been deleted since has no positions any more.
            let Ok(topic) = self.shared.log.topic(input) else {
                continue;
            };
            for partition in topic.partitions() {
                let (topic_id, index) = (partition.topic_id(), partition.index());
                commit.delete_offset(group, topic_id, index);
                let Some(then) = &pipeline.then else {
                    continue;
                };
                let earlier = then.group.as_str();
                if let Some(committed) = position_in(checkpoint, earlier, partition)? {
                    commit.commit_offset(group, topic_id, index, committed);
                }
                let prefix = group_gaps::partition_prefix(earlier, topic_id, index);
                checkpoint.scan_prefix(KeyKind::GroupGaps, &prefix, |key, value| {
                    if let Some((_, _, _, lane)) = group_gaps::parse_key(key) {
                        let key = group_gaps::key(group, topic_id, index, lane);
                        let value = bytes::Bytes::copy_from_slice(value);
                        commit.put(KeyKind::GroupGaps, key, value);
                    }
                    Ok(Scan::Continue)
                })?;
            }
        }
        Ok(())
    }

    /// What the pipelines are to process again, and is not there any more.
    fn missing(&self, deploy: &Deploy, checkpoint: &ReadOnlyStore) -> Result<Vec<Missing>, Error> {
        let mut missing = Vec::new();
        for pipeline in self.returning(deploy, checkpoint)? {
            let Some(then) = &pipeline.then else {
                continue;
            };
            for name in pipeline.inputs.iter().filter_map(Target::topic) {
                let Ok(topic) = self.shared.log.topic(name) else {
                    continue;
                };
                for partition in topic.partitions() {
                    let position = position_in(checkpoint, then.group.as_str(), partition)?;
                    let start_offset = partition.start_offset();
                    if let Some(position) = position
                        && position.offset < start_offset
                    {
                        missing.push(Missing {
                            pipeline: pipeline.name.clone(),
                            topic: name.clone(),
                            partition: partition.index(),
                            from_offset: position.offset,
                            to_offset: start_offset,
                        });
                    }
                }
            }
        }
        Ok(missing)
    }

    /// What was written to the outputs of the pipelines since the checkpoint.
    fn unsent(&self, deploy: &Deploy, checkpoint: &ReadOnlyStore) -> Result<Vec<Unsent>, Error> {
        let mut outputs: Vec<Unsent> = Vec::new();
        for pipeline in self.returning(deploy, checkpoint)? {
            let then = pipeline.then.iter().flat_map(|then| &then.outputs);
            for target in pipeline.now.outputs.iter().chain(then) {
                if outputs.iter().any(|unsent| unsent.target == *target) {
                    continue;
                }
                let partitions = match target {
                    Target::Topic(name) => self.shared.log.topic(name).ok().map(|topic| {
                        let partitions = topic.partitions().iter();
                        partitions.cloned().collect()
                    }),
                    Target::Queue(name) => {
                        let queue = self.shared.queues.queue(name).ok();
                        queue.map(|queue| vec![std::sync::Arc::clone(queue.partition())])
                    }
                };
                let mut records = 0;
                for partition in partitions.unwrap_or_default() {
                    let key = partition_head::key(partition.topic_id(), partition.index());
                    let head = checkpoint.get(KeyKind::PartitionHead, &key)?;
                    let head = head.as_deref().and_then(partition_head::parse_value);
                    let then = head.map_or(0, |head| head.next_offset);
                    records += partition.high_watermark().saturating_sub(then);
                }
                outputs.push(Unsent {
                    target: target.clone(),
                    records,
                });
            }
        }
        outputs.retain(|unsent| unsent.records > 0);
        Ok(outputs)
    }
}

/// What a group had committed in a partition.
pub(super) fn position_in(
    checkpoint: &ReadOnlyStore,
    group: &str,
    partition: &Partition,
) -> Result<Option<CommittedOffset>, Error> {
    let key = group_offset::key(group, partition.topic_id(), partition.index());
    let value = checkpoint.get(KeyKind::GroupOffset, &key)?;
    Ok(value.as_deref().and_then(group_offset::parse_value))
}

/// Copies entries of a pipeline from a key on into a commit until that is full. Returns the key to go on at;
/// `None` at the end.
fn copy_some(
    checkpoint: &ReadOnlyStore,
    kind: KeyKind,
    from: &[u8],
    prefix: &[u8],
    pipeline: &Returning,
    commit: &mut Commit,
) -> Result<Option<Vec<u8>>, Error> {
    let id = pipeline.now.id.to_be_bytes();
    let end = storage::schema::prefix_end(prefix);
    let mut next = None;
    checkpoint.scan(kind, from, end.as_deref(), |key, value| {
        if commit.len_bytes() >= COMMIT_BYTES {
            next = Some(key.to_vec());
            return Ok(Scan::Stop);
        }
        let mut own = key.to_vec();
        // Behind the kind's code, whatever the kind.
        if let Some(field) = own.get_mut(1..5) {
            field.copy_from_slice(&id);
        }
        commit.put(kind, own, bytes::Bytes::copy_from_slice(value));
        Ok(Scan::Continue)
    })?;
    Ok(next)
}
