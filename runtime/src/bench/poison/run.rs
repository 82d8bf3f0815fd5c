//! One run: a fresh data directory, a backlog of which some records fail, a pipeline.

use std::path::Path;
use std::time::Instant;

use anyhow::{bail, ensure};

use super::{Args, Trouble};
use crate::bench::data::Data;
use crate::bench::rounds::Rounds;
use crate::bench::scratch::Scratch;
use crate::bench::synthetic::Records;
use crate::log::{Log, Producer, Topic};
use crate::manifest::{self, ResolvedManifest};
use crate::model::HeadersRef;
use crate::pipeline::{Pipelines, Plugins};
use crate::plugin::PluginEngine;

/// When every record happened, in ms since the epoch.
const TIMESTAMP_MS: u64 = 1_700_000_000_000;

/// What the runs of one order share.
pub(super) struct Setup<'a> {
    pub(super) args: &'a Args,
    pub(super) order: &'a str,
    pub(super) parent: &'a Path,
    pub(super) component: &'a Path,
    pub(super) engine: &'a PluginEngine,
}

/// The figures of one mix, over its rounds.
#[derive(Default)]
pub(super) struct Totals {
    /// Records a second.
    pub(super) rounds: Rounds,
    pub(super) retries: u64,
    pub(super) dead_letters: u64,
}

impl Setup<'_> {
    /// Runs one mix once and adds its figures.
    pub(super) async fn run(&self, trouble: Trouble, totals: &mut Totals) -> anyhow::Result<()> {
        let scratch = Scratch::create(self.parent)?;
        let retry = format!(
            "{{ max-attempts = 2, initial = \"10ms\", order = \"{}\" }}",
            self.order
        );
        let partitions = self.args.partitions;
        let manifest = manifest(scratch.path(), self.component, partitions, &retry)?;
        let Data {
            log,
            queues,
            groups,
        } = Data::open(scratch.path(), self.args.stored.options())?;
        crate::pipeline::ensure_topics(&log, &manifest).await?;
        let failing = self
            .fill(&log, &log.topic(&"in".parse()?)?, trouble)
            .await?;
        let plugins = tokio::task::block_in_place(|| Plugins::load(self.engine, &manifest));
        let start = Instant::now();
        let pipelines = Pipelines::start(&log, &queues, &groups, &plugins, &manifest).await?;
        pipelines.wait_until_idle().await;
        let taken = start.elapsed();
        let progress = pipelines.progress();
        if let Some(failure) = pipelines.stop().await.first() {
            bail!("{failure}");
        }
        let records = trouble.records(self.args.records, self.order);
        let dead = match trouble {
            Trouble::Traps(_) => failing,
            Trouble::Nothing | Trouble::Retries(_) => 0,
        };
        ensure!(
            progress.dead_letters == dead && progress.records_out == records - dead,
            "of {records} records {} came out and {} are dead letters; expected {dead}",
            progress.records_out,
            progress.dead_letters
        );
        totals.rounds.push(records as f64 / taken.as_secs_f64());
        totals.retries = progress.retries;
        totals.dead_letters = progress.dead_letters;
        tokio::task::block_in_place(|| drop((log, groups, queues, pipelines)));
        Ok(())
    }

    /// Sends the records; returns how many of them fail.
    async fn fill(&self, log: &Log, topic: &Topic, trouble: Trouble) -> anyhow::Result<u64> {
        let mut source = Records::new(self.args.value_bytes, 1);
        let mut producer = Producer::new(log.clone(), topic.clone());
        let mut failing = 0;
        let mut marked = Vec::new();
        for number in 0..trouble.records(self.args.records, self.order) {
            let (key, value) = source.next();
            let word: &[u8] = match trouble {
                // Not at the same place of each batch.
                Trouble::Traps(every) if number.wrapping_mul(2_654_435_761) % every == 0 => {
                    b"trap-9 "
                }
                Trouble::Retries(every) if number.wrapping_mul(2_654_435_761) % every == 0 => {
                    b"retry-1 "
                }
                _ => b"fine ",
            };
            failing += u64::from(word != b"fine ");
            marked.clear();
            marked.extend_from_slice(word);
            marked.extend_from_slice(value.get(word.len()..).unwrap_or_default());
            producer
                .send(
                    None,
                    TIMESTAMP_MS,
                    Some(key),
                    Some(&marked),
                    HeadersRef::EMPTY,
                )
                .await?;
        }
        producer.flush().await?;
        Ok(failing)
    }
}

/// The manifest of the pipeline, read from a file like any other.
pub(super) fn manifest(
    folder: &Path,
    component: &Path,
    partitions: u32,
    retry: &str,
) -> anyhow::Result<ResolvedManifest> {
    let path = folder.join(manifest::FILE_NAME);
    let plugin = std::path::absolute(component)?;
    let plugin = serde_json::to_string(&plugin.display().to_string())?;
    let text = format!(
        "name = \"bench\"\n\
         [topics.in]\npartitions = {partitions}\n\
         [topics.out]\npartitions = {partitions}\n\
         [plugins.flaky]\npath = {plugin}\n\
         [pipelines.flaky]\nfrom = \"topic:in\"\nplugin = \"flaky\"\n\
         to = \"topic:out\"\n\
         retry = {retry}\n"
    );
    std::fs::write(&path, text)?;
    Ok(manifest::load(&path)?)
}
