//! Keeps statistics of delays for each carrier of a stream of flights.
//!
//! Takes flights as JSON objects with `carrier`, `dep_time` and `arr_delay` (minutes); the state
//! holds one [`Statistics`](statistics::Statistics) a carrier. At the end of each batch the new statistics of
//! every carrier in it go to port `stats`, as JSON with the carrier as key: in a compacted topic the newest ones
//! of each carrier stay. Flights that were cancelled go to port `rebook`, if the pipeline has one.

mod delays;
mod flight;
mod statistics;

use delays::CarrierDelays;

millstream_sdk::consumer!(type CarrierDelays);

#[cfg(test)]
mod tests;
