//! Calls that succeed, and one call for each way to fail.

use std::time::Instant;

use super::*;

const STATE: &str = "millstream:plugin/state@0.1.0";
const CONTEXT: &str = "millstream:plugin/context@0.1.0";
const CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.6";

#[test]
fn records_pass_and_the_instance_is_reused() {
    let mut instance = instantiate(&Guest::passthrough()).unwrap();
    for n in [0, 1, 3, 512] {
        let output = instance.process(&batch(n)).unwrap();
        let sources: Vec<_> = (0..output.len())
            .map(|index| output.source(index))
            .collect();
        assert_eq!(sources, (0..n as usize).map(Some).collect::<Vec<_>>());
    }
    assert!(instance.memory_bytes() >= 65_536);
}

#[test]
fn a_loop_is_stopped_at_the_deadline() {
    let start = Instant::now();
    let fault = fault_of(&Guest::new("(loop $again (br $again)) unreachable"));
    assert_eq!(fault.kind(), "deadline");
    assert!(fault.to_string().contains("100ms"), "{fault}");
    assert!(start.elapsed() >= limits().deadline);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_call_that_ends_in_time_is_not_stopped() {
    // Each call has its own deadline, however long ago the instance was made.
    let mut instance = instantiate(&Guest::passthrough()).unwrap();
    for _ in 0..10 {
        std::thread::sleep(limits().deadline / 3);
        instance.process(&batch(3)).unwrap();
    }
}

#[test]
fn endless_allocation_is_a_memory_fault() {
    let fault = fault_of(&Guest::new(
        "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
    ));
    assert_eq!(fault.kind(), "memory");
    assert!(
        fault.to_string().contains("1048576 bytes (limits.memory)"),
        "{fault}"
    );
}

#[test]
fn a_guest_that_survives_a_refusal_goes_on() {
    let mut instance = instantiate(&Guest::new(
        "(drop (memory.grow (i32.const 1000))) (call $pass (local.get $batch))",
    ))
    .unwrap();
    assert_eq!(instance.process(&batch(2)).unwrap().len(), 2);
}

#[test]
fn a_batch_that_does_not_fit_is_a_memory_fault() {
    let mut instance = instantiate(&Guest::passthrough()).unwrap();
    let mut columns = Columns::new();
    let value = vec![0; 2 * 1024 * 1024];
    columns.push(&RecordRef {
        offset: 0,
        timestamp_ms: 0,
        key: None,
        value: Some(&value),
        headers: HeadersRef::EMPTY,
    });
    assert_eq!(instance.process(&columns).unwrap_err().kind(), "memory");
}

#[test]
fn traps_have_a_backtrace() {
    let fault = fault_of(&Guest::new("unreachable"));
    assert_eq!(fault.kind(), "trap");
    assert!(fault.to_string().contains("`unreachable`"), "{fault}");
    assert!(fault.backtrace().unwrap().starts_with("0: "));
    let fault = fault_of(&Guest::new("(i32.load (i32.const -4))"));
    assert!(
        fault.to_string().contains("out of bounds memory access"),
        "{fault}"
    );
}

#[test]
fn bad_output_is_named() {
    let pass = "(drop (call $pass (local.get $batch)))";
    let cases = [
        (
            "(i32.store (i32.const 4) (i32.const 2))",
            "`processed` is 2, expected 3",
        ),
        (
            "(i32.store (i32.const 4100) (i32.const 9))",
            "`source[1]` is 9",
        ),
        // `port` is the list at 16: as long as `source`, its first entry is 0, its second 1.
        (
            "(i32.store (i32.const 16) (i32.const 4096)) (i32.store (i32.const 20) (i32.const 3))",
            "`port[1]` is 1, but the pipeline has 1 ports",
        ),
        // `source` beyond the memory, and not aligned.
        (
            "(i32.store (i32.const 8) (i32.const 0x7ffffff0))",
            "list pointer/length out of bounds",
        ),
        (
            "(i32.store (i32.const 8) (i32.const 4097))",
            "list pointer is not aligned",
        ),
    ];
    for (change, expected) in cases {
        let fault = fault_of(&Guest::new(&format!("{pass} {change} (i32.const 0)")));
        assert_eq!(fault.kind(), "output", "{fault}");
        assert!(
            fault.to_string().contains(expected),
            "{fault}\nexpected: {expected}"
        );
    }
}

#[test]
fn output_is_bounded() {
    // Every column but `values` is 60,000 bytes of zeros; together more than a call may return.
    let columns: String = (0..11).map(|column| {
        let at = 8 + column * 8;
        format!("(i32.store (i32.const {at}) (i32.const 0)) (i32.store (i32.const {}) (i32.const 5000))", at + 4)
    }).collect();
    let guest = Guest::new(&format!(
        "{columns} (i32.store (i32.const 4) (i32.const 3)) (i32.const 0)"
    ));
    let limits = Limits {
        output_records: 2,
        output_bytes: 16,
        state_bytes: 0,
        ..limits()
    };
    let mut instance = load(&guest)
        .instantiate(context(), &Grants::default(), &limits, Box::new(NoState))
        .unwrap();
    assert_eq!(instance.process(&batch(3)).unwrap_err().kind(), "output");
}

#[test]
fn errors_of_the_plugin_are_told() {
    let fault = fault_of(&Guest::new("(call $error)"));
    assert_eq!(fault.kind(), "plugin-error");
    assert_eq!(fault.to_string(), "the plugin returned an error: no");
    let fault = instantiate(&Guest::passthrough().open("(call $error)")).unwrap_err();
    assert_eq!(fault.to_string(), "the plugin refused to open: no");
    instantiate(
        &Guest::passthrough().open("(i32.store (i32.const 0) (i32.const 0)) (i32.const 0)"),
    )
    .unwrap();
    let fault = instantiate(&Guest::passthrough().open("unreachable")).unwrap_err();
    assert_eq!(fault.kind(), "trap");
}

#[test]
fn a_consumer_produces_nothing() {
    let mut instance = instantiate(&Guest::passthrough()).unwrap();
    assert_eq!(instance.produce(1).unwrap_err().kind(), "not-exported");
}

/// A guest that puts the batch's first eight bytes of offsets under the key "\0\0\0\0" and passes.
fn writer(after: &str) -> Guest {
    Guest::new(&format!(
        "(call $put (i32.const 8192) (i32.const 4) (i32.load offset=80 (local.get $batch)) (i32.const 8))
         (call $put (i32.const 8196) (i32.const 1) (i32.const 8192) (i32.const 2))
         {after}"
    ))
    .import(STATE, "put", r#"(param "key" (list u8)) (param "value" (list u8))"#, "(param i32 i32 i32 i32)")
}

#[test]
fn state_changes_are_taken_once() {
    let mut instance = instantiate(&writer("(call $pass (local.get $batch))")).unwrap();
    for _ in 0..2 {
        instance.process(&batch(1)).unwrap();
    }
    let changes = instance.take_state_changes();
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[0].0, &[0; 4][..]);
    assert_eq!(changes[0].1.as_deref(), Some(&40u64.to_le_bytes()[..]));
    assert!(instance.take_state_changes().is_empty());
}

#[test]
fn a_fault_drops_state_changes() {
    // `fault_of` checks that there are none.
    assert_eq!(fault_of(&writer("unreachable")).kind(), "trap");
    assert_eq!(fault_of(&writer("(call $error)")).kind(), "plugin-error");
}

#[test]
fn endless_writes_are_a_state_fault() {
    let guest = Guest::new(
        "(loop $again
           (i32.store (i32.const 8192) (i32.add (i32.load (i32.const 8192)) (i32.const 1)))
           (call $put (i32.const 8192) (i32.const 4) (i32.const 0) (i32.const 60000))
           (br $again)) unreachable",
    )
    .import(
        STATE,
        "put",
        r#"(param "key" (list u8)) (param "value" (list u8))"#,
        "(param i32 i32 i32 i32)",
    );
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
        "the plugin's state failed: one batch wrote more than 1048576 bytes"
    );
}

/// What a guest says before it traps is known of that call, and of no other.
#[test]
fn a_guest_can_say_at_which_record_it_traps() {
    let guest = Guest::new("(call $trapping-at (i32.const 2)) unreachable").import(
        CONTEXT,
        "trapping-at",
        r#"(param "index" u32)"#,
        "(param i32)",
    );
    let mut instance = instantiate(&guest).unwrap();
    assert_eq!(instance.trapping_at(), None);
    assert_eq!(instance.process(&batch(3)).unwrap_err().kind(), "trap");
    assert_eq!(instance.trapping_at(), Some(2));
}

/// A guest that returns the idempotency key of record `index` as the error of its call.
fn idempotency_key(index: u32) -> Fault {
    let guest = Guest::new(&format!(
        "(call $idempotency-key (i32.const {index}) (i32.const 4)) (i32.store (i32.const 0) (i32.const 1)) (i32.const 0)"
    ))
    .import(CONTEXT, "idempotency-key", r#"(param "index" u32) (result string)"#, "(param i32 i32)");
    fault_of(&guest)
}

#[test]
fn idempotency_keys_name_the_record() {
    assert!(
        idempotency_key(2)
            .to_string()
            .ends_with(": line/flights/5/42")
    );
    let fault = idempotency_key(3);
    assert_eq!(fault.kind(), "trap");
    assert!(
        fault.to_string().contains("idempotency key of record 3"),
        "{fault}"
    );
}

#[test]
fn exit_is_a_trap() {
    let guest = Guest::new("(call $exit (i32.const 1)) unreachable").import(
        "wasi:cli/exit@0.2.6",
        "exit",
        r#"(param "status" (result))"#,
        "(param i32)",
    );
    assert_eq!(
        fault_of(&guest).to_string(),
        "the plugin trapped: it called exit with status 1"
    );
}

fn reads_clock() -> Guest {
    Guest::new("(drop (call $now)) (call $pass (local.get $batch))").import(
        CLOCK,
        "now",
        "(result u64)",
        "(result i64)",
    )
}

#[test]
fn a_clock_needs_a_grant() {
    let plugin = load(&reads_clock());
    let granted = Grants {
        clocks: true,
        ..Grants::default()
    };
    plugin.check_grants(&granted).unwrap();
    let state = || Box::new(NoState);
    let mut instance = plugin
        .instantiate(context(), &granted, &limits(), state())
        .unwrap();
    instance.process(&batch(1)).unwrap();

    let denied = plugin
        .check_grants(&Grants::default())
        .unwrap_err()
        .to_string();
    assert!(
        denied.contains("`wasi:clocks/monotonic-clock@0.2.6` (now)"),
        "{denied}"
    );
    assert!(denied.contains("allow = { clocks = true }"), "{denied}");
    let fault = plugin
        .instantiate(context(), &Grants::default(), &limits(), state())
        .unwrap_err();
    assert_eq!(fault.kind(), "denied");
}

#[test]
fn without_the_check_a_clock_is_still_not_readable() {
    let plugin = load(&reads_clock());
    let mut instance = Instance::open(
        plugin,
        context(),
        Grants::default(),
        limits(),
        Box::new(NoState),
        &conditions::Conditions::Live,
    )
    .unwrap();
    assert_eq!(instance.process(&batch(1)).unwrap_err().kind(), "denied");
}

#[test]
fn the_hash_seed_is_fixed() {
    // Returns an error that holds the seed.
    let guest = Guest::new(
        "(call $insecure-seed (i32.const 2048))
         (if (i64.ne (i64.load (i32.const 2048)) (i64.const 0x243f6a8885a308d3)) (then unreachable))
         (call $pass (local.get $batch))",
    )
    .import(
        "wasi:random/insecure-seed@0.2.6",
        "insecure-seed",
        "(result (tuple u64 u64))",
        "(param i32)",
    );
    instantiate(&guest).unwrap().process(&batch(1)).unwrap();
}

#[test]
fn calls_work_in_an_async_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let call = || {
            let mut instance = instantiate(&Guest::passthrough()).unwrap();
            instance.process(&batch(2)).unwrap().len()
        };
        let task = tokio::spawn(async move { tokio::task::block_in_place(call) });
        assert_eq!(task.await.unwrap(), 2);
    });
}

#[test]
fn the_context_is_told() {
    let guest = Guest::new(
        "(call $partition) (i32.const 3) i32.ne (if (then unreachable)) (call $pass (local.get $batch))",
    )
    .import(CONTEXT, "partition", "(result u32)", "(result i32)");
    instantiate(&guest).unwrap().process(&batch(1)).unwrap();
}
