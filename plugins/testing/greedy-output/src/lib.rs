//! Makes 21 MiB of output of a record whose value holds `poison`; sends on all others.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

/// Three records stay below the limit of a record, and together exceed that of a reply.
const RECORD_BYTES: usize = 7 << 20;

fn process(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    if !record.value().windows(6).any(|word| word == b"poison") {
        out.forward(record);
        return Ok(());
    }
    for _ in 0..3 {
        out.emit_with(|value| value.extend(std::iter::repeat_n(b'x', RECORD_BYTES)));
    }
    Ok(())
}
