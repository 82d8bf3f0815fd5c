//! Makes the pipelines of a manifest run, whatever ran of it before.

use tokio::task::block_in_place;

use super::managed::{Managed, Run, refused_pipeline};
use super::{Pipelines, join};
use crate::manifest::{PipelineSpec, Place, ResolvedManifest};
use crate::model::{PipelineName, Target, TopicName};
use crate::pipeline::declared::Declared;
use crate::pipeline::runtime::PipelineRuntime;
use crate::pipeline::{Error, Plugins, Refusal, topics};
use crate::plugin::Plugin;

/// What applying a manifest has done to its pipelines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Each pipeline of the manifest, and each that it has no more.
    pub pipelines: Vec<(PipelineName, Change)>,
}

/// What has become of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not known before, and runs now.
    Started,
    /// It went on at a batch boundary with what has changed, or runs again after a failure.
    Restarted,
    /// Nothing about it has changed.
    Unchanged,
    /// It is known, and starts when it is resumed.
    Paused,
    /// It is known, with what has changed, and starts when a server does: no pipeline runs in this process.
    Applied,
    /// Its plugin cannot run in it: it is among the failures.
    Refused,
    /// The manifest does not name it any more: it has been stopped, and its state and position are kept.
    Stopped,
}

/// What is to be done about a pipeline.
enum Plan {
    Keep,
    Refuse(Refusal),
    Run(Box<PipelineRuntime>, Plugin),
}

impl Pipelines {
    /// Creates or updates the manifest's topics and queues, and makes its pipelines run: those that are new
    /// are started, those whose specification or plugin has changed go on with that from their next batch
    /// boundary on, at their position; so do those that have failed. Others are left alone, and so are the
    /// pipelines of other manifests. Pipelines that an earlier manifest of the same name had, and this one
    /// has not, are stopped. What is paused stays paused.
    ///
    /// A plugin that does not fit its pipeline refuses that pipeline, and no other.
    ///
    /// # Errors
    /// Whatever is wrong with the manifest or the data directory, [`Error::PipelineOfAnotherManifest`],
    /// [`Error::GroupInUse`], [`Error::TooManyInstances`], [`Error::StateConcurrency`]; then nothing has changed,
    /// neither in the data directory nor among the running pipelines. [`Error::Storage`] if the data directory fails;
    /// then topics and queues may have been created.
    pub async fn apply(
        &self,
        manifest: &ResolvedManifest,
        plugins: &Plugins,
    ) -> Result<Applied, Error> {
        self.apply_paused(manifest, plugins, &[]).await
    }

    /// As [`Pipelines::apply`]; pipelines of these names are not started before they are resumed.
    pub async fn apply_paused(
        &self,
        manifest: &ResolvedManifest,
        plugins: &Plugins,
        paused: &[PipelineName],
    ) -> Result<Applied, Error> {
        let shared = &*self.shared;
        let _change = shared.changes.lock().await;
        manifest.check_external_targets(|target| match target {
            Target::Topic(name) => shared.log.topic(name).is_ok(),
            Target::Queue(name) => shared.queues.queue(name).is_ok(),
        })?;
        self.check_conflicts(manifest)?;
        self.store_declared(manifest, plugins).await?;
        let mut plans = Vec::new();
        for spec in &manifest.pipelines {
            plans.push((spec, self.plan(spec, plugins.plugin_for(spec)).await?));
        }
        let mut applied = Applied::default();
        for (spec, plan) in plans {
            let is_paused = paused.contains(&spec.name);
            let change = self.carry_out(manifest, spec, plan, is_paused).await;
            applied.pipelines.push((spec.name.clone(), change));
        }
        for name in self.gone_from(manifest) {
            self.stop_tasks(&name).await;
            self.forget(&name);
            applied.pipelines.push((name, Change::Stopped));
        }
        Ok(applied)
    }

    /// Makes the pipelines of a manifest known that was applied earlier, without opening them: nothing is written, and
    /// none starts before something is changed about it. Pipelines of these names are paused.
    pub async fn make_known(
        &self,
        manifest: &ResolvedManifest,
        plugins: &Plugins,
        paused: &[PipelineName],
    ) {
        let _change = self.shared.changes.lock().await;
        let mut managed = self.shared.managed.lock();
        for spec in &manifest.pipelines {
            let known = Managed {
                manifest: manifest.name.clone(),
                spec: spec.clone(),
                plugin: plugins.plugin_for(spec).cloned(),
                is_paused: paused.contains(&spec.name),
                run: None,
            };
            managed.insert(spec.name.clone(), known);
        }
    }

    /// Checks a manifest against the pipelines of the others.
    fn check_conflicts(&self, manifest: &ResolvedManifest) -> Result<(), Error> {
        let managed = self.shared.managed.lock();
        let others = || {
            let others = managed.values();
            others.filter(|other| other.manifest != manifest.name)
        };
        for spec in &manifest.pipelines {
            for other in others() {
                if other.spec.name == spec.name {
                    return Err(Error::PipelineOfAnotherManifest {
                        name: spec.name.clone(),
                        manifest: other.manifest.clone(),
                    });
                }
                if other.spec.group == spec.group
                    && let Some(topic) = shared_topic(spec, &other.spec)
                {
                    return Err(Error::GroupInUse {
                        name: spec.name.clone(),
                        group: spec.group.clone(),
                        topic: topic.clone(),
                        other: other.spec.name.clone(),
                    });
                }
            }
        }
        let log = &self.shared.log;
        let of_others = others().map(|other| {
            topics::instances_of(&other.spec, |name| {
                log.topic(name).map_or(1, |topic| topic.partition_count())
            })
        });
        let needed = of_others.sum::<u64>() + topics::instance_count(manifest, Some(log));
        check_instances(needed, self.shared.max_instances)
    }

    /// Checks that there can be as many instances as a manifest needs in a data directory that is still to be created.
    ///
    /// # Errors
    /// [`Error::TooManyInstances`]
    pub fn check_room(plugins: &Plugins, manifest: &ResolvedManifest) -> Result<(), Error> {
        let needed = topics::instance_count(manifest, None);
        check_instances(needed, plugins.max_instances())
    }

    /// Stores what the manifest declares, and its pipelines need. Nothing is stored before all has been checked, of the
    /// pipelines, too.
    async fn store_declared(
        &self,
        manifest: &ResolvedManifest,
        plugins: &Plugins,
    ) -> Result<(), Error> {
        let shared = &*self.shared;
        let mut dead_letters = Vec::new();
        for spec in &manifest.pipelines {
            let Ok(plugin) = plugins.plugin_for(spec) else {
                continue;
            };
            if self.runs_as(spec, plugin) {
                continue;
            }
            PipelineRuntime::check_state(shared.log.store(), spec, plugin)?;
            dead_letters.extend(spec.dead_letter_queue().cloned());
        }
        let declared = Declared::plan(&shared.log, &shared.queues, manifest, dead_letters);
        declared.await?.store().await
    }

    /// What is to be done about a pipeline. Opens what it needs, so that none has been stopped if it fails.
    async fn plan(
        &self,
        spec: &PipelineSpec,
        plugin: Result<&Plugin, Refusal>,
    ) -> Result<Plan, Error> {
        let plugin = match plugin {
            Ok(plugin) => plugin,
            Err(refusal) => return Ok(Plan::Refuse(refusal)),
        };
        if self.runs_as(spec, plugin) {
            return Ok(Plan::Keep);
        }
        let opened = self.open(spec, plugin).await?;
        Ok(Plan::Run(Box::new(opened), plugin.clone()))
    }

    /// Whether a pipeline is known with this specification and plugin, and has not failed.
    fn runs_as(&self, spec: &PipelineSpec, plugin: &Plugin) -> bool {
        let managed = self.shared.managed.lock();
        let Some(known) = managed.get(&spec.name) else {
            return false;
        };
        let Ok(current) = &known.plugin else {
            return false;
        };
        let is_same = current.digest() == plugin.digest() && is_same(&known.spec, spec);
        is_same && !self.has_failed(&spec.name)
    }

    pub(super) async fn open(
        &self,
        spec: &PipelineSpec,
        plugin: &Plugin,
    ) -> Result<PipelineRuntime, Error> {
        let shared = &self.shared;
        let opened = PipelineRuntime::open(
            spec,
            plugin.clone(),
            shared.native.clone(),
            &shared.log,
            &shared.queues,
            &shared.groups,
            std::sync::Arc::clone(&shared.calls),
        );
        let mut opened = opened.await?;
        opened.log_limit = block_in_place(|| shared.logs.of(&spec.name));
        Ok(opened)
    }

    async fn carry_out(
        &self,
        manifest: &ResolvedManifest,
        spec: &PipelineSpec,
        plan: Plan,
        pause: bool,
    ) -> Change {
        let (pipeline, plugin) = match plan {
            Plan::Keep => return Change::Unchanged,
            Plan::Refuse(refusal) => {
                self.stop_tasks(&spec.name).await;
                self.forget(&spec.name);
                let failure = refused_pipeline(spec, refusal.clone());
                self.shared.failures.lock().push(failure);
                let refused = Managed {
                    manifest: manifest.name.clone(),
                    spec: spec.clone(),
                    plugin: Err(refusal),
                    is_paused: pause,
                    run: None,
                };
                let mut managed = self.shared.managed.lock();
                managed.insert(spec.name.clone(), refused);
                return Change::Refused;
            }
            Plan::Run(pipeline, plugin) => (*pipeline, plugin),
        };
        self.stop_tasks(&spec.name).await;
        let earlier = self.forget(&spec.name);
        let is_known = earlier.is_some();
        let is_paused = earlier.as_ref().map_or(pause, |earlier| earlier.is_paused);
        let run = self.run(
            pipeline,
            earlier.as_ref().and_then(|it| it.run.as_ref()),
            !is_paused,
        );
        let started = Managed {
            manifest: manifest.name.clone(),
            spec: spec.clone(),
            plugin: Ok(plugin),
            is_paused,
            run: Some(run),
        };
        let mut managed = self.shared.managed.lock();
        managed.insert(spec.name.clone(), started);
        match (is_paused, is_known) {
            (true, _) => Change::Paused,
            (false, _) if self.shared.is_offline => Change::Applied,
            (false, true) => Change::Restarted,
            (false, false) => Change::Started,
        }
    }

    /// The tasks of a pipeline, which count on from those of an earlier run. With `start` they start, if any runs in this
    /// process.
    pub(super) fn run(
        &self,
        mut pipeline: PipelineRuntime,
        earlier: Option<&Run>,
        start: bool,
    ) -> Run {
        if let Some(earlier) = earlier {
            pipeline.metrics = std::sync::Arc::clone(&earlier.pipeline.metrics);
        }
        let mut run = Run::new(pipeline, earlier);
        if start && !self.shared.is_offline {
            run.start(&self.shared.failures);
        }
        run
    }

    /// The pipelines of an earlier manifest of the same name that this one has not.
    fn gone_from(&self, manifest: &ResolvedManifest) -> Vec<PipelineName> {
        let managed = self.shared.managed.lock();
        let gone = managed.iter().filter(|(name, managed)| {
            managed.manifest == manifest.name && manifest.pipeline(name.as_str()).is_none()
        });
        gone.map(|(name, _)| name.clone()).collect()
    }

    /// Drops what is known of a pipeline, whose tasks have ended.
    pub(super) fn forget(&self, name: &PipelineName) -> Option<Managed> {
        self.forget_failures(name);
        self.shared.managed.lock().remove(name)
    }

    /// Stops the pipelines of a manifest and forgets them; their state and positions are kept. Returns their
    /// names.
    pub async fn remove_manifest(&self, manifest: &str) -> Vec<PipelineName> {
        let _change = self.shared.changes.lock().await;
        let (names, stopping) = {
            let mut managed = self.shared.managed.lock();
            let of_manifest = managed
                .iter_mut()
                .filter(|(_, managed)| managed.manifest == manifest);
            let (mut names, mut stopping) = (Vec::new(), Vec::new());
            for (name, managed) in of_manifest {
                names.push(name.clone());
                stopping.extend(managed.run.iter_mut().flat_map(Run::begin_stop));
            }
            (names, stopping)
        };
        join(stopping).await;
        for name in &names {
            self.forget(name);
        }
        names
    }
}

fn check_instances(needed: u64, limit: u32) -> Result<(), Error> {
    match needed > u64::from(limit) {
        true => Err(Error::TooManyInstances { needed, limit }),
        false => Ok(()),
    }
}

/// Whether two specifications mean the same, wherever in their files they stand.
fn is_same(a: &PipelineSpec, b: &PipelineSpec) -> bool {
    let anywhere = |spec: &PipelineSpec| PipelineSpec {
        place: Place::default(),
        ..spec.clone()
    };
    anywhere(a) == anywhere(b)
}

fn shared_topic<'a>(a: &'a PipelineSpec, b: &PipelineSpec) -> Option<&'a TopicName> {
    let mut topics = a.inputs.iter().filter(|input| b.inputs.contains(input));
    topics.find_map(Target::topic)
}
