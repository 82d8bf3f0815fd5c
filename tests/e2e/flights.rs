//! The example `flights`: 336,776 real events through the real plugin, exactly the right table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::records::last_values;
use crate::support::{Consumed, Sandbox};

/// The example's folder.
pub fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flights")
}

/// The statistics of each carrier, as a plain count over the file gives them.
pub fn expected_table() -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(example().join("flights-by-carrier.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let carriers = expected["by_carrier"].as_object().unwrap();
    carriers
        .iter()
        .map(|(carrier, statistics)| (carrier.clone(), statistics.clone()))
        .collect()
}

/// Produces the flights with the example's manifest.
#[track_caller]
pub fn produce_flights(sandbox: &Sandbox, manifest: &str) {
    let file = example().join("nycflights13.jsonl.zst");
    sandbox.succeed(&[
        "produce",
        "topic:flights",
        "--file",
        file.to_str().unwrap(),
        "--key-field",
        "carrier",
        "--manifest",
        manifest,
    ]);
}

/// Asserts that each carrier's rows of statistics count up to the expected ones: no batch of
/// flights counted twice, and none is missing.
#[track_caller]
pub fn assert_statistics(statistics: &[Consumed]) {
    let mut flights: BTreeMap<&str, u64> = BTreeMap::new();
    for record in statistics {
        let counted = record.value_json()["flights"].as_u64().unwrap();
        let before = flights.insert(record.key_text(), counted).unwrap_or(0);
        assert!(counted > before, "after {before} flights: {record:?}");
    }
    assert_eq!(last_values(statistics), expected_table());
}

#[test]
fn the_example_gives_exactly_the_right_table() {
    let sandbox = Sandbox::new();
    let manifest = example().join("millstream.toml");
    let manifest = manifest.to_str().unwrap();
    produce_flights(&sandbox, manifest);

    let summary = sandbox.json(&["run", manifest, "--until-idle"]);
    assert_eq!(summary["outcome"], "idle");
    assert_eq!(summary["records_in"], 336_776);
    let statistics = sandbox.consume("carrier-stats");
    assert_statistics(&statistics);
    assert_eq!(summary["records_out"], statistics.len());
    let end_offset = |sandbox: &Sandbox| {
        let topic = sandbox.json(&["topic", "describe", "carrier-stats"]);
        topic["offsets"][0]["end_offset"].as_u64()
    };
    let end = end_offset(&sandbox);

    let again = sandbox.json(&["run", manifest, "--until-idle"]);
    assert_eq!(again["records_in"], 0, "everything was processed before");
    assert_eq!(again["records_out"], 0);
    assert_eq!(end_offset(&sandbox), end, "nothing came twice");
    // The second run may have compacted the topic: the newest statistics are the same.
    assert_eq!(
        last_values(&sandbox.consume("carrier-stats")),
        expected_table()
    );
}
