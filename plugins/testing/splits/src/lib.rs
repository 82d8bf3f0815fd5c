//! Sends a record whose value is an even number to the port `even`, and any other to `odd`.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    let number: u64 = std::str::from_utf8(record.value())?.parse()?;
    let port = if number.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    };
    out.to(port).forward(record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn records_are_split_by_their_number() {
        let mut harness = Harness::new().ports(["odd", "even"]).consumer_fn(process);
        let outcome = harness.process(["1", "2", "4", "x"].map(Input::value));
        let on = |port| -> Vec<&str> {
            let records = outcome.on(port);
            records.iter().map(|record| record.value_str()).collect()
        };
        assert_eq!((on("even"), on("odd")), (vec!["2", "4"], vec!["1"]));
        assert_eq!(outcome.failures[0].index, 3);
    }
}
