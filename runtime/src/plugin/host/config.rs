//! `wasi:config/store`: the pipeline's `config`, as `lifecycle.open` is given it.

use super::{
    HostState,
    bindings::wasi::config::store::{Error, Host},
};

impl Host for HostState {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, Error>> {
        let entry = self.context.config.iter().find(|(name, _)| *name == key);
        Ok(Ok(entry.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, Error>> {
        Ok(Ok(self.context.config.clone()))
    }
}
