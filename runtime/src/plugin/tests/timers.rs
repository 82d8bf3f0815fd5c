//! Timers that a guest sets, cancels and is told of.

use super::*;

const TIMERS: &str = "millstream:plugin/timers@0.1.0";

/// A batch of `n` timers.
pub(super) fn timers(n: u64) -> Columns {
    let mut columns = Columns::new();
    columns.start(crate::model::TIMERS_INPUT, 3);
    for index in 0..n as usize {
        columns.push_from(&batch(n), index);
    }
    columns
}

/// Imports `$set` and `$cancel`.
fn with_timers(guest: Guest) -> Guest {
    guest.raw_import(super::guest::RawImport {
        component: r#"
          (import "millstream:plugin/timers@0.1.0" (instance $timers
            (export "set" (func (param "key" (list u8)) (param "due-ms" u64) (param "payload" (list u8))))
            (export "cancel" (func (param "key" (list u8)) (param "due-ms" u64)))))
          (core func $set (canon lower (func $timers "set") (memory $memory) (realloc $realloc)))
          (core func $cancel (canon lower (func $timers "cancel") (memory $memory) (realloc $realloc)))"#,
        core: r#"(import "host" "set" (func $set (param i32 i32 i64 i32 i32)))
          (import "host" "cancel" (func $cancel (param i32 i32 i64)))"#,
        with: r#"(export "set" (func $set)) (export "cancel" (func $cancel))"#,
    })
}

/// Sets the timer "\0\0"@7 with the payload "\0\0\0", cancels "\0"@8, and replies.
fn setter(process: &str, on_timers: &str) -> Guest {
    let set =
        "(call $set (i32.const 8192) (i32.const 2) (i64.const 7) (i32.const 8192) (i32.const 3))
         (call $cancel (i32.const 8192) (i32.const 1) (i64.const 8))";
    with_timers(Guest::new(&format!("{set} {process}")).on_timers(&format!("{set} {on_timers}")))
}

fn set_and_cancelled() -> [TimerChange; 2] {
    let zeros = |len| bytes::Bytes::from(vec![0; len]);
    [
        TimerChange {
            due_ms: 7,
            key: zeros(2),
            payload: Some(zeros(3)),
        },
        TimerChange {
            due_ms: 8,
            key: zeros(1),
            payload: None,
        },
    ]
}

#[test]
fn changes_are_taken_once_from_both_calls() {
    let guest = setter(
        "(call $pass (local.get $batch))",
        "(call $pass-all (local.get $timers))",
    );
    let mut instance = instantiate(&guest).unwrap();
    instance.process(&batch(3)).unwrap();
    assert_eq!(instance.take_timer_changes(), set_and_cancelled());
    assert!(instance.take_timer_changes().is_empty());
    let output = instance.process(&timers(3)).unwrap();
    let sources: Vec<_> = (0..3).map(|index| output.source(index)).collect();
    assert_eq!(sources, [Some(0), Some(1), Some(2)]);
    assert_eq!(instance.take_timer_changes(), set_and_cancelled());
}

#[test]
fn a_fault_drops_the_changes() {
    for (guest, kind) in [
        (setter("unreachable", "unreachable"), "trap"),
        (setter("(call $error)", "(call $error)"), "plugin-error"),
    ] {
        let mut instance = instantiate(&guest).unwrap();
        assert_eq!(instance.process(&batch(1)).unwrap_err().kind(), kind);
        assert!(instance.take_timer_changes().is_empty());
        let mut instance = instantiate(&guest).unwrap();
        assert_eq!(instance.process(&timers(1)).unwrap_err().kind(), kind);
        assert!(instance.take_timer_changes().is_empty());
    }
}

#[test]
fn a_reply_accounts_for_every_timer() {
    let guest = Guest::passthrough()
        .on_timers("(call $pass-all (i32.sub (local.get $timers) (i32.const 1)))");
    let fault = instantiate(&guest)
        .unwrap()
        .process(&timers(3))
        .unwrap_err();
    assert!(
        fault.to_string().contains("`processed` is 2, expected 3"),
        "{fault}"
    );
}

#[test]
fn a_plugin_without_a_handler_is_not_called() {
    let mut instance = instantiate(&Guest::passthrough()).unwrap();
    let fault = instance.process(&timers(1)).unwrap_err();
    assert_eq!(fault.kind(), "not-exported");
}

#[test]
fn endless_timers_are_a_fault() {
    let guest = with_timers(Guest::new(
        "(loop $again
           (call $set (i32.const 8192) (i32.const 4) (i64.const 7) (i32.const 0) (i32.const 60000))
           (br $again)) unreachable",
    ))
    .on_timers("unreachable");
    let limits = Limits {
        state_bytes: 1024 * 1024,
        deadline: Duration::from_secs(20),
        ..limits()
    };
    let mut instance = load(&guest)
        .instantiate(context(), &Grants::default(), &limits, Box::new(NoState))
        .unwrap();
    let fault = instance.process(&batch(1)).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the plugin's timers failed: one batch set and cancelled more than 1048576 bytes of timers"
    );
}

#[test]
fn columns_that_do_not_match_are_refused() {
    let guest = Guest::new(
        "(call $cancel-many (i32.const 8192) (i32.const 0) (i32.const 8192) (i32.const 1)
           (i32.const 8192) (i32.const 2))
         (call $pass (local.get $batch))",
    )
    .import(
        TIMERS,
        "cancel-many",
        r#"(param "keys" (list u8)) (param "key-ends" (list u32)) (param "due-ms" (list u64))"#,
        "(param i32 i32 i32 i32 i32 i32)",
    )
    .on_timers("unreachable");
    let fault = instantiate(&guest).unwrap().process(&batch(1)).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the plugin trapped: it called `timers.cancel-many` with 1 keys and 2 times"
    );
}

#[test]
fn an_idempotency_key_names_the_timer() {
    // The key of timer 1 as the error of the call.
    let guest = Guest::passthrough()
        .import(
            "millstream:plugin/context@0.1.0",
            "idempotency-key",
            r#"(param "index" u32) (result string)"#,
            "(param i32 i32)",
        )
        .on_timers(
            "(i32.store (i32.const 0) (i32.const 1))
             (call $idempotency-key (i32.const 1) (i32.const 4))
             (i32.const 0)",
        );
    let fault = instantiate(&guest)
        .unwrap()
        .process(&timers(2))
        .unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the plugin returned an error: timer:line/3/key@1001"
    );
}
