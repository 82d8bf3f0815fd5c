//! The shipped plugins against closures that do the same.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use serde::Serialize;
use serde_json::json;

use super::duel::{self, Outcomes};
use super::native::{self, Function};
use super::{Args, engine, input, load, shipped_component};
use crate::bench::announce;
use crate::bench::latency::Latency;
use crate::bench::report::{Bound, Figures, Report};
use crate::bench::rounds::Rounds;
use crate::plugin::{
    Columns, Field, Grants, Instance, InstanceContext, Limits, NoState, Output, Plugin,
};

/// What the batches of a case take together, about: they stay in the second-level cache, as the
/// batch of a task does that has just been filled.
const CASE_BYTES: usize = 512 << 10;
/// Most batches of a case: enough that branch prediction cannot learn them by heart.
const MAX_BATCHES: usize = 8;

/// A plugin, its native twin, and what may lie between them at 512 records of 100 B.
struct Contest<'a> {
    name: &'static str,
    file: Option<&'a Path>,
    twin: fn() -> Function,
    max_ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Case {
    plugin: &'static str,
    value_bytes: usize,
    batch_records: usize,
    native_ns_per_record: f64,
    plugin_ns_per_record: f64,
    ratio: f64,
    plugin_records_per_s: f64,
    native_rounds: Rounds,
    plugin_rounds: Rounds,
    native_batch_latency: Latency,
    plugin_batch_latency: Latency,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "plugin",
        "value",
        "batch",
        "native ns/record",
        "plugin ns/record",
        "ratio",
        "batch: p50 / p99 / p99.9 / max",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.plugin.to_owned(),
            format!("{} B", self.value_bytes),
            self.batch_records.to_string(),
            self.native_rounds.cell(|ns| format!("{ns:.1}")),
            self.plugin_rounds.cell(|ns| format!("{ns:.1}")),
            format!("{:.2}", self.ratio),
            self.plugin_batch_latency.cell(),
        ]
    }
}

/// Runs all cases.
pub(super) fn run(args: &Args) -> anyhow::Result<Report> {
    let contests = [
        Contest {
            name: "passthrough",
            file: args.passthrough.as_deref(),
            twin: native::passthrough,
            max_ratio: Some(4.0),
        },
        Contest {
            name: "filter",
            file: args.filter.as_deref(),
            twin: native::filter,
            max_ratio: None,
        },
        Contest {
            name: "map",
            file: args.map.as_deref(),
            twin: native::map,
            max_ratio: Some(2.5),
        },
    ];
    let settings = json!({
        "key_bytes": crate::bench::synthetic::KEY_BYTES,
        "rounds": args.rounds,
        "round_ms": args.round_ms,
    });
    let mut report = Report::new("plugin", settings);
    let engine = engine()?;
    let mut cases = Vec::new();
    for contest in &contests {
        let path = shipped_component(contest.name, contest.file, args.plugins.as_deref())?;
        let plugin = load(&engine, &path)?;
        for &value_bytes in &args.value_bytes {
            for &batch_records in &args.batch {
                announce(&format!(
                    "{}: {batch_records} × {value_bytes} B",
                    contest.name
                ));
                let case = contest.run(args, &plugin, value_bytes, batch_records)?;
                if let Some(max_ratio) = contest.max_ratio
                    && (value_bytes, batch_records) == (100, 512)
                {
                    let what = format!("{} of 512 × 100 B, in parts of native", contest.name);
                    report.bound(Bound::at_most(what, case.ratio, max_ratio));
                }
                cases.push(case);
            }
        }
    }
    report.add(
        "boundary",
        "A plugin against a native closure, keys of 16 B",
        &cases,
    )?;
    report.note(
        "Both sides go from filled columns to a complete output. ± is half the range of the rounds. \
         A batch's latency is that of one call into the plugin.",
    );
    Ok(report)
}

impl Contest<'_> {
    fn run(
        &self,
        args: &Args,
        plugin: &Plugin,
        value_bytes: usize,
        batch_records: usize,
    ) -> anyhow::Result<Case> {
        let batch_bytes = batch_records * (value_bytes + 40);
        let count = (CASE_BYTES / batch_bytes).clamp(1, MAX_BATCHES);
        let batches = input::synthetic(value_bytes, batch_records, count);
        let mut instance = instantiate(plugin)?;
        let mut twin = (self.twin)();
        for batch in &batches {
            check_same(
                self.name,
                &instance.process(batch)?,
                &native::process(&mut twin, batch),
                batch,
            )?;
        }
        let Outcomes { ours, plain } = duel::run(
            &batches,
            args.rounds,
            args.round(),
            &mut |batch| {
                black_box(instance.process(batch)?);
                Ok(())
            },
            &mut |batch| {
                black_box(native::process(&mut twin, black_box(batch)));
                Ok(())
            },
        )?;
        Ok(Case {
            plugin: self.name,
            value_bytes,
            batch_records,
            native_ns_per_record: plain.ns_per_record.median(),
            plugin_ns_per_record: ours.ns_per_record.median(),
            ratio: ours.ns_per_record.ratio_to(&plain.ns_per_record),
            plugin_records_per_s: 1e9 / ours.ns_per_record.median(),
            native_rounds: plain.ns_per_record,
            plugin_rounds: ours.ns_per_record,
            native_batch_latency: plain.latency,
            plugin_batch_latency: ours.latency,
        })
    }
}

fn instantiate(plugin: &Plugin) -> anyhow::Result<Instance> {
    let context = InstanceContext {
        pipeline: "bench".parse()?,
        partition: 0,
        inputs: vec!["in".to_owned()],
        ports: vec!["out".to_owned()],
        config: Vec::new(),
        metrics: Arc::default(),
        log_limit: std::sync::Arc::default(),
        slot: None,
    };
    let (grants, limits) = (Grants::default(), Limits::default());
    Ok(plugin.instantiate(context, &grants, &limits, Box::new(NoState))?)
}

/// Two sides that do different things cannot be compared.
fn check_same(
    name: &str,
    ours: &Output,
    native: &native::Output,
    batch: &Columns,
) -> anyhow::Result<()> {
    let value = |index: usize| match ours.value(index) {
        Field::AsSource => ours.source(index).and_then(|source| batch.value(source)),
        Field::Null => None,
        Field::Bytes(bytes) => Some(bytes),
    };
    let is_same = ours.len() == native.len()
        && ours.failed().is_empty()
        && (0..ours.len()).all(|index| {
            let source = native.source.get(index).map(|&source| source as usize);
            ours.source(index) == source && value(index) == native.value(index, batch)
        });
    if !is_same {
        bail!("this component is not the shipped plugin `{name}`: it puts out something else");
    }
    Ok(())
}
