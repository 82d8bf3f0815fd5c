//! Fails a record for what it sees, and says what that was.
//!
//! It counts each key in the state and emits the count. A record whose value begins with `reject`, `retry`
//! or `trap` fails in that way once its key has been counted `config.threshold` times; the reason tells the
//! count and how many keys there are, and for a value that holds `now` the time and a random number. A
//! failure with the same reason can only come from a run that saw the same.

#[cfg(target_arch = "wasm32")]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package testing:circumstances;
            world circumstances {
                import wasi:random/random@0.2.0;
            }
        ",
        path: "wit",
        generate_all,
    });
}

use std::time::{SystemTime, UNIX_EPOCH};

use millstream_sdk::prelude::*;

millstream_sdk::consumer!(type Circumstances);

struct Circumstances {
    threshold: u64,
}

impl Consumer for Circumstances {
    fn open(config: &Config) -> Result<Self, Failure> {
        Ok(Self {
            threshold: config.require("threshold")?,
        })
    }

    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        let key = record.key().or_reject("the record has no key")?;
        let value = String::from_utf8_lossy(record.value()).into_owned();
        let count = state.count(key);
        let may_fail = ["reject", "retry", "trap"]
            .iter()
            .any(|word| value.starts_with(word));
        if may_fail && count >= self.threshold {
            let keys = state.range(b"", None, 100).len();
            let mut reason = format!("count {count} of {keys} keys");
            if value.contains("now") {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
                reason += &format!(" at {now} ns, drew {}", random_number());
            }
            return match value.as_bytes() {
                [b't', ..] => panic!("{reason}"),
                [b'r', b'e', b't', ..] => Err(Retry::new(reason)),
                _ => Err(Reject::new(reason)),
            };
        }
        out.emit(state.add(key, 1).to_string());
        Ok(())
    }
}

#[cfg(target_arch = "wasm32")]
fn random_number() -> u64 {
    bindings::wasi::random::random::get_random_u64()
}

#[cfg(not(target_arch = "wasm32"))]
fn random_number() -> u64 {
    4
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn it_fails_once_the_key_has_been_counted() {
        let mut harness = Harness::new()
            .config("threshold", 2)
            .consumer::<Circumstances>()
            .unwrap();
        let records = ["reject now", "x", "reject now"].map(|value| Input::new("a", value));
        let outcome = harness.process(records);
        assert_eq!(outcome.values(), ["1", "2"]);
        let reason = &outcome.failures[0].reason;
        assert!(reason.starts_with("count 2 of 1 keys at "), "{reason}");
        assert!(reason.ends_with(", drew 4"), "{reason}");
    }
}
