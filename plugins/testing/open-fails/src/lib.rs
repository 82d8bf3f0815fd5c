//! Does not open unless the configuration says `open = true`; sends every record on if it does.

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(type OpenFails);

struct OpenFails;

impl Consumer for OpenFails {
    fn open(config: &Config) -> Result<Self, Failure> {
        match config.value_or("open", false)? {
            true => Ok(Self),
            false => Err(Reject::new("this plugin never opens")),
        }
    }

    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        _: &mut State,
    ) -> Result<(), Failure> {
        out.forward(record);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn the_error_is_the_plugins() {
        let error = Harness::new().consumer::<OpenFails>().err();
        assert_eq!(error.as_deref(), Some("this plugin never opens"));
        let mut harness = Harness::new()
            .config("open", true)
            .consumer::<OpenFails>()
            .unwrap();
        assert_eq!(harness.process([Input::value("a")]).values(), ["a"]);
    }
}
