//! `millstream:plugin/context`: where the plugin runs.

use super::{HostFault, HostState, Subject, bindings::millstream::plugin::context::Host};
use crate::model::TimerId;

impl Host for HostState {
    fn pipeline(&mut self) -> wasmtime::Result<String> {
        Ok(self.context.pipeline.as_str().to_owned())
    }

    fn partition(&mut self) -> wasmtime::Result<u32> {
        Ok(self.context.partition)
    }

    fn plugin_digest(&mut self) -> wasmtime::Result<String> {
        Ok(self.digest.as_str().to_owned())
    }

    fn inputs(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.context.inputs.clone())
    }

    fn ports(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.context.ports.clone())
    }

    fn idempotency_key(&mut self, index: u32) -> wasmtime::Result<String> {
        let pipeline = &self.context.pipeline;
        let at = index as usize;
        let (key, count) = match &self.call.subject {
            Subject::Nothing => (None, 0),
            Subject::Records {
                input,
                partition,
                offsets,
            } => {
                let input = self.context.inputs.get(*input as usize);
                let input = input.map_or("", String::as_str);
                let key = offsets
                    .get(at)
                    .map(|offset| format!("{pipeline}/{input}/{partition}/{offset}"));
                (key, offsets.len())
            }
            Subject::Timers(timers) => {
                let key = timers.get(at).map(|(key, due_ms)| {
                    let id = TimerId {
                        pipeline: pipeline.clone(),
                        task: self.context.partition,
                        key: key.clone(),
                        due_ms: *due_ms,
                    };
                    id.to_string()
                });
                (key, timers.len())
            }
        };
        key.ok_or_else(|| {
            HostFault::argument(format!(
                "it asked for the idempotency key of record {index}, but the batch has {count} records"
            ))
        })
    }

    fn trapping_at(&mut self, index: u32) -> wasmtime::Result<()> {
        self.call.trapping_at = Some(index);
        Ok(())
    }
}
