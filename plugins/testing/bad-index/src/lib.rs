//! Returns a source index out of range for a batch with a value that holds `poison`; sends on all others.

use millstream_sdk::columns::{Batch, Output};
use millstream_sdk::prelude::*;

millstream_sdk::batch_consumer!(process);

fn process(batch: Batch) -> Result<Output, Failure> {
    let mut output = Output::forward_all(&batch);
    if batch.values.windows(6).any(|word| word == b"poison") {
        output.source.push(batch.len() as u32 + 7);
    }
    Ok(output)
}
