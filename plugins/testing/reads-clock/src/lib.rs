//! Puts the time of day, in ms since the Unix epoch, in place of each value: it imports
//! `wasi:clocks`, which its manifest must allow.

use std::time::{SystemTime, UNIX_EPOCH};

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(process);

fn process(_: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    out.emit(now.as_millis().to_string());
    Ok(())
}
