//! Calls to the host. In a component they are the imports of `wit/plugin.wit`; elsewhere, where
//! plugins are unit-tested, an in-memory host answers (see [`crate::testing`]).

#[cfg(target_arch = "wasm32")]
pub(crate) use component::*;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;

pub(crate) use crate::bindings::consumer::wasi::logging::logging::Level;

#[cfg(target_arch = "wasm32")]
mod component {
    use super::Level;
    use crate::bindings::consumer::millstream::plugin::{context, metrics, state, timers};
    use crate::bindings::consumer::wasi::logging::logging;
    use crate::columns::cell;
    use crate::state::Entry;

    pub(crate) use context::{
        idempotency_key, inputs, partition, pipeline, plugin_digest, ports, trapping_at,
    };
    pub(crate) use metrics::{add, gauge, record_value};
    pub(crate) use state::{
        delete_many as state_delete_many, get as state_get, put_many as state_put_many,
    };
    pub(crate) use timers::{cancel_many as timers_cancel_many, set_many as timers_set_many};

    pub(crate) fn state_get_many(
        keys: &[u8],
        key_ends: &[u32],
        mut each: impl FnMut(Option<&[u8]>),
    ) {
        let found = state::get_many(keys, key_ends);
        let mut missing = found.missing.iter().copied().peekable();
        for index in 0..key_ends.len() {
            let is_missing = missing.next_if_eq(&(index as u32)).is_some();
            let value = cell(&found.values, &found.value_ends, index);
            each((!is_missing).then_some(value));
        }
    }

    pub(crate) fn state_range(from: &[u8], to: Option<&[u8]>, limit: u32) -> Vec<Entry> {
        let entries = state::range(from, to, limit);
        let entry = |index| {
            let key = cell(&entries.keys, &entries.key_ends, index);
            let value = cell(&entries.values, &entries.value_ends, index);
            (key.to_vec(), value.to_vec())
        };
        (0..entries.key_ends.len()).map(entry).collect()
    }

    pub(crate) fn log(level: Level, message: &str) {
        logging::log(level, "", message);
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod native {
    use super::Level;
    use crate::columns::cell;
    use crate::state::Entry;
    use crate::testing::host::with_current;

    pub(crate) fn pipeline() -> String {
        with_current(|host| host.pipeline.clone())
    }

    pub(crate) fn partition() -> u32 {
        with_current(|host| host.partition)
    }

    pub(crate) fn plugin_digest() -> String {
        "0".repeat(64)
    }

    pub(crate) fn inputs() -> Vec<String> {
        with_current(|host| host.inputs.clone())
    }

    pub(crate) fn ports() -> Vec<String> {
        with_current(|host| host.ports.clone())
    }

    pub(crate) fn idempotency_key(index: u32) -> String {
        with_current(|host| host.idempotency_key(index))
    }

    pub(crate) fn add(name: &str, amount: u64) {
        with_current(|host| *host.counters.entry(name.to_owned()).or_default() += amount);
    }

    pub(crate) fn gauge(name: &str, value: f64) {
        with_current(|host| host.gauges.insert(name.to_owned(), value));
    }

    pub(crate) fn record_value(name: &str, value: u64) {
        with_current(|host| host.values.entry(name.to_owned()).or_default().push(value));
    }

    pub(crate) fn log(level: Level, message: &str) {
        with_current(|host| host.log(level, message));
    }

    pub(crate) fn state_get(key: &[u8]) -> Option<Vec<u8>> {
        with_current(|host| {
            host.state_reads += 1;
            host.state.get(key).cloned()
        })
    }

    pub(crate) fn state_get_many(
        keys: &[u8],
        key_ends: &[u32],
        mut each: impl FnMut(Option<&[u8]>),
    ) {
        let found: Vec<_> = with_current(|host| {
            host.state_reads += 1;
            let value = |index| host.state.get(cell(keys, key_ends, index)).cloned();
            (0..key_ends.len()).map(value).collect()
        });
        found.iter().for_each(|value| each(value.as_deref()));
    }

    pub(crate) fn state_put_many(keys: &[u8], key_ends: &[u32], values: &[u8], value_ends: &[u32]) {
        with_current(|host| {
            host.state_writes += 1;
            for index in 0..key_ends.len() {
                let (key, value) = (cell(keys, key_ends, index), cell(values, value_ends, index));
                host.state.insert(key.to_vec(), value.to_vec());
            }
        });
    }

    pub(crate) fn state_delete_many(keys: &[u8], key_ends: &[u32]) {
        with_current(|host| {
            host.state_writes += 1;
            for index in 0..key_ends.len() {
                host.state.remove(cell(keys, key_ends, index));
            }
        });
    }

    pub(crate) fn state_range(from: &[u8], to: Option<&[u8]>, limit: u32) -> Vec<Entry> {
        with_current(|host| {
            host.state_reads += 1;
            let entries = host.state.range::<[u8], _>((
                std::ops::Bound::Included(from),
                to.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
            ));
            let entry = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
            entries.take(limit as usize).map(entry).collect()
        })
    }

    pub(crate) fn timers_set_many(
        keys: &[u8],
        key_ends: &[u32],
        due_ms: &[u64],
        payloads: &[u8],
        payload_ends: &[u32],
    ) {
        with_current(|host| {
            for (index, due_ms) in due_ms.iter().enumerate() {
                let key = cell(keys, key_ends, index).to_vec();
                let payload = cell(payloads, payload_ends, index).to_vec();
                host.timers.insert((*due_ms, key), payload);
            }
        });
    }

    pub(crate) fn timers_cancel_many(keys: &[u8], key_ends: &[u32], due_ms: &[u64]) {
        with_current(|host| {
            for (index, due_ms) in due_ms.iter().enumerate() {
                let key = cell(keys, key_ends, index).to_vec();
                host.timers.remove(&(*due_ms, key));
            }
        });
    }
}
