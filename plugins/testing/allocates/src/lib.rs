//! Allocates without end on a record whose value holds `poison`; sends on all others.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if is_poison(record) {
        let mut hoard = Vec::new();
        loop {
            hoard.push(std::hint::black_box(vec![1u8; 1 << 20]));
        }
    }
    out.forward(record);
    Ok(())
}

fn is_poison(record: Record<'_>) -> bool {
    record.value().windows(6).any(|word| word == b"poison")
}
