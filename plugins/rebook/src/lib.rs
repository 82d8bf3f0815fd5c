//! Takes cancelled flights out of a queue and asks for other seats: a JSON object for each, with the carrier as
//! its key.

use millstream_sdk::prelude::*;
use serde::{Deserialize, Serialize};

millstream_sdk::stateless_consumer!(process);

/// What matters of a flight; and, with other names, what is asked for.
#[derive(Deserialize, Serialize)]
struct Rebooking<'a> {
    carrier: &'a str,
    flight: u32,
    #[serde(rename(serialize = "from"))]
    origin: &'a str,
    #[serde(rename(serialize = "to"))]
    dest: &'a str,
    #[serde(rename(serialize = "not_before"))]
    time_hour: &'a str,
}

fn process(record: Record<'_>, out: &mut Outputs) -> Result<(), Failure> {
    let flight: Rebooking<'_> = serde_json::from_slice(record.value()).or_reject("no flight")?;
    out.emit(serde_json::to_vec(&flight)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_sdk::testing::{Harness, Input};

    #[test]
    fn a_flight_becomes_a_request() {
        let mut harness = Harness::new().stateless_fn(process);
        let flight = r#"{"carrier":"UA","flight":412,"origin":"JFK","dest":"SJU","dep_time":null,"time_hour":"2014-01-01T04:00:00Z"}"#;
        let outcome = harness.process([Input::new("UA", flight), Input::value("{}")]);
        let request = r#"{"carrier":"UA","flight":412,"from":"JFK","to":"SJU","not_before":"2014-01-01T04:00:00Z"}"#;
        assert_eq!(outcome.values(), [request]);
        assert!(outcome.failures[0].is_rejected());
    }
}
