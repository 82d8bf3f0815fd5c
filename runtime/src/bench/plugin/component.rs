//! A component of one's own.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::json;

use super::duel::{self, Outcomes};
use super::state::MemoryState;
use super::{Args, engine, input, load, native};
use crate::bench::announce;
use crate::bench::latency::Latency;
use crate::bench::report::{Figures, Report, rate};
use crate::bench::rounds::Rounds;
use crate::plugin::{Columns, Grants, Instance, InstanceContext, Limits, Plugin};

#[derive(Debug, Serialize)]
struct Case {
    /// `None` when the records come from a file.
    value_bytes: Option<usize>,
    batch_records: usize,
    records: usize,
    outputs_per_record: f64,
    failed_per_record: f64,
    state_keys: usize,
    memory_bytes: usize,
    plugin_ns_per_record: f64,
    plugin_records_per_s: f64,
    native_passthrough_ns_per_record: f64,
    plugin_rounds: Rounds,
    native_rounds: Rounds,
    batch_latency: Latency,
}

impl Figures for Case {
    const COLUMNS: &'static [&'static str] = &[
        "value",
        "batch",
        "ns/record",
        "records/s",
        "native passthrough ns/record",
        "outputs/record",
        "failed",
        "memory",
        "batch: p50 / p99 / p99.9 / max",
    ];

    fn cells(&self) -> Vec<String> {
        let value = self
            .value_bytes
            .map_or_else(|| "file".to_owned(), |bytes| format!("{bytes} B"));
        vec![
            value,
            self.batch_records.to_string(),
            self.plugin_rounds.cell(|ns| format!("{ns:.1}")),
            rate(self.plugin_records_per_s),
            format!("{:.1}", self.native_passthrough_ns_per_record),
            format!("{:.2}", self.outputs_per_record),
            format!("{:.1} %", self.failed_per_record * 100.0),
            format!("{:.1} MiB", self.memory_bytes as f64 / f64::from(1 << 20)),
            self.batch_latency.cell(),
        ]
    }
}

/// Measures a component on made-up or given records.
pub(super) fn run(args: &Args, path: &Path) -> anyhow::Result<Report> {
    let plugin = load(&engine()?, path)?;
    if !plugin.is_consumer() {
        bail!(
            "{} exports no millstream:plugin/consumer: only plugins that take records are measured",
            path.display()
        );
    }
    let settings = json!({
        "component": path.display().to_string(),
        "digest": plugin.digest().to_string(),
        "input": args.own.input.as_ref().map(|path| path.display().to_string()),
        "config": args.own.config,
        "rounds": args.rounds,
        "round_ms": args.round_ms,
    });
    let mut report = Report::new("plugin", settings);
    let mut cases = Vec::new();
    let sizes: Vec<_> = match &args.own.input {
        Some(_) => vec![None],
        None => args.value_bytes.iter().copied().map(Some).collect(),
    };
    for value_bytes in sizes {
        for &batch_records in &args.batch {
            announce(&format!("{}: batches of {batch_records}", path.display()));
            cases.push(run_case(args, &plugin, value_bytes, batch_records)?);
        }
    }
    report.add(
        "component",
        format!("{} in batches", path.display()),
        &cases,
    )?;
    report.note(
        "From filled columns to a complete output and the changes of state. Every pass over the \
         records goes on with the state of the one before.",
    );
    Ok(report)
}

fn run_case(
    args: &Args,
    plugin: &Plugin,
    value_bytes: Option<usize>,
    batch_records: usize,
) -> anyhow::Result<Case> {
    let records = args.own.records;
    let batches = match (&args.own.input, value_bytes) {
        (Some(path), _) => {
            input::from_file(path, args.own.key_field.as_deref(), batch_records, records)?
        }
        (None, size) => {
            input::synthetic_records(size.unwrap_or_default(), batch_records, records.max(1))
        }
    };
    let state = MemoryState::default();
    let mut instance = instantiate(args, plugin, &state)?;
    let mut counts = Counts::default();
    let mut passthrough = native::passthrough();
    let Outcomes { ours, plain } = duel::run(
        &batches,
        args.rounds,
        args.round(),
        &mut |batch| counts.process(&mut instance, &state, batch),
        &mut |batch| {
            black_box(native::process(&mut passthrough, black_box(batch)));
            Ok(())
        },
    )?;
    let plugin_ns_per_record = ours.ns_per_record.median();
    Ok(Case {
        value_bytes,
        batch_records,
        records: batches.iter().map(Columns::len).sum(),
        outputs_per_record: counts.per_record(counts.outputs),
        failed_per_record: counts.per_record(counts.failed),
        state_keys: state.len(),
        memory_bytes: instance.memory_bytes(),
        plugin_ns_per_record,
        plugin_records_per_s: 1e9 / plugin_ns_per_record,
        native_passthrough_ns_per_record: plain.ns_per_record.median(),
        plugin_rounds: ours.ns_per_record,
        native_rounds: plain.ns_per_record,
        batch_latency: ours.latency,
    })
}

/// What the plugin made of the records, over all passes.
#[derive(Debug, Default)]
struct Counts {
    records: u64,
    outputs: u64,
    failed: u64,
}

impl Counts {
    fn process(
        &mut self,
        instance: &mut Instance,
        state: &MemoryState,
        batch: &Columns,
    ) -> anyhow::Result<()> {
        let output = instance.process(batch).with_context(|| {
            format!(
                "in the batch of records {} to {}",
                batch.offset(0),
                batch.offset(batch.len() - 1)
            )
        })?;
        state.apply(instance.take_state_changes());
        self.records += batch.len() as u64;
        self.outputs += output.len() as u64;
        self.failed += output.failed().len() as u64;
        black_box(output);
        Ok(())
    }

    fn per_record(&self, count: u64) -> f64 {
        if self.records == 0 {
            0.0
        } else {
            count as f64 / self.records as f64
        }
    }
}

fn instantiate(args: &Args, plugin: &Plugin, state: &MemoryState) -> anyhow::Result<Instance> {
    let is_allowed = |name: &str| args.own.allow.iter().any(|allowed| allowed == name);
    let grants = Grants {
        clocks: is_allowed("clocks"),
        random: is_allowed("random"),
        ..Grants::default()
    };
    plugin.check_grants(&grants)?;
    let context = InstanceContext {
        pipeline: "bench".parse()?,
        partition: 0,
        inputs: vec!["in".to_owned()],
        ports: args.own.ports.clone(),
        config: args.own.config.clone(),
        metrics: Arc::default(),
        log_limit: std::sync::Arc::default(),
        slot: None,
    };
    Ok(plugin.instantiate(
        context,
        &grants,
        &Limits::default(),
        Box::new(state.clone()),
    )?)
}
