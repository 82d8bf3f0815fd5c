//! Makes the records 1 to `count` (from the configuration), each once, whatever happens.
//!
//! The number is key and value alike. The last number made is in the state, which is committed with
//! the records.

use millstream_sdk::prelude::*;

millstream_sdk::producer!(type Counter);

struct Counter {
    count: u64,
}

impl Producer for Counter {
    fn open(config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            count: config.require("count")?,
        })
    }

    fn produce(
        &mut self,
        max_records: u32,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        let made = state.count("made");
        let making = u64::from(max_records).min(self.count.saturating_sub(made));
        for number in made + 1..=made + making {
            let number = number.to_string();
            out.emit_keyed(&number, &number);
        }
        if making > 0 {
            state.add("made", making);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::Harness;

    #[test]
    fn each_number_comes_once() {
        let mut harness = Harness::new()
            .config("count", 5)
            .producer::<Counter>()
            .unwrap();
        assert_eq!(harness.produce(2).unwrap().values(), ["1", "2"]);
        harness.restart().unwrap();
        assert_eq!(harness.produce(10).unwrap().values(), ["3", "4", "5"]);
        assert!(harness.produce(10).unwrap().outputs.is_empty());
    }

    #[test]
    fn it_needs_a_count() {
        let open = |harness: Harness| harness.producer::<Counter>().err();
        assert_eq!(
            open(Harness::new()).as_deref(),
            Some("config `count` is missing")
        );
        let reason = open(Harness::new().config("count", "many")).unwrap();
        assert!(reason.starts_with("config `count` is `many`; expected u64"));
    }
}
