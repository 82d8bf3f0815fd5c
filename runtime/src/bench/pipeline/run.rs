//! One run: a fresh data directory, a backlog, a pipeline.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use super::{Args, preload};
use crate::bench::latency::LatencyRecorder;
use crate::bench::process;
use crate::bench::rounds::{Rounds, Side};
use crate::bench::scratch::Scratch;
use crate::bench::synthetic::Records;
use crate::group::Groups;
use crate::log::{Log, Topic};
use crate::manifest::{self, ResolvedManifest};
use crate::model::{BatchBuilder, Compression, HeadersRef, TopicName, partition_for_key};
use crate::pipeline::{NativeFunction, Pipelines, Plugins};
use crate::plugin::PluginEngine;
use crate::queue::Queues;
use crate::storage::{Commit, Durability, Store, StoreOptions};

/// Records of a batch that is sent through the idle pipeline.
pub(super) const LATENCY_RECORDS: u32 = 10;
/// How long such a batch may take before the run is given up.
const LATENCY_TIMEOUT: Duration = Duration::from_secs(30);

/// What all runs share.
pub(super) struct Setup<'a> {
    pub(super) args: &'a Args,
    pub(super) parent: &'a Path,
    pub(super) component: &'a Path,
    pub(super) engine: &'a PluginEngine,
}

/// The figures of one side, over its rounds.
pub(super) struct Totals {
    /// Records a second.
    pub(super) rounds: Rounds,
    pub(super) cpu_ns_per_record: Rounds,
    pub(super) commits_per_write: Rounds,
    pub(super) peak_memory_bytes: u64,
    pub(super) latency: LatencyRecorder,
}

impl Totals {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            rounds: Rounds::default(),
            cpu_ns_per_record: Rounds::default(),
            commits_per_write: Rounds::default(),
            peak_memory_bytes: 0,
            latency: LatencyRecorder::new()?,
        })
    }
}

impl Setup<'_> {
    /// Runs one side once and adds its figures.
    pub(super) async fn run(
        &self,
        side: Side,
        durability: Durability,
        totals: &mut Totals,
    ) -> anyhow::Result<()> {
        let scratch = Scratch::create(self.parent)?;
        let manifest = self.manifest(scratch.path())?;
        let data = scratch.path().join("data");
        {
            let log = open(&data, Durability::Os)?;
            let [input, _] = ensure_topics(&log, &manifest).await?;
            preload::fill(&log, &input, self.args.records, self.args.value_bytes).await?;
            tokio::task::block_in_place(|| drop((log, input)));
        }
        let log = open(&data, durability)?;
        let [input, output] = ensure_topics(&log, &manifest).await?;
        let groups = Groups::new(log.store().clone());
        let native = (side == Side::Plain).then(map_function);
        let pipelines = self.drain(&log, &groups, &manifest, native, totals).await?;
        self.ping(&log, &input, &output, totals).await?;
        let failures = pipelines.stop().await;
        if let Some(failure) = failures.first() {
            bail!("{failure}");
        }
        tokio::task::block_in_place(|| drop((log, groups, input, output)));
        Ok(())
    }

    /// Works off the backlog.
    async fn drain(
        &self,
        log: &Log,
        groups: &Groups,
        manifest: &ResolvedManifest,
        native: Option<NativeFunction>,
        totals: &mut Totals,
    ) -> anyhow::Result<Pipelines> {
        let plugins = tokio::task::block_in_place(|| Plugins::load(self.engine, manifest));
        process::reset_peak_memory();
        let (cpu_before, writes_before) = (process::cpu_time(), log.store().commit_count());
        let start = Instant::now();
        let queues = Queues::open(log.store().clone())?;
        let pipelines =
            Pipelines::start_with(log, &queues, groups, &plugins, manifest, native).await?;
        pipelines.wait_until_idle().await;
        let taken = start.elapsed();
        let cpu = process::cpu_time().saturating_sub(cpu_before);
        let writes = log.store().commit_count() - writes_before;
        if let Some(failure) = pipelines.failures().first() {
            bail!("{failure}");
        }
        let (progress, records) = (pipelines.progress(), self.args.records);
        ensure!(
            progress.records_in == records && progress.records_out == records,
            "{} of {records} records were processed, {} came out",
            progress.records_in,
            progress.records_out
        );
        let output = log.topic(&output_name()?)?;
        let stored: u64 = output.partitions().iter().map(|p| p.high_watermark()).sum();
        ensure!(
            stored == records,
            "{stored} of {records} records are in the output topic"
        );
        totals.rounds.push(records as f64 / taken.as_secs_f64());
        totals
            .cpu_ns_per_record
            .push(cpu.as_secs_f64() * 1e9 / records.max(1) as f64);
        let checkpoints = records as f64 / f64::from(self.args.batch);
        totals
            .commits_per_write
            .push(checkpoints / writes.max(1) as f64);
        totals.peak_memory_bytes = totals.peak_memory_bytes.max(process::peak_memory_bytes());
        Ok(pipelines)
    }

    /// Sends small batches through the idle pipeline, one at a time.
    async fn ping(
        &self,
        log: &Log,
        input: &Topic,
        output: &Topic,
        totals: &mut Totals,
    ) -> anyhow::Result<()> {
        let mut records = Records::new(self.args.value_bytes, 2);
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..self.args.latency_batches {
            let (key, value) = records.next();
            for _ in 0..LATENCY_RECORDS {
                builder.push(
                    log.store().clock().now_ms(),
                    Some(key),
                    Some(value),
                    HeadersRef::EMPTY,
                )?;
            }
            let partition = partition_for_key(key, self.args.partitions);
            let arrives_in = output.partition(partition)?;
            let before = arrives_in.high_watermark();
            let Some(batch) = builder.build()? else {
                continue;
            };
            let mut commit = Commit::new();
            commit.append(Arc::clone(input.partition(partition)?), batch);
            let start = Instant::now();
            log.store().commit(commit).await?;
            let all_there = arrives_in.wait_beyond(before + u64::from(LATENCY_RECORDS) - 1);
            if tokio::time::timeout(LATENCY_TIMEOUT, all_there)
                .await
                .is_err()
            {
                bail!("the pipeline has put out nothing for {LATENCY_TIMEOUT:?}");
            }
            totals.latency.record(start.elapsed());
        }
        Ok(())
    }

    /// The manifest of the pipeline, read from a file like any other.
    fn manifest(&self, folder: &Path) -> anyhow::Result<ResolvedManifest> {
        let path = folder.join(manifest::FILE_NAME);
        let plugin = std::path::absolute(self.component)?;
        let plugin = serde_json::to_string(&plugin.display().to_string())?;
        let Args {
            partitions, batch, ..
        } = self.args;
        let text = format!(
            "name = \"bench\"\n\
             [topics.in]\npartitions = {partitions}\nmax-batch-bytes = \"16MiB\"\n\
             [topics.out]\npartitions = {partitions}\nmax-batch-bytes = \"16MiB\"\n\
             [plugins.map]\npath = {plugin}\n\
             [pipelines.map]\nfrom = \"topic:in\"\nplugin = \"map\"\n\
             to = {{ out = \"topic:out\" }}\ndelivery = \"exactly-once\"\n\
             batch = {{ max-records = {batch}, max-bytes = \"16MiB\", max-wait = \"5ms\" }}\n"
        );
        std::fs::write(&path, text)?;
        Ok(manifest::load(&path)?)
    }
}

fn open(path: &Path, durability: Durability) -> anyhow::Result<Log> {
    let options = StoreOptions {
        durability,
        ..StoreOptions::default()
    };
    let store = tokio::task::block_in_place(|| Store::open(path, options))?;
    Ok(Log::open(store)?)
}

fn output_name() -> anyhow::Result<TopicName> {
    Ok("out".parse()?)
}

/// The input and the output topic.
async fn ensure_topics(log: &Log, manifest: &ResolvedManifest) -> anyhow::Result<[Topic; 2]> {
    crate::pipeline::ensure_topics(log, manifest).await?;
    Ok([log.topic(&"in".parse()?)?, log.topic(&output_name()?)?])
}

/// What the plugin `map` does.
fn map_function() -> NativeFunction {
    Arc::new(|value, mapped| {
        mapped.extend_from_slice(value);
        mapped.make_ascii_uppercase();
        true
    })
}
