//! The state: for each key how many records there were, and a hash of their numbers in order.

use millstream_sdk::prelude::*;

use crate::entry::Entry;

/// An odd number with bits all over.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Does with a record what it says, and proves it.
pub(crate) fn process(
    version: &str,
    record: Record<'_>,
    out: &mut Outputs,
    state: &mut State,
) -> Result<(), Failure> {
    let key = record.key().or_reject("the record has no key")?;
    let entry = Entry::of(record)?;
    entry.obey(record)?;
    let (count, hash) = read(state, key);
    let mixed = (hash ^ entry.number).wrapping_mul(MULTIPLIER);
    let (count, hash) = (count + 1, mixed.rotate_left(29));
    state.put(key, [count.to_le_bytes(), hash.to_le_bytes()].concat());
    entry.send(version, record, (count, hash), out);
    Ok(())
}

fn read(state: &mut State, key: &[u8]) -> (u64, u64) {
    let Some(value) = state.get(key) else {
        return (0, 0);
    };
    let number = |at: usize| {
        let bytes = value[8 * at..8 * (at + 1)].try_into();
        u64::from_le_bytes(bytes.expect("8 bytes"))
    };
    (number(0), number(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input, Outcome};

    fn outcome(values: &[&str]) -> Outcome {
        let run = |record: Record<'_>, out: &mut Outputs, state: &mut State| {
            process("test", record, out, state)
        };
        let mut harness = Harness::new().consumer_fn(run);
        harness.process(values.iter().map(|value| Input::new("k", *value)))
    }

    #[test]
    fn fine_records_are_counted_and_others_are_not() {
        let outcome = outcome(&[
            "7 fine fine",
            "8 reject fine",
            "9 retry-1 fine",
            "10 fine fine",
        ]);
        let reasons = outcome
            .failures
            .iter()
            .map(|failure| failure.reason.as_str());
        assert!(reasons.eq(["the record says so", "delivery 1 is too early"]));
        assert!(outcome.values()[0].starts_with("7 fine fine 0/0:1:"));
        assert!(outcome.values()[1].starts_with("10 fine fine 0/3:2:"));
    }

    #[test]
    fn the_second_word_is_for_the_second_pipeline() {
        let outcome = outcome(&[
            "7 fine reject 1/2:1:0:first:1",
            "8 reject fine 1/3:2:0:first:1",
        ]);
        assert_eq!((outcome.failures.len(), outcome.outputs.len()), (1, 1));
    }
}
