use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use millstream_sdk::testing::{Consumes, Harness, Input, Running};
use serde::Deserialize;

use super::*;
use crate::statistics::Statistics;

fn open() -> Running<Consumes> {
    Harness::new()
        .ports(["stats"])
        .consumer::<CarrierDelays>()
        .unwrap()
}

fn flight(carrier: &str, dep_time: &str, arr_delay: &str) -> Input {
    let json =
        format!(r#"{{"carrier":"{carrier}","dep_time":{dep_time},"arr_delay":{arr_delay}}}"#);
    Input::new(carrier, json)
}

#[test]
fn each_carrier_of_a_batch_is_emitted_once() {
    let mut harness = open();
    let outcome = harness.process([
        flight("UA", "517", "11"),
        flight("AA", "542", "33"),
        flight("UA", "null", "null"),
        flight("UA", "600", "-20"),
        flight("UA", "600", "15"),
        flight("UA", "600", "16"),
    ]);
    let stats: Vec<_> = outcome
        .on("stats")
        .iter()
        .map(|o| (o.key_str(), o.value_str()))
        .collect();
    let ua = r#"{"flights":5,"cancelled":1,"arrived":4,"arr_delay_sum":22,"late15":1}"#;
    let aa = r#"{"flights":1,"cancelled":0,"arrived":1,"arr_delay_sum":33,"late15":1}"#;
    assert_eq!(stats, [("UA", ua), ("AA", aa)]);
}

#[test]
fn statistics_outlive_the_instance() {
    let mut harness = open();
    harness.process([flight("UA", "517", "11")]);
    harness.restart().unwrap();
    let outcome = harness.process([flight("UA", "518", "null")]);
    let ua = r#"{"flights":2,"cancelled":0,"arrived":1,"arr_delay_sum":11,"late15":0}"#;
    assert_eq!(outcome.values(), [ua]);
}

#[test]
fn what_is_no_flight_is_rejected_and_counts_nowhere() {
    let mut harness = open();
    let outcome = harness.process([
        flight("UA", "517", "11"),
        Input::value("{"),
        Input::value(r#"{"carrier":"UA","dep_time":517}"#),
        Input::tombstone("UA"),
    ]);
    assert!(outcome.values()[0].starts_with(r#"{"flights":1,"#));
    assert_eq!(outcome.failures.len(), 3);
    assert!(outcome.failures.iter().all(|failure| failure.is_rejected()));
    assert!(
        outcome.failures[1]
            .reason
            .starts_with("no flight: missing field `arr_delay`")
    );
}

#[test]
fn state_is_read_back_as_written() {
    let statistics = Statistics {
        flights: 1,
        cancelled: 2,
        arrived: 3,
        arr_delay_sum: -4,
        late15: 5,
    };
    assert_eq!(
        Statistics::from_bytes(&statistics.to_bytes()),
        Some(statistics)
    );
    assert_eq!(Statistics::from_bytes(&[0; 39]), None);
    assert_eq!(Statistics::from_bytes(&[0; 48]), None);
}

/// All 336,776 flights of 2013 from New York, against the statistics known of them.
#[test]
fn the_flights_of_2013() {
    #[derive(Deserialize)]
    struct Expected {
        total: u64,
        by_carrier: BTreeMap<String, Statistics>,
    }
    let folder = std::env::var_os("FLIGHTS_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/flights")
        });
    let expected = std::fs::read(folder.join("flights-by-carrier.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&expected).unwrap();
    let events = std::fs::File::open(folder.join("nycflights13.jsonl.zst")).unwrap();
    let events = BufReader::new(zstd::Decoder::new(events).unwrap());
    let mut events = events.lines().map(|line| Input::value(line.unwrap()));

    let (mut harness, mut newest) = (open(), BTreeMap::new());
    loop {
        let outcome = harness.process(events.by_ref().take(512));
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
        if outcome.outputs.is_empty() {
            break;
        }
        for output in outcome.on("stats") {
            let statistics: Statistics = serde_json::from_str(output.value_str()).unwrap();
            newest.insert(output.key_str().to_owned(), statistics);
        }
    }
    assert_eq!(
        newest
            .values()
            .map(|statistics| statistics.flights)
            .sum::<u64>(),
        expected.total
    );
    assert_eq!(newest, expected.by_carrier);
}
