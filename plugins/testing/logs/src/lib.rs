//! Logs each record, one whose value holds `poison` as an error; sends on all.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if is_poison(record) {
        log::error(format_args!("offset {} is poison", record.offset()));
    } else {
        log::info(format_args!("offset {}", record.offset()));
    }
    out.forward(record);
    Ok(())
}

fn is_poison(record: Record<'_>) -> bool {
    record.value().windows(6).any(|word| word == b"poison")
}
