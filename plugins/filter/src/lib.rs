//! Sends on the records whose value begins with an even byte: about half of any data.
//!
//! The smallest filter there is, which `bench plugin` holds against the same in native code.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if record.value().first().is_some_and(|byte| byte % 2 == 0) {
        out.forward(record);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn half_of_the_values_pass() {
        let mut harness = Harness::new().consumer_fn(process);
        let values = ["a", "b", "c", "d", ""].map(Input::value);
        assert_eq!(harness.process(values).values(), ["b", "d"]);
    }
}
