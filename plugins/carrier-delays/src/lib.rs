//! Keeps statistics of delays for each carrier of a stream of flights.
//!
//! Takes flights as JSON objects with `carrier`, `dep_time` and `arr_delay` (minutes); the state
//! holds one [`Statistics`] a carrier. At the end of each batch the new statistics of every carrier
//! in it go to port `stats`, as JSON with the carrier as key: in a compacted topic the newest ones
//! of each carrier stay.

mod statistics;

use std::borrow::Cow;

use millstream_sdk::prelude::*;
use serde::Deserialize;
use serde::de::IgnoredAny;
use statistics::Statistics;

millstream_sdk::consumer!(type CarrierDelays);

/// The plugin. It has no fields: all it knows is in the state.
struct CarrierDelays;

/// What matters of a flight. The times are null if there was none, but not left out.
#[derive(Deserialize)]
struct Flight<'a> {
    #[serde(borrow)]
    carrier: Cow<'a, str>,
    #[serde(deserialize_with = "Option::deserialize")]
    dep_time: Option<IgnoredAny>,
    #[serde(deserialize_with = "Option::deserialize")]
    arr_delay: Option<i64>,
}

impl Consumer for CarrierDelays {
    fn open(_: &Config) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn process(
        &mut self,
        record: Record<'_>,
        _: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        let flight: Flight<'_> = serde_json::from_slice(record.value()).or_reject("no flight")?;
        let carrier = flight.carrier.as_bytes();
        let mut statistics = match state.get(carrier) {
            Some(bytes) => Statistics::from_bytes(bytes).or_reject("damaged state")?,
            None => Statistics::default(),
        };
        statistics.count(flight.dep_time.is_some(), flight.arr_delay);
        state.put(carrier, statistics.to_bytes());
        Ok(())
    }

    fn finish_batch(&mut self, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
        for (carrier, bytes) in state.changes() {
            let statistics = bytes
                .and_then(Statistics::from_bytes)
                .or_reject("damaged state")?;
            out.to("stats")
                .emit_keyed(carrier, serde_json::to_vec(&statistics)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
