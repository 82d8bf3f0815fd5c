//! Sets and cancels timers as its records say, and emits what fires.
//!
//! A record's key is the timer's, its value a command; times are in ms since the epoch:
//!
//! | value | what it does |
//! |---|---|
//! | `set TIME PAYLOAD` | sets a timer |
//! | `after MS PAYLOAD` | sets a timer that long after the record's timestamp |
//! | `cancel TIME` | cancels one |
//! | `as KEY …` | does that under another key than the record's |
//!
//! A timer that is set is noted in the state, and one that is not noted there when it fires is rejected.
//! For each other it emits `TIME PAYLOAD COUNT`, where the count, kept in the state, tells how often this
//! one has fired. Some payloads do more: `poison` panics, `reject` is rejected, `retry N` asks for
//! another attempt 10 ms later until it is delivered for the Nth time, `chain N` sets the same timer again,
//! one ms later, with `chain N-1`, until N is 0, `again` sets the same
//! timer again, at the same time, with `x`, `cancel KEY` cancels that key's timer of the same time, and
//! `loud` is logged.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process, on_timer);

fn process(record: Record<'_>, _: &mut Outputs, state: &mut State) -> Result<(), Failure> {
    let key = record.key().or_reject("the record has no key")?;
    let command = record.value_str().or_reject("the value is not text")?;
    let (key, command) = match command
        .strip_prefix("as ")
        .and_then(|it| it.split_once(' '))
    {
        Some((key, command)) => (key.as_bytes(), command),
        None => (key, command),
    };
    let mut words = command.splitn(3, ' ');
    let verb = words.next().unwrap_or_default();
    let number: u64 = words
        .next()
        .and_then(|word| word.parse().ok())
        .or_reject("the command has no time")?;
    let payload = words.next().unwrap_or_default();
    match verb {
        "set" => set(state, key, number, payload),
        "after" => set(state, key, record.timestamp_ms() + number, payload),
        "cancel" => state.timers().cancel(key, number),
        _ => return Err(Reject::new("no such command")),
    }
    Ok(())
}

fn set(state: &mut State, key: &[u8], due_ms: u64, payload: &str) {
    state.put(note(key, due_ms), "");
    state.timers().set(key, due_ms, payload);
}

/// The key of the state that says that a timer is set.
fn note(key: &[u8], due_ms: u64) -> Vec<u8> {
    [b"set ", key, b"@", due_ms.to_string().as_bytes()].concat()
}

fn on_timer(timer: Timer<'_>, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
    let (payload, due_ms) = (timer.payload_str().unwrap_or_default(), timer.due_ms());
    if state.get(note(timer.key(), due_ms)).is_none() {
        return Err(Reject::new("the state does not know this timer"));
    }
    let mut words = payload.split(' ');
    let word = words.next().unwrap_or_default();
    let number: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    match word {
        "poison" => panic!("a poisoned timer"),
        "reject" => return Err(Reject::new("the timer is no good")),
        "retry" if u64::from(timer.delivery_count()) < number => {
            return Err(Retry::after_ms(10, "the timer is no good yet"));
        }
        "loud" => log::info(format_args!("fired {due_ms}")),
        "again" => set(state, timer.key(), due_ms, "x"),
        "chain" if number > 0 => {
            let next = format!("chain {}", number - 1);
            set(state, timer.key(), due_ms + 1, &next);
        }
        _ => {}
    }
    if let Some(key) = payload.strip_prefix("cancel ") {
        state.timers().cancel(key, due_ms);
    }
    let name = [timer.key(), b"@", due_ms.to_string().as_bytes()].concat();
    let count = state.add(name, 1);
    out.emit(format!("{due_ms} {payload} {count}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn timers_fire_in_order_and_cancelled_ones_do_not() {
        let mut harness = Harness::new().timer_consumer_fn(process, on_timer);
        let records = [
            Input::new("b", "set 30 late"),
            Input::new("a", "set 30 x"),
            Input::new("b", "after 5 early").timestamp_ms(20),
            Input::new("c", "set 10 gone"),
            Input::new("c", "cancel 10"),
        ];
        assert!(harness.process(records).failures.is_empty());
        assert_eq!(harness.fire_timers(24).values(), [""; 0]);
        let fired = harness.fire_timers(30);
        assert_eq!(fired.values(), ["25 early 1", "30 x 1", "30 late 1"]);
        assert_eq!(fired.outputs[1].key_str(), "a");
        assert_eq!(fired.outputs[1].timestamp_ms, Some(30));
        assert_eq!(harness.timers().count(), 0);
    }

    #[test]
    fn a_chain_goes_on() {
        let mut harness = Harness::new().timer_consumer_fn(process, on_timer);
        harness.process([Input::new("a", "set 1 chain 2")]);
        assert_eq!(harness.fire_timers(9).values(), ["1 chain 2 1"]);
        assert_eq!(harness.fire_timers(9).values(), ["2 chain 1 1"]);
        assert_eq!(harness.fire_timers(9).values(), ["3 chain 0 1"]);
        assert_eq!(harness.timers().count(), 0);
    }
}
