//! Counts the records of each key in the state; for each record it emits the key's count so far.
//!
//! With the output's key and count one can tell from the output topic alone whether a record was
//! counted twice or left out: each key's counts are 1, 2, 3 and so on. It keeps a metric of each kind.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
    let key = record.key().or_reject("the record has no key")?;
    let count = state.add(key, 1);
    out.emit(count.to_string());
    metrics::add("counted", 1);
    metrics::gauge("last count", count as f64);
    metrics::record_value("counts", count);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn counts_go_on_after_a_restart() {
        let mut harness = Harness::new().consumer_fn(process);
        let records = ["a", "b", "a"].map(|key| Input::new(key, "x"));
        assert_eq!(harness.process(records.clone()).values(), ["1", "1", "2"]);
        harness.restart().unwrap();
        let outcome = harness.process(records);
        assert_eq!(outcome.values(), ["3", "2", "4"]);
        assert_eq!(outcome.outputs[1].key_str(), "b");
    }

    #[test]
    fn records_without_a_key_are_rejected() {
        let mut harness = Harness::new().consumer_fn(process);
        let outcome = harness.process([Input::value("x")]);
        assert_eq!(outcome.failures[0].reason, "the record has no key");
    }
}
