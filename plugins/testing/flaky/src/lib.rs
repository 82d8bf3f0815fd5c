//! Fails a record as often as its value says, then sends it on with its delivery count.
//!
//! `retry-N …` asks for another attempt for the first N deliveries, `trap-N …` traps on them, and every
//! other value is sent on at once. The output is `VALUE #DELIVERIES`.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    let value = String::from_utf8_lossy(record.value()).into_owned();
    let deliveries = record.delivery_count();
    if failures(&value, "retry-") >= deliveries {
        return Err(Retry::new(format!("delivery {deliveries} is too early")));
    }
    if failures(&value, "trap-") >= deliveries {
        panic!("delivery {deliveries} is too early");
    }
    out.emit(format!("{value} #{deliveries}"));
    Ok(())
}

/// The number after the prefix; 0 without it.
fn failures(value: &str, prefix: &str) -> u32 {
    let word = value.split(' ').next().unwrap_or_default();
    word.strip_prefix(prefix)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
