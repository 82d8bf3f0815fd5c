//! Rejects a record whose value holds `poison`; sends on all others.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if is_poison(record) {
        return Err(Reject::new("the record is poison"));
    }
    out.forward(record);
    Ok(())
}

fn is_poison(record: Record<'_>) -> bool {
    record.value().windows(6).any(|word| word == b"poison")
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn neighbours_of_a_rejected_record_stand() {
        let mut harness = Harness::new().consumer_fn(process);
        let outcome = harness.process(["a", "poison", "b"].map(Input::value));
        assert_eq!(outcome.values(), ["a", "b"]);
        let failure = &outcome.failures[0];
        assert_eq!((failure.index, failure.is_rejected()), (1, true));
        assert_eq!(failure.reason, "the record is poison");
    }
}
