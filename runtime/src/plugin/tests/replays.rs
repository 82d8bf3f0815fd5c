//! Calls that are recorded, and run again with what they saw.

use super::{guest::RawImport, timers::timers, *};

/// Returns as the error of a call, in bytes: two random numbers, and twice the monotonic clock.
const DRAW: &str = "(i64.store (i32.const 2048) (call $random))
    (i64.store (i32.const 2056) (call $random))
    (i64.store (i32.const 2064) (call $now))
    (i64.store (i32.const 2072) (call $now))
    (call $hex) (i32.store (i32.const 0) (i32.const 1))
    (i32.store (i32.const 4) (i32.const 4096)) (i32.store (i32.const 8) (i32.const 64))
    (i32.const 0)";

/// A guest that does so with records.
fn draws() -> Guest {
    with_random_and_clock(Guest::new(DRAW))
}

fn with_random_and_clock(guest: Guest) -> Guest {
    guest.raw_import(RawImport {
        component: r#"
          (import "wasi:random/random@0.2.6" (instance $random
            (export "get-random-u64" (func (result u64)))))
          (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
            (export "now" (func (result u64)))))
          (core func $random (canon lower (func $random "get-random-u64")))
          (core func $now (canon lower (func $clock "now")))"#,
        // `$hex` writes the 32 bytes at 2048 as 64 digits, from `a` on, to 4096.
        core: r#"(import "host" "random" (func $random (result i64)))
          (import "host" "now" (func $now (result i64)))
          (func $hex (local $i i32) (local $byte i32)
            (loop $next
              (local.set $byte (i32.load8_u offset=2048 (local.get $i)))
              (i32.store8 offset=4096 (i32.mul (local.get $i) (i32.const 2))
                (i32.add (i32.const 97) (i32.shr_u (local.get $byte) (i32.const 4))))
              (i32.store8 offset=4097 (i32.mul (local.get $i) (i32.const 2))
                (i32.add (i32.const 97) (i32.and (local.get $byte) (i32.const 15))))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $i) (i32.const 32)))))"#,
        with: r#"(export "random" (func $random)) (export "now" (func $now))"#,
    })
}

const GRANTS: Grants = Grants {
    state: true,
    clocks: true,
    random: true,
    http: None,
    timers: true,
};

fn recording(moment: Moment, seen: Seen, batch: &Columns) -> Recording {
    let context = context();
    Recording {
        partition: context.partition,
        inputs: context.inputs,
        ports: context.ports,
        config: context.config,
        allowance: Allowance::new(&GRANTS, &limits()),
        place: Place::of(batch, 0, false),
        moment,
        seen: Ok(seen),
    }
}

/// A call draws other random numbers than the one before, and a run at its moment the same ones and sees the
/// same time; so does every replay of that, of a timer as of a record.
#[test]
fn what_a_call_saw_is_seen_again() {
    assert_seen_again(&draws(), &batch(1));
    let on_timers = Guest::new("unreachable").on_timers(DRAW);
    assert_seen_again(&with_random_and_clock(on_timers), &timers(1));
}

#[track_caller]
fn assert_seen_again(guest: &Guest, batch: &Columns) {
    let plugin = load(guest);
    let mut instance = plugin
        .instantiate(context(), &GRANTS, &limits(), Box::new(NoState))
        .unwrap();
    let first = instance.process(batch).unwrap_err();
    let mut instance = plugin
        .instantiate(context(), &GRANTS, &limits(), Box::new(NoState))
        .unwrap();
    let fault = instance.process(batch).unwrap_err();
    assert_ne!(fault.to_string(), first.to_string());
    let (moment, mut readings) = (instance.moment(), Readings::default());
    instance.swap_readings(&mut readings);
    assert_eq!(readings.monotonic_ns.len(), 2);

    let state = Box::new(NoState);
    let at = (moment, &readings);
    let recorded = plugin.record(context(), &GRANTS, &limits(), state, at, batch);
    assert_eq!(recorded.result.unwrap_err().to_string(), fault.to_string());
    assert_eq!(recorded.readings, readings);
    let recording = recording(
        moment,
        Seen {
            readings,
            ..Seen::default()
        },
        batch,
    );
    let pipeline = "line".parse().unwrap();
    for _ in 0..2 {
        let replayed = plugin.replay(&pipeline, &recording, batch);
        assert_eq!(replayed.result.unwrap_err().to_string(), fault.to_string());
    }
    // Without the readings time goes on from the moment, and the numbers are the same.
    let unread = Recording {
        seen: Ok(Seen::default()),
        ..recording
    };
    let replayed = plugin.replay(&pipeline, &unread, batch);
    let text = replayed.result.unwrap_err().to_string();
    let digits = |text: &str| text.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(digits(&text)[..32], digits(&fault.to_string())[..32]);
    assert_ne!(digits(&text)[32..], digits(&fault.to_string())[32..]);
}

/// A recording carries its limits with it.
#[test]
fn a_replay_has_the_limits_of_then() {
    let guest = Guest::new("(loop $again (br $again)) unreachable");
    let recording = recording(Moment::default(), Seen::default(), &batch(1));
    let replayed = load(&guest).replay(&"line".parse().unwrap(), &recording, &batch(1));
    let fault = replayed.result.unwrap_err().to_string();
    assert!(fault.contains("deadline of 100ms"), "{fault}");
}

/// What is granted now is what was granted then.
#[test]
fn a_replay_has_the_grants_of_then() {
    let mut recording = recording(Moment::default(), Seen::default(), &batch(1));
    recording.allowance.clocks = false;
    let replayed = load(&draws()).replay(&"line".parse().unwrap(), &recording, &batch(1));
    assert_eq!(replayed.result.unwrap_err().kind(), "denied");
}

/// A place makes the batch again that it was taken from.
#[test]
fn a_place_makes_its_batch() {
    let batch = batch(3);
    for with_headers in [true, false] {
        let place = Place::of(&batch, 2, with_headers);
        let record = RecordRef {
            offset: 7,
            timestamp_ms: batch.timestamp_ms(2),
            key: batch.key(2),
            value: batch.value(2),
            headers: HeadersRef::EMPTY,
        };
        let mut alone = Columns::new();
        alone.start(batch.input(), batch.partition());
        alone.push_from(&batch, 2);
        let made = place.batch_of(&record).unwrap();
        assert_eq!(format!("{made:?}"), format!("{alone:?}"));
    }
}
