use crate::prelude::*;
use crate::testing::{Harness, Input};

fn pending(harness: &crate::testing::Running<crate::testing::Consumes>) -> Vec<(String, u64)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let timers = harness.timers();
    timers
        .map(|(key, due_ms, payload)| (format!("{} {}", text(key), text(payload)), due_ms))
        .collect()
}

fn nothing(_: Timer<'_>, _: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    Ok(())
}

#[test]
fn a_record_that_fails_sets_nothing() {
    let mut harness = Harness::new().timer_consumer_fn(
        |record, _, state| {
            let key = record.key().unwrap_or_default();
            state.timers().set(key, 7, record.value());
            state.timers().cancel("a", 9);
            match record.value() {
                b"bad" => Err(Reject::new("bad")),
                _ => Ok(()),
            }
        },
        nothing,
    );
    let outcome = harness.process([Input::new("a", "1"), Input::new("b", "bad")]);
    assert_eq!(outcome.failures.len(), 1);
    assert_eq!(pending(&harness), [("a 1".to_owned(), 7)]);
}

#[test]
fn of_two_changes_of_one_timer_the_later_one_counts() {
    let mut harness = Harness::new().timer_consumer_fn(
        |record, _, state| {
            let timers = state.timers();
            match record.value() {
                b"" => timers.cancel("k", 7),
                payload => timers.set("k", 7, payload),
            }
            Ok(())
        },
        nothing,
    );
    harness.process(["1", "", "2"].map(Input::value));
    assert_eq!(pending(&harness), [("k 2".to_owned(), 7)]);
    harness.process(["3", ""].map(Input::value));
    assert_eq!(pending(&harness), []);
    harness.process(["", "4"].map(Input::value));
    assert_eq!(pending(&harness), [("k 4".to_owned(), 7)]);
}

#[test]
fn what_an_earlier_timer_of_the_batch_cancels_or_sets_again_is_left_out() {
    let mut harness = Harness::new().timer_consumer_fn(
        |record, _, state| {
            state.timers().set(record.value(), 7, "");
            Ok(())
        },
        |timer, out, state| {
            if timer.key() == b"a" {
                state.timers().set("a", 7, "again");
                state.timers().cancel("b", 7);
                state.timers().set("c", 7, "again");
            }
            out.emit(timer.payload());
            Ok(())
        },
    );
    harness.process(["a", "b", "c", "d"].map(Input::value));
    let fired = harness.fire_timers(7);
    let keys: Vec<_> = fired
        .outputs
        .iter()
        .map(|output| output.key_str())
        .collect();
    assert_eq!(keys, ["a", "d"]);
    let again = [("a again".to_owned(), 7), ("c again".to_owned(), 7)];
    assert_eq!(pending(&harness), again);
}

#[test]
fn a_timer_that_fails_takes_back_what_it_changed() {
    let mut harness = Harness::new().timer_consumer_fn(
        |record, _, state| {
            state.timers().set(record.value(), 7, "");
            Ok(())
        },
        |timer, out, state| {
            state.add("fired", 1);
            state.timers().set(timer.key(), 8, "");
            out.emit(context::timer_idempotency_key(timer));
            match timer.key() {
                b"a/" => Err(Retry::new("not yet")),
                _ => Ok(()),
            }
        },
    );
    harness.process(["a/", "b"].map(Input::value));
    let fired = harness.fire_timers(7);
    assert_eq!(fired.failures[0].reason, "not yet");
    assert_eq!(fired.values(), ["timer:test/0/b@7"]);
    assert_eq!(harness.state("fired"), Some(&1u64.to_le_bytes()[..]));
    assert_eq!(pending(&harness), [("b ".to_owned(), 8)]);
}

#[test]
#[should_panic(expected = "open it with `timer_consumer`")]
fn a_plugin_that_was_opened_without_timers() {
    let mut harness = Harness::new().consumer_fn(|_, _, _| Ok(()));
    harness.fire_timers(7);
}
