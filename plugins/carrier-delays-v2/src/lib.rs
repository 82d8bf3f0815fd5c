//! The second version of `carrier-delays`: the same statistics, the same state, and numbers that come as text
//! are numbers, too. What the first version has rejected goes through it after a redrive.

#[path = "../../carrier-delays/src/delays.rs"]
mod delays;
mod flight;
#[path = "../../carrier-delays/src/statistics.rs"]
mod statistics;

use delays::CarrierDelays;

millstream_sdk::consumer!(type CarrierDelays);
