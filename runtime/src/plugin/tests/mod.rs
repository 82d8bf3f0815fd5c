//! Tests of whole calls, with guests that are written to break things.

mod calls;
mod contract;
mod difference;
pub(crate) mod guest;
mod loading;
mod replays;
mod sleeping;
mod timers;

use std::{sync::LazyLock, time::Duration};

use super::*;
use crate::model::{HeadersRef, RecordRef};
use guest::Guest;

/// One engine for all tests.
static ENGINE: LazyLock<PluginEngine> =
    LazyLock::new(|| PluginEngine::new(EngineOptions::default()).unwrap());

fn load(guest: &Guest) -> Plugin {
    ENGINE.load(guest.build(), "test.wasm").unwrap()
}

fn context() -> InstanceContext {
    InstanceContext {
        pipeline: "line".parse().unwrap(),
        partition: 3,
        inputs: vec!["flights".to_owned()],
        ports: vec!["out".to_owned()],
        config: vec![("window".to_owned(), "1h".to_owned())],
        metrics: std::sync::Arc::default(),
        log_limit: std::sync::Arc::default(),
        slot: None,
    }
}

/// Limits that a test reaches soon.
fn limits() -> Limits {
    Limits {
        memory_bytes: 1024 * 1024,
        deadline: Duration::from_millis(100),
        ..Limits::default()
    }
}

fn instantiate(guest: &Guest) -> Result<Instance, Fault> {
    load(guest).instantiate(context(), &Grants::default(), &limits(), Box::new(NoState))
}

/// A batch of `n` records from partition 5, with offsets from 40 on.
fn batch(n: u64) -> Columns {
    let mut columns = Columns::new();
    columns.start(0, 5);
    for i in 0..n {
        columns.push(&RecordRef {
            offset: 40 + i,
            timestamp_ms: 1_000 + i,
            key: Some(b"key"),
            value: Some(b"value"),
            headers: HeadersRef::EMPTY,
        });
    }
    columns
}

/// The fault that a guest's `process` ends in, given three records.
fn fault_of(guest: &Guest) -> Fault {
    let mut instance = instantiate(guest).unwrap();
    let fault = instance.process(&batch(3)).unwrap_err();
    // Spent: the same fault again, and no state.
    let again = instance.process(&batch(3)).unwrap_err();
    assert_eq!(again.to_string(), fault.to_string());
    assert!(instance.take_state_changes().is_empty());
    fault
}
