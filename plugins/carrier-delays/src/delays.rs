//! What both versions of the plugin do: keep statistics of delays for each carrier.

use millstream_sdk::prelude::*;

use crate::flight::Flight;
use crate::statistics::Statistics;

/// The plugin. What it counts is in the state.
pub struct CarrierDelays {
    /// Whether the pipeline has a port for cancelled flights.
    rebooks: bool,
}

impl Consumer for CarrierDelays {
    fn open(_: &Config) -> Result<Self, Failure> {
        Ok(Self {
            rebooks: context::ports().iter().any(|port| port == "rebook"),
        })
    }

    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        let flight = Flight::read(record.value()).or_reject("no flight")?;
        let carrier = flight.carrier.as_bytes();
        let mut statistics = match state.get(carrier) {
            Some(bytes) => Statistics::from_bytes(bytes).or_reject("damaged state")?,
            None => Statistics::default(),
        };
        statistics.count(flight.has_departed, flight.arr_delay);
        state.put(carrier, statistics.to_bytes());
        if self.rebooks && !flight.has_departed {
            out.to("rebook").forward(record);
        }
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
