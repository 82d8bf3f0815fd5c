//! Loops forever on a record whose value holds `poison`; sends on all others.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if is_poison(record) {
        loop {
            // Something the compiler cannot leave out.
            std::hint::black_box(record.offset());
        }
    }
    out.forward(record);
    Ok(())
}

fn is_poison(record: Record<'_>) -> bool {
    record.value().windows(6).any(|word| word == b"poison")
}
