//! How a deploy went, and what was found out about the version meanwhile, for people.

use super::{WAITING, none, short};
use crate::cli::exit::Ending;
use crate::cli::output::{Column, Error, Output, Table};
use crate::cli::progress::note;
use crate::server::{DeployView, MissingView, ReportView, SampleView, ShadowView, UnsentView};

/// Says how a deploy went. One that did not give its version to the pipelines, though it was to, has failed.
pub(super) fn write(deploy: &DeployView, output: &mut Output) -> anyhow::Result<Ending> {
    output.result(deploy, |output| {
        let pipelines: Vec<_> = deploy.pipelines.iter().map(ToString::to_string).collect();
        let to = match pipelines.is_empty() {
            true => "no pipeline uses it yet".to_owned(),
            false => format!("for {}", pipelines.join(", ")),
        };
        output.line(format_args!(
            "deploy {}: plugin `{}` version {} {}, {to}",
            deploy.id,
            deploy.plugin,
            short(&deploy.to),
            deploy.outcome
        ))?;
        if let Some(reason) = &deploy.reason {
            output.line(format_args!("  {reason}"))?;
        }
        match &deploy.report {
            Some(ReportView::Canary { old, new, held }) => {
                write_canary(deploy, old, new, *held, output)
            }
            Some(ReportView::Shadow { pipelines }) => write_shadow(pipelines, output),
            Some(ReportView::Unsent { outputs, missing }) => {
                write_unsent(outputs, output)?;
                write_missing(missing, output)
            }
            None => Ok(()),
        }
    })?;
    Ok(match deploy.outcome.as_str() {
        "succeeded" | "observed" => Ending::Done,
        WAITING => {
            output.flush()?;
            note(&format!(
                "no server runs on the data directory; the next `millstream serve` begins it when its pipelines run, and `millstream plugin stop-deploy {}` withdraws it",
                deploy.id
            ));
            Ending::Done
        }
        _ => Ending::Failed,
    })
}

/// The two versions side by side.
fn write_canary(
    deploy: &DeployView,
    old: &SampleView,
    new: &SampleView,
    held: u64,
    output: &mut Output,
) -> Result<(), Error> {
    let mut table = Table::new(&[
        Column::Text("version"),
        Column::Number("records"),
        Column::Number("failures"),
        Column::Number("ns/record"),
    ]);
    let from = deploy.from.as_deref().map_or_else(none, short);
    for (version, sample) in [(from, old), (short(&deploy.to), new)] {
        table.row([
            version,
            sample.records.to_string(),
            sample.failures.to_string(),
            per_record(sample.time_ns, sample.records),
        ]);
    }
    output.table(&table)?;
    match held {
        0 => Ok(()),
        _ => output.line(format_args!(
            "{held} records that the new version had given up on were tried again afterwards"
        )),
    }
}

/// What each pipeline's shadow has found, and the first records for which the versions differ.
fn write_shadow(pipelines: &[ShadowView], output: &mut Output) -> Result<(), Error> {
    let mut table = Table::new(&[
        Column::Text("pipeline"),
        Column::Number("records"),
        Column::Number("different"),
        Column::Number("faults"),
        Column::Number("ns/record"),
    ]);
    for found in pipelines {
        table.row([
            found.pipeline.to_string(),
            found.records.to_string(),
            found.different_records.to_string(),
            found.faults.to_string(),
            per_record(found.time_ns, found.records),
        ]);
    }
    output.table(&table)?;
    for found in pipelines {
        if let Some(reason) = &found.ended_early {
            output.line(format_args!(
                "pipeline `{}`: the shadow has ended early: {reason}",
                found.pipeline
            ))?;
        }
    }
    let mut differences = Table::new(&[
        Column::Text("pipeline"),
        Column::Text("input"),
        Column::Number("partition"),
        Column::Number("offset"),
        Column::Text("difference"),
    ]);
    for found in pipelines {
        for difference in &found.first {
            let input = difference.input.as_ref();
            differences.row([
                found.pipeline.to_string(),
                input.map_or_else(|| "timer".to_owned(), ToString::to_string),
                difference.partition.to_string(),
                difference.offset.to_string(),
                difference.what.clone(),
            ]);
        }
    }
    match differences.is_empty() {
        true => Ok(()),
        false => output.table(&differences),
    }
}

/// What a rollback with state could not take back.
fn write_unsent(outputs: &[UnsentView], output: &mut Output) -> Result<(), Error> {
    if outputs.is_empty() {
        return output.line("nothing has been written to the outputs since then");
    }
    output.line("records that the outputs have received since then stay there:")?;
    let mut table = Table::new(&[Column::Text("output"), Column::Number("records")]);
    for unsent in outputs {
        table.row([unsent.target.to_string(), unsent.records.to_string()]);
    }
    output.table(&table)
}

/// What was to be processed again after a rollback with state, and cannot be.
fn write_missing(missing: &[MissingView], output: &mut Output) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    output.line(
        "records that were to be processed again are not there any more, since retention has deleted them:",
    )?;
    let mut table = Table::new(&[
        Column::Text("pipeline"),
        Column::Text("topic"),
        Column::Number("partition"),
        Column::Number("from"),
        Column::Number("up to"),
    ]);
    for missing in missing {
        table.row([
            missing.pipeline.to_string(),
            missing.topic.to_string(),
            missing.partition.to_string(),
            missing.from_offset.to_string(),
            missing.to_offset.to_string(),
        ]);
    }
    output.table(&table)
}

fn per_record(time_ns: u64, records: u64) -> String {
    let time_ns = time_ns.checked_div(records);
    time_ns.map_or_else(none, |time_ns| time_ns.to_string())
}
