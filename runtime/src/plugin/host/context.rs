//! `millstream:plugin/context`: where the plugin runs.

use super::{HostFault, HostState, bindings::millstream::plugin::context::Host};

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
        let call = &self.call;
        let offset = call.offsets.get(index as usize).ok_or_else(|| {
            HostFault::argument(format!(
                "it asked for the idempotency key of record {index}, but the batch has {} records",
                call.offsets.len()
            ))
        })?;
        let input = self
            .context
            .inputs
            .get(call.input as usize)
            .map_or("", String::as_str);
        let pipeline = self.context.pipeline.as_str();
        Ok(format!("{pipeline}/{input}/{}/{offset}", call.partition))
    }
}
