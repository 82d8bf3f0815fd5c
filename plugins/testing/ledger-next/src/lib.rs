//! The next version of `testing-ledger`: the same fold under another name, so that a deploy is one of another
//! component, and the outputs say which of the two made them.

use millstream_sdk::prelude::*;

#[path = "../../ledger/src/entry.rs"]
mod entry;
#[path = "../../ledger/src/fold.rs"]
mod fold;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
    fold::process("next", record, out, state)
}
