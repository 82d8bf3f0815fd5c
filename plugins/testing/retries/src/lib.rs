//! Asks for another attempt for a record whose value holds `poison`: 10 ms later, or N ms if it holds `poison-N`. Sends on
//! all others.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if let Some(after_ms) = pause_ms(&String::from_utf8_lossy(record.value())) {
        return Err(Retry::after_ms(after_ms, "the record is poison for now"));
    }
    out.forward(record);
    Ok(())
}

fn pause_ms(value: &str) -> Option<u32> {
    let (_, rest) = value.split_once("poison")?;
    let number = rest
        .strip_prefix('-')
        .and_then(|rest| rest.split(' ').next());
    Some(number.and_then(|number| number.parse().ok()).unwrap_or(10))
}
