//! The example `flights`: 336,776 real events through the real plugin, exactly the right table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::server::Server;
use crate::server_pipelines::wait_until;
use crate::support::records::last_values;
use crate::support::{Consumed, Random, Sandbox, note, plugins};

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

/// How many flights were cancelled.
fn cancelled_flights() -> u64 {
    let table = expected_table();
    let cancelled = table.values().map(|row| row["cancelled"].as_u64().unwrap());
    cancelled.sum()
}

/// Broken flights are dead letters, and go through the second version of the plugin after a redrive; under
/// kills of all of it, the produce included.
///
/// Fails when a redrive loses or doubles a letter, when the state of the first version is not the second's,
/// and when `produce --resume` leaves out or repeats a record.
#[test]
fn broken_flights_count_after_a_redrive_whatever_is_killed() {
    const GOOD: u64 = 336_676;
    let sandbox = Sandbox::new();
    let mut random = Random::from_environment();
    let manifest = |name: &str| example().join(name).to_str().unwrap().to_owned();
    let (first, second) = (manifest("millstream.toml"), manifest("millstream-v2.toml"));
    let flights = manifest("nycflights13.jsonl.zst");
    let good = GOOD.to_string();
    let produce = [
        "produce",
        "topic:flights",
        "--key-field",
        "carrier",
        "--manifest",
        &first,
        "--file",
        &flights,
        "--max",
        &good,
        "--resume",
    ];
    for _ in 0..2 {
        let running = sandbox.start(&produce);
        std::thread::sleep(random.within_ms(100..1500));
        note(format_args!("killed while producing: {}", running.kill().0));
    }
    sandbox.succeed(&produce);
    let broken = manifest("broken.jsonl");
    sandbox.succeed(&[
        "produce",
        "topic:flights",
        "--key-field",
        "carrier",
        "--file",
        &broken,
    ]);

    let kill_and_finish = |arguments: &[&str], kills: u32, random: &mut Random| {
        for _ in 0..kills {
            let running = sandbox.start(arguments);
            std::thread::sleep(random.within_ms(20..1500));
            note(format_args!("killed {arguments:?}: {}", running.kill().0));
        }
        sandbox.succeed(arguments);
    };
    kill_and_finish(&["run", &first, "--until-idle"], 2, &mut random);
    let letters = sandbox.json(&["dead-letter", "list", "carrier-delays", "--max", "1000"]);
    assert_eq!(letters.as_array().unwrap().len(), 100);
    kill_and_finish(
        &["dead-letter", "redrive", "carrier-delays"],
        1,
        &mut random,
    );
    kill_and_finish(&["run", &second, "--until-idle"], 2, &mut random);
    assert_statistics(&sandbox.consume("carrier-stats"));
    assert_eq!(
        sandbox.consume("rebookings").len() as u64,
        cancelled_flights()
    );
    let waiting = |queue: &str| sandbox.json(&["queue", "describe", queue])["waiting"].as_u64();
    assert_eq!(
        (waiting("no-flights"), waiting("rebook")),
        (Some(0), Some(0))
    );
}

#[test]
fn the_example_gives_exactly_the_right_table() {
    let sandbox = Sandbox::new();
    let manifest = example().join("millstream.toml");
    let manifest = manifest.to_str().unwrap();
    produce_flights(&sandbox, manifest);

    let summary = sandbox.json(&["run", manifest, "--until-idle"]);
    assert_eq!(summary["outcome"], "idle");
    let cancelled = cancelled_flights();
    assert_eq!(summary["records_in"], 336_776 + cancelled);
    let statistics = sandbox.consume("carrier-stats");
    assert_statistics(&statistics);
    let rebookings = sandbox.consume("rebookings").len() as u64;
    assert_eq!(rebookings, cancelled);
    let end_offset = |sandbox: &Sandbox| {
        let topic = sandbox.json(&["topic", "describe", "carrier-stats"]);
        topic["offsets"][0]["end_offset"].as_u64().unwrap()
    };
    let end = end_offset(&sandbox);
    // By the end offset: the run may have compacted the topic already, which takes rows away and no offsets.
    assert_eq!(summary["records_out"], end + cancelled + rebookings);

    let again = sandbox.json(&["run", manifest, "--until-idle"]);
    assert_eq!(again["records_in"], 0, "everything was processed before");
    assert_eq!(again["records_out"], 0);
    assert_eq!(end_offset(&sandbox), end, "nothing came twice");
    // Whatever was compacted: the newest statistics are the same.
    assert_eq!(
        last_values(&sandbox.consume("carrier-stats")),
        expected_table()
    );
}

/// The second version counts broken flights, too. A rollback with state takes back what it has counted: the first
/// one goes on from the table as it was at the deploy.
///
/// Fails when a rollback leaves a task's state or position as it is, or restores either without the other.
#[test]
fn a_rollback_with_state_restores_the_table_of_the_deploy() {
    const BEFORE: &str = "300000";
    const GOOD: &str = "336676";
    let example_file = |name: &str| example().join(name).to_str().unwrap().to_owned();
    let (flights, broken) = (
        example_file("nycflights13.jsonl.zst"),
        example_file("broken.jsonl"),
    );
    let produce = |sandbox: &Sandbox, file: &str, rest: &[&str]| {
        let verb = [
            "produce",
            "topic:flights",
            "--key-field",
            "carrier",
            "--file",
            file,
        ];
        sandbox.succeed(&[&verb, rest].concat());
    };
    let table = |sandbox: &Sandbox| last_values(&sandbox.consume("carrier-stats"));

    // What the first version counts of the good ones.
    let plain = Sandbox::new();
    let manifest = example_file("millstream.toml");
    produce(&plain, &flights, &["--manifest", &manifest, "--max", GOOD]);
    plain.succeed(&["run", &manifest, "--until-idle"]);
    let of_the_good = table(&plain);

    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", &manifest]);
    let wait_until_idle = || {
        wait_until("everything processed", || {
            let pipelines = sandbox.json(&["pipeline", "list"]);
            let pipelines = pipelines.as_array().unwrap().iter();
            pipelines
                .map(|it| it["lag_records"].as_u64().unwrap())
                .sum::<u64>()
                == 0
        });
    };
    produce(&sandbox, &flights, &["--max", BEFORE]);
    wait_until_idle();
    let next = plugins::component("carrier-delays-v2");
    let next = next.to_str().unwrap();
    sandbox.succeed(&["plugin", "upload", "carrier-delays", next, "--deploy"]);
    produce(&sandbox, &flights, &["--max", GOOD, "--resume"]);
    produce(&sandbox, &broken, &[]);
    wait_until_idle();
    assert_eq!(table(&sandbox), expected_table());

    let back = sandbox.json(&["plugin", "rollback", "carrier-delays", "--with-state"]);
    assert_eq!(back["outcome"], "succeeded", "{back}");
    wait_until_idle();
    assert_eq!(table(&sandbox), of_the_good);
    assert_ne!(of_the_good, expected_table());
    let letters = sandbox.json(&["dead-letter", "list", "carrier-delays", "--max", "1000"]);
    assert_eq!(letters.as_array().unwrap().len(), 100);
    server.stop();
}
