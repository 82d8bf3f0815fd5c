//! Turns the ASCII letters of each value into capitals.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    out.emit_with(|value| value.extend(record.value().iter().map(u8::to_ascii_uppercase)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn values_change_and_keys_do_not() {
        let mut harness = Harness::new().consumer_fn(process);
        let outcome = harness.process([Input::new("Key", "Value 1"), Input::value("ü")]);
        assert_eq!(outcome.values(), ["VALUE 1", "ü"]);
        assert_eq!(outcome.outputs[0].key_str(), "Key");
    }
}
