//! Where a pipeline's plugin runs: what it is granted, how much it may take, what it is told. And opening it once, to
//! see whether it does open.

use std::sync::Arc;

use super::TaskError;
use crate::manifest::PipelineSpec;
use crate::model::Target;
use crate::plugin::{
    ComputeSlot, Grants, InstanceContext, Limits, LogLimit, NoState, Plugin, PluginMetrics,
};

/// Opens an instance of a plugin as the first task of the pipeline would, without state, and drops it. It blocks: call
/// it where a thread may wait.
///
/// # Errors
/// [`TaskError::Open`], as a pipeline that is started with it says.
pub fn open_once(spec: &PipelineSpec, plugin: &Plugin) -> Result<(), TaskError> {
    let context = context_of(spec, 0, &Arc::default(), &Arc::default(), None);
    let opened = plugin.instantiate(
        context,
        &grants_of(spec),
        &limits_of(spec),
        Box::new(NoState),
    );
    opened.map(drop).map_err(TaskError::Open)
}

/// What a pipeline grants its plugin.
pub(super) fn grants_of(spec: &PipelineSpec) -> Grants {
    Grants {
        clocks: spec.allow.clocks,
        random: spec.allow.random,
        http: (!spec.allow.http.is_empty()).then(|| spec.allow.http.clone().into()),
        timers: !spec.is_producer(),
        ..Grants::default()
    }
}

/// What an instance of a pipeline may take.
pub(super) fn limits_of(spec: &PipelineSpec) -> Limits {
    Limits {
        memory_bytes: spec.limits.memory_bytes,
        deadline: spec.limits.deadline,
        output_bytes: spec.limits.output_bytes,
        ..Limits::default()
    }
}

/// Where an instance for a partition runs.
pub(super) fn context_of(
    spec: &PipelineSpec,
    partition: u32,
    metrics: &Arc<PluginMetrics>,
    log_limit: &Arc<LogLimit>,
    slot: Option<Arc<dyn ComputeSlot>>,
) -> InstanceContext {
    let ports = spec.ports.iter().map(|port| port.name.to_string());
    InstanceContext {
        pipeline: spec.name.clone(),
        partition,
        inputs: spec.inputs.iter().map(input_name).collect(),
        ports: ports.collect(),
        config: spec.config.clone(),
        metrics: Arc::clone(metrics),
        log_limit: Arc::clone(log_limit),
        slot,
    }
}

/// What a plugin calls an input: a topic by its name, a queue as `queue:NAME`.
fn input_name(input: &Target) -> String {
    match input {
        Target::Topic(name) => name.to_string(),
        Target::Queue(_) => input.to_string(),
    }
}
