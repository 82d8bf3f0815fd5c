//! Sends every record on, unchanged.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    out.forward(record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn records_come_out_as_they_went_in() {
        let mut harness = Harness::new().consumer_fn(process);
        let outcome = harness.process([
            Input::new("k", "v").header("h", "1").timestamp_ms(7),
            Input::tombstone("k"),
        ]);
        let first = &outcome.outputs[0];
        assert_eq!((first.key_str(), first.value_str()), ("k", "v"));
        assert_eq!((first.headers.len(), first.timestamp_ms), (1, Some(7)));
        assert_eq!(outcome.outputs[1].value, None);
    }
}
