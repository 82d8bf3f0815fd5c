//! As `testing-ledger`, without state: its records may go to any instance, and its proofs count nothing.

use millstream_sdk::prelude::*;

#[path = "../../ledger/src/entry.rs"]
mod entry;

millstream_sdk::stateless_consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs) -> Result<(), Failure> {
    let entry = entry::Entry::of(record)?;
    entry.obey(record)?;
    entry.send("stateless", record, (0, entry.number), out);
    Ok(())
}
