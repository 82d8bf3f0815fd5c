//! Makes 64 MiB of output of a record whose value holds `poison`; sends on all others.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if is_poison(record) {
        // 64 records of 1 MiB: more than the output limit, within the memory limit of 128 MiB.
        let megabyte = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            out.emit(&megabyte);
        }
    }
    out.forward(record);
    Ok(())
}

fn is_poison(record: Record<'_>) -> bool {
    record.value().windows(6).any(|word| word == b"poison")
}
