//! Folds the records of each key into its state and proves it in each output; fails as the record says.
//! `entry.rs` says what a record is, `fold.rs` what becomes of it.

use millstream_sdk::prelude::*;

mod entry;
mod fold;

millstream_sdk::consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
    fold::process("first", record, out, state)
}
