//! Fails the whole batch if a value in it holds `poison`; sends on all others.

use millstream_sdk::columns::{Batch, Output};
use millstream_sdk::prelude::*;

millstream_sdk::batch_consumer!(process);

fn process(batch: Batch) -> Result<Output, Failure> {
    match batch.values.windows(6).any(|word| word == b"poison") {
        true => Err(Reject::new("the batch holds poison")),
        false => Ok(Output::forward_all(&batch)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    struct Plugin;

    impl BatchConsumer for Plugin {
        fn open(_: &Config) -> Result<Self, Failure> {
            Ok(Self)
        }
        fn process(&mut self, batch: Batch, _: &mut State) -> Result<Output, Failure> {
            process(batch)
        }
    }

    #[test]
    fn a_batch_stands_or_falls_as_one() {
        let mut harness = Harness::new().batch_consumer::<Plugin>().unwrap();
        let reason = harness
            .try_process(["a", "poison"].map(Input::value))
            .unwrap_err();
        assert_eq!(reason, "the batch holds poison");
        assert_eq!(
            harness.process(["a", "b"].map(Input::value)).values(),
            ["a", "b"]
        );
    }
}
