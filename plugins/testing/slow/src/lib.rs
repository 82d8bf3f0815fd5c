//! Waits as long as a record says, `sleep-N …` for N ms, then sends it on.

use std::time::Duration;

use millstream_sdk::prelude::*;

millstream_sdk::stateless_consumer!(process);

fn process(record: Record<'_>, out: &mut Outputs) -> Result<(), Failure> {
    if let Some(pause) = pause(record.value()) {
        std::thread::sleep(pause);
    }
    out.forward(record);
    Ok(())
}

fn pause(value: &[u8]) -> Option<Duration> {
    let word = std::str::from_utf8(value).ok()?.split(' ').next()?;
    let pause_ms = word.strip_prefix("sleep-")?.parse().ok()?;
    Some(Duration::from_millis(pause_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn every_record_comes_through() {
        assert_eq!(pause(b"sleep-20 a"), Some(Duration::from_millis(20)));
        let mut harness = Harness::new().stateless_fn(process);
        let outcome = harness.process(["sleep-1 a", "b"].map(Input::value));
        assert_eq!(outcome.values(), ["sleep-1 a", "b"]);
    }
}
