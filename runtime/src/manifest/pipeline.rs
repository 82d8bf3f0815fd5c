//! Reads one `[pipelines.NAME]` table.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::DeValue;

use super::allow;
use super::config;
use super::error::Report;
use super::quantity::parse_time_ms;
use super::read::{KeyRef, NAME_EXPECTED, Table, Value, in_file_order, name};
use super::resolved::{BatchSpec, DELIVERIES, LimitsSpec, PipelineSpec, Port, Start};
use super::retry::{self, RetryOrder};
use super::schema;
use super::target::{self, TargetUse};
use super::words::{Key, did_you_mean, list_words, or_default};
use crate::model::{GroupName, PipelineName, PluginName, PortName, limits};

/// The most topics and queues one pipeline reads.
const MAX_INPUTS: usize = 64;
/// The most output ports of one pipeline.
const MAX_PORTS: usize = 64;
/// The name of the only port when `to` is a single target.
const DEFAULT_PORT: &str = "default";

/// The most instances of one task; each has a memory of its own.
const MAX_CONCURRENCY: u64 = 256;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

const DEFAULT_MAX_RECORDS: u64 = 512;
const DEFAULT_MAX_BYTES: u64 = MIB;
const MAX_BYTES: RangeInclusive<u64> = KIB..=64 * MIB;
const DEFAULT_MAX_WAIT: Duration = Duration::from_millis(5);
const MAX_WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

const DEFAULT_MEMORY_BYTES: u64 = 64 * MIB;
/// One page of linear memory is 64 KiB, and a 32-bit plugin can address 4 GiB.
const MEMORY_BYTES: RangeInclusive<u64> = MIB..=4096 * MIB;
const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);
const DEADLINE: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const DEFAULT_OUTPUT_BYTES: u64 = 16 * MIB;
const OUTPUT_BYTES: RangeInclusive<u64> = KIB..=64 * MIB;

/// A pipeline and the places where it names topics and queues, for the checks between pipelines.
pub(super) struct Read {
    pub(super) spec: PipelineSpec,
    pub(super) inputs: Vec<TargetUse>,
    pub(super) outputs: Vec<TargetUse>,
    pub(super) dead_letter_span: Range<usize>,
}

/// Reads a pipeline; `plugins` are the names the manifest declares. `None` after a problem that
/// leaves nothing to go on with.
pub(super) fn read(
    key: KeyRef<'_>,
    value: Value<'_>,
    plugins: &[&str],
    report: &mut Report<'_>,
) -> Option<Read> {
    let label = format!("`[pipelines.{}]`", Key(key.get_ref()));
    let pipeline_name: Option<PipelineName> =
        name("a pipeline's name", key.get_ref(), key.span(), report);
    let table = Table::read(&schema::PIPELINE, label, key.span(), value, report)?;

    let is_producer = table.value("from").is_none();
    let inputs = inputs(&table, report);
    let outputs = outputs(&table, is_producer, report);
    let plugin = plugin(&table, plugins, report);
    if is_producer {
        refuse_for_producer(&table, report);
    }
    if !inputs.is_empty() && inputs.iter().all(|input| input.target.topic().is_none()) {
        refuse_for_queues(&table, report);
    }
    let start = start(&table, report);
    let group = group(&table, pipeline_name.as_ref(), report);
    let delivery = table.choice("delivery", &DELIVERIES, report);
    let concurrency = table.integer("concurrency", 1..=MAX_CONCURRENCY, 1, report);
    let batch = batch(&table, is_producer, report);
    let retry_table = nested(&table, "retry", &schema::RETRY, report).unwrap_or_default();
    let retry = retry::read(&retry_table, report);
    let dead_letter = retry::read_dead_letter(&table, pipeline_name.as_ref(), report);
    if concurrency > 1
        && retry
            .as_ref()
            .is_some_and(|it| it.order == RetryOrder::Partition)
    {
        report.error(
            table.key_span("concurrency"),
            "`concurrency` above 1 and `retry.order = \"partition\"` exclude each other: records of a \
             partition that run at the same time are not in its order",
            "remove `concurrency`, or choose `order = \"key\"`",
        );
    }
    let limits = plugin_limits(&table, report);
    let config = config::read(&table, report);
    let allow_table = nested(&table, "allow", &schema::ALLOW, report).unwrap_or_default();
    let allow = allow::read(&allow_table, report);
    refuse_loops(&inputs, &outputs, report);

    Some(Read {
        spec: PipelineSpec {
            name: pipeline_name?,
            inputs: inputs.iter().map(|input| input.target.clone()).collect(),
            group: group?,
            start,
            plugin: plugin?,
            ports: outputs.iter().map(|(port, _)| port.clone()).collect(),
            delivery,
            concurrency: u32::try_from(concurrency).ok()?,
            batch: batch?,
            retry: retry?,
            dead_letter: dead_letter?,
            limits: limits?,
            config,
            allow,
            place: report.place(&key.span()),
        },
        inputs,
        outputs: outputs.into_iter().map(|(_, named)| named).collect(),
        dead_letter_span: table.span_of("dead-letter"),
    })
}

/// `from`: a target or a list of targets.
fn inputs(table: &Table<'_>, report: &mut Report<'_>) -> Vec<TargetUse> {
    let Some(value) = table.value("from") else {
        return Vec::new();
    };
    let mut inputs: Vec<TargetUse> = Vec::new();
    match value.get_ref() {
        DeValue::String(_) => inputs.extend(target::read("`from`", value, report)),
        DeValue::Array(entries) if (1..=MAX_INPUTS).contains(&entries.len()) => {
            for entry in entries.iter() {
                let Some(input) = target::read("every entry of `from`", entry, report) else {
                    continue;
                };
                if inputs.iter().any(|other| other.target == input.target) {
                    let message = format!("`from` names `{}` twice", input.target);
                    report.error(input.span, message, "remove one of the two");
                } else {
                    inputs.push(input);
                }
            }
        }
        _ => {
            let expected =
                format!("\"topic:NAME\", \"queue:NAME\" or a list of 1 to {MAX_INPUTS} such");
            let help = "a pipeline without input leaves `from` out";
            table.wrong("from", value, &expected, help, report);
        }
    }
    inputs
}

/// `to`: a target, or a table of ports and their targets.
fn outputs(
    table: &Table<'_>,
    is_producer: bool,
    report: &mut Report<'_>,
) -> Vec<(Port, TargetUse)> {
    let Some(value) = table.value("to") else {
        if is_producer {
            let message = format!(
                "{} has neither `from` nor `to`: expected at least one of them",
                table.label()
            );
            let help = "add `from = \"topic:NAME\"`, or `to = \"topic:NAME\"` if the plugin makes \
                        records itself";
            report.error(table.key_span("to"), message, help);
        }
        return Vec::new();
    };
    let port = |port_name: PortName, named: TargetUse| {
        let port = Port {
            name: port_name,
            target: named.target.clone(),
        };
        (port, named)
    };
    match value.get_ref() {
        DeValue::String(_) => {
            let named = target::read("`to`", value, report);
            let default = DEFAULT_PORT.parse().ok();
            named
                .zip(default)
                .map(|(named, name)| port(name, named))
                .into_iter()
                .collect()
        }
        DeValue::Table(ports) if (1..=MAX_PORTS).contains(&ports.len()) => in_file_order(ports)
            .into_iter()
            .filter_map(|(key, value)| {
                let port_name = name("a port's name", key.get_ref(), key.span(), report);
                let named = target::read(&format!("port `{}`", key.get_ref()), value, report);
                Some(port(port_name?, named?))
            })
            .collect(),
        _ => {
            let expected = format!(
                "\"topic:NAME\", \"queue:NAME\" or a table of 1 to {MAX_PORTS} ports such as \
                 `{{ stats = \"topic:NAME\" }}`"
            );
            let help = "a pipeline without output leaves `to` out";
            table.wrong("to", value, &expected, help, report);
            Vec::new()
        }
    }
}

/// `plugin`: one of the manifest's.
fn plugin(table: &Table<'_>, plugins: &[&str], report: &mut Report<'_>) -> Option<PluginName> {
    let advice = "name one of the manifest's plugins, for example `plugin = \"delays\"`";
    let value = table.required("plugin", advice, report)?;
    let found = value.get_ref().as_str().unwrap_or_default();
    if plugins.contains(&found) {
        // A declared name that breaks the rules is noted where it is declared.
        return found.parse().ok();
    }
    let help = did_you_mean(found, plugins.iter().copied(), || {
        if plugins.is_empty() {
            "declare the plugin with `[plugins.NAME]`".to_owned()
        } else {
            let known = list_words(plugins.iter().copied());
            format!("the declared plugins are {known}")
        }
    });
    table.wrong(
        "plugin",
        value,
        "the name of a declared plugin",
        help,
        report,
    );
    None
}

/// Notes keys that only mean something with an input.
fn refuse_for_producer(table: &Table<'_>, report: &mut Report<'_>) {
    let help = "remove it, or add `from = \"topic:NAME\"`";
    for key in ["group", "start", "concurrency", "retry", "dead-letter"] {
        if table.value(key).is_some() {
            let message = format!("`{key}` has no effect in a pipeline without `from`");
            report.error(table.key_span(key), message, help);
        }
    }
    if table.value("delivery").is_some() {
        report.error(
            table.key_span("delivery"),
            "`delivery` has no effect in a pipeline without `from`: a producer's records and state \
             are always one atomic write",
            help,
        );
    }
}

/// Notes keys that mean nothing to a pipeline which reads queues only.
fn refuse_for_queues(table: &Table<'_>, report: &mut Report<'_>) {
    for key in ["group", "start"] {
        if table.value(key).is_some() {
            let message = format!(
                "`{key}` has no effect in a pipeline that reads queues: they have no offsets"
            );
            report.error(table.key_span(key), message, "remove it");
        }
    }
}

/// `start`: a word or a time.
fn start(table: &Table<'_>, report: &mut Report<'_>) -> Start {
    const EXPECTED: &str = "\"earliest\", \"latest\" or an RFC 3339 time";
    let Some(value) = table.value("start") else {
        return Start::Earliest;
    };
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        _ => {
            table.wrong("start", value, EXPECTED, or_default("\"earliest\""), report);
            return Start::Earliest;
        }
    };
    match text.as_str() {
        "earliest" => return Start::Earliest,
        "latest" => return Start::Latest,
        _ => {}
    }
    match parse_time_ms(&text) {
        Ok(timestamp_ms) => Start::Time { timestamp_ms },
        Err(reason) => {
            let help = did_you_mean(&text, ["earliest", "latest"], || reason);
            table.wrong("start", value, EXPECTED, help, report);
            Start::Earliest
        }
    }
}

/// `group`: by default the pipeline's name.
fn group(
    table: &Table<'_>,
    pipeline: Option<&PipelineName>,
    report: &mut Report<'_>,
) -> Option<GroupName> {
    match table.value("group") {
        None => pipeline?.as_str().parse().ok(),
        Some(value) => match value.get_ref().as_str() {
            Some(text) => name("`group`", text, value.span(), report),
            None => {
                let help = or_default("the pipeline's name");
                table.wrong("group", value, NAME_EXPECTED, help, report);
                None
            }
        },
    }
}

/// A table below a pipeline's key; an empty one when the key is not there.
fn nested<'a>(
    table: &Table<'a>,
    key: &'static str,
    schema: &schema::TableSchema,
    report: &mut Report<'_>,
) -> Option<Table<'a>> {
    let value = table.value(key)?;
    let label = format!("`{key}` of {}", table.label());
    Table::read(schema, label, value.span(), value, report)
}

/// `batch`, with defaults for what is left out.
fn batch(table: &Table<'_>, is_producer: bool, report: &mut Report<'_>) -> Option<BatchSpec> {
    let batch = nested(table, "batch", &schema::BATCH, report).unwrap_or_default();
    if is_producer && batch.value("max-bytes").is_some() {
        report.error(
            batch.key_span("max-bytes"),
            "`max-bytes` of `batch` has no effect in a pipeline without `from`",
            "remove it, and bound what one call may give with `limits = { output = \"1MiB\" }`",
        );
    }
    let max_records = 1..=u64::from(limits::MAX_RECORDS_PER_BATCH);
    let max_records = batch.integer("max-records", max_records, DEFAULT_MAX_RECORDS, report);
    let max_bytes = batch.size("max-bytes", MAX_BYTES, DEFAULT_MAX_BYTES, report);
    Some(BatchSpec {
        max_records: u32::try_from(max_records).ok()?,
        max_bytes: usize::try_from(max_bytes).ok()?,
        max_wait: batch.duration("max-wait", MAX_WAIT, DEFAULT_MAX_WAIT, report),
    })
}

/// `limits`, with defaults for what is left out.
fn plugin_limits(table: &Table<'_>, report: &mut Report<'_>) -> Option<LimitsSpec> {
    let limits = nested(table, "limits", &schema::LIMITS, report).unwrap_or_default();
    let memory = limits.size("memory", MEMORY_BYTES, DEFAULT_MEMORY_BYTES, report);
    let output = limits.size("output", OUTPUT_BYTES, DEFAULT_OUTPUT_BYTES, report);
    Some(LimitsSpec {
        memory_bytes: usize::try_from(memory).ok()?,
        deadline: limits.duration("deadline", DEADLINE, DEFAULT_DEADLINE, report),
        output_bytes: usize::try_from(output).ok()?,
    })
}

/// Notes outputs that lead back to an input: such a pipeline would feed itself without end.
fn refuse_loops(inputs: &[TargetUse], outputs: &[(Port, TargetUse)], report: &mut Report<'_>) {
    for (_, output) in outputs {
        if inputs.iter().any(|input| input.target == output.target) {
            let (kind, name) = (output.target.kind(), output.target.name());
            report.error(
                output.span.clone(),
                format!(
                    "the pipeline writes to {kind} `{name}`, which it reads: it would process its \
                     own output without end"
                ),
                format!("write to another {kind}"),
            );
        }
    }
}
