//! Guests that wait: they are stopped at their deadline, and hold no right to compute meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    guest::{Guest, RawImport},
    *,
};

const DEADLINE: Duration = Duration::from_millis(100);
/// A deadline that no call exceeds that does as it should.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sleeps a millisecond for each byte of the batch's values.
fn sleeps() -> Guest {
    let sleep = RawImport {
        component: r#"
          (import "wasi:io/poll@0.2.6" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
          (alias export $poll "pollable" (type $pollable))
          (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
            (alias outer 1 $pollable (type $outer))
            (export "pollable" (type $pollable (eq $outer)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
          (core func $block (canon lower (func $poll "[method]pollable.block")))
          (core func $subscribe (canon lower (func $clock "subscribe-duration")))
          (core func $drop (canon resource.drop $pollable))"#,
        core: r#"(import "host" "block" (func $block (param i32)))
          (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
          (import "host" "drop" (func $drop (param i32)))"#,
        with: r#"(export "block" (func $block)) (export "subscribe" (func $subscribe))
          (export "drop" (func $drop))"#,
    };
    Guest::new(
        "(local $pollable i32)
         (local.set $pollable
           (call $subscribe (i64.extend_i32_u
             (i32.mul (i32.load offset=36 (local.get $batch)) (i32.const 1000000)))))
         (call $block (local.get $pollable))
         (call $drop (local.get $pollable))
         (call $pass (local.get $batch))",
    )
    .raw_import(sleep)
}

fn open(deadline: Duration, slot: Option<Arc<dyn ComputeSlot>>) -> Instance {
    let grants = Grants {
        clocks: true,
        ..Grants::default()
    };
    let context = InstanceContext { slot, ..context() };
    let limits = Limits {
        deadline,
        ..limits()
    };
    load(&sleeps())
        .instantiate(context, &grants, &limits, Box::new(NoState))
        .unwrap()
}

#[test]
fn a_sleep_past_the_deadline_is_stopped() {
    let start = Instant::now();
    // 5 bytes a record.
    open(TIMEOUT, None).process(&batch(4)).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20));
    let start = Instant::now();
    let fault = open(DEADLINE, None).process(&batch(4_000)).unwrap_err();
    assert_eq!(fault.kind(), "deadline");
    assert!(start.elapsed() >= DEADLINE);
    assert!(start.elapsed() < Duration::from_secs(15));
}

/// How long a call waits for its turn, and more than its deadline.
const TURN: Duration = Duration::from_millis(1_100);

/// A slot that gives its right back late.
#[derive(Debug, Default)]
struct Late {
    releases: AtomicU32,
    acquisitions: AtomicU32,
}

impl ComputeSlot for Late {
    fn release(&self) -> bool {
        self.releases.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn acquire(&self) {
        thread::sleep(TURN);
        self.acquisitions.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn waiting_for_its_turn_does_not_count_against_a_call() {
    let slot = Arc::new(Late::default());
    let mut instance = open(Duration::from_secs(1), Some(slot.clone()));
    // 20 ms, and then more than the deadline for its turn; twice, since each call has its own.
    for calls in 1..=2 {
        instance.process(&batch(4)).unwrap();
        assert_eq!(slot.releases.load(Ordering::SeqCst), calls);
        assert_eq!(slot.acquisitions.load(Ordering::SeqCst), calls);
    }
    // What it sleeps itself counts.
    assert_eq!(
        instance.process(&batch(400)).unwrap_err().kind(),
        "deadline"
    );
}
