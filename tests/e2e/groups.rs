//! Consumer groups: of `consume`, of pipelines, and moved by `group reset`.

use serde_json::json;

use crate::server::Server;
use crate::server_pipelines::{pipeline, wait_until};
use crate::support::{Consumed, Sandbox};

/// 30 records in partition 0 and 10 in partition 1; record n of a partition has the timestamp n s.
fn with_records() -> Sandbox {
    let sandbox = Sandbox::new();
    let create = ["topic", "create", "t", "--partitions", "2"];
    sandbox.succeed(&[&create[..], &["--retention", "forever"]].concat());
    let of = |partition: u32, count: u64| {
        (0..count).map(move |number| {
            json!({ "partition": partition, "timestamp": number * 1000,
                    "value": format!("{partition}/{number}") })
            .to_string()
        })
    };
    let file = sandbox.write_lines("records.jsonl", of(0, 30).chain(of(1, 10)));
    let produce = ["produce", "topic:t", "--format", "record", "--file"];
    sandbox.succeed(&[&produce[..], &[file.to_str().unwrap()]].concat());
    sandbox
}

fn consume(sandbox: &Sandbox, arguments: &[&str]) -> Vec<Consumed> {
    let all = [&["consume", "topic:t", "--output", "json"][..], arguments].concat();
    Consumed::parse_lines(&sandbox.succeed(&all))
}

/// Committed offset and lag of each partition.
fn positions(sandbox: &Sandbox) -> Vec<(u64, u64)> {
    let group = sandbox.json(&["group", "describe", "g"]);
    let positions = group["positions"].as_array().unwrap();
    positions
        .iter()
        .map(|position| {
            assert_eq!(position["topic"], "t");
            let number = |name: &str| position[name].as_u64().unwrap();
            (number("committed_offset"), number("lag_records"))
        })
        .collect()
}

#[test]
fn a_group_goes_on_where_it_was() {
    let sandbox = with_records();
    let first = consume(&sandbox, &["--group", "g", "--max", "7"]);
    let second = consume(&sandbox, &["--group", "g"]);
    assert_eq!((first.len(), second.len()), (7, 33));
    let mut all: Vec<_> = first
        .iter()
        .chain(&second)
        .map(|record| (record.partition, record.offset))
        .collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 40, "nothing twice, nothing left out");
    assert!(consume(&sandbox, &["--group", "g"]).is_empty());
    assert_eq!(positions(&sandbox), [(30, 0), (10, 0)]);
    // Another group has its own offsets.
    assert_eq!(consume(&sandbox, &["--group", "h"]).len(), 40);
    let groups = sandbox.json(&["group", "list"]);
    assert_eq!([&groups[0]["name"], &groups[1]["name"]], ["g", "h"]);
}

#[test]
fn a_reset_moves_a_group_to_any_place() {
    let sandbox = with_records();
    let reset = |arguments: &[&str]| {
        let reset = ["group", "reset", "g", "--topic", "t", "--to"];
        sandbox.succeed(&[&reset[..], arguments].concat());
    };
    reset(&["latest"]);
    assert_eq!(positions(&sandbox), [(30, 0), (10, 0)]);
    assert!(consume(&sandbox, &["--group", "g"]).is_empty());
    reset(&["earliest"]);
    assert_eq!(positions(&sandbox), [(0, 30), (0, 10)]);
    reset(&["5"]);
    assert_eq!(positions(&sandbox), [(5, 25), (5, 5)]);
    reset(&["1970-01-01T00:00:08Z"]);
    assert_eq!(positions(&sandbox), [(8, 22), (8, 2)]);
    // Behind the last record of partition 1.
    reset(&["1970-01-01T00:00:20Z"]);
    assert_eq!(positions(&sandbox), [(20, 10), (10, 0)]);
    reset(&["25", "--partition", "0"]);
    assert_eq!(positions(&sandbox), [(25, 5), (10, 0)]);
    reset(&["3", "--dry-run"]);
    assert_eq!(positions(&sandbox), [(25, 5), (10, 0)]);
    let read = consume(&sandbox, &["--group", "g"]);
    assert_eq!(
        read.iter().map(|record| record.offset).collect::<Vec<_>>(),
        [25, 26, 27, 28, 29]
    );
}

#[test]
fn a_reset_beyond_the_end_goes_to_the_end_and_says_so() {
    let sandbox = with_records();
    let reset = ["group", "reset", "g", "--topic", "t", "--to"];
    sandbox
        .run(&[&reset[..], &["11"]].concat())
        .expect_code(0)
        .expect_error(&[
            "offset 11 is out of range",
            "partition 1 of topic `t`",
            "taking 10",
        ]);
    assert_eq!(positions(&sandbox), [(11, 19), (10, 0)]);
    sandbox
        .run(&[&reset[..], &["yesterday"]].concat())
        .expect_code(2)
        .expect_error(&["expected `earliest`, `latest`, an offset"]);
}

#[test]
fn a_pipeline_processes_again_after_a_reset_of_its_group() {
    let sandbox = with_records();
    sandbox.manifest(
        r#"
name = "again"

[topics.out]
retention = "forever"

[plugins.passthrough]
path = "{passthrough}"

[pipelines.pass]
from = "topic:t"
group = "g"
plugin = "passthrough"
to = "topic:out"
"#,
    );
    sandbox.run_until_idle();
    assert_eq!(positions(&sandbox), [(30, 0), (10, 0)]);
    sandbox.succeed(&[
        "group",
        "reset",
        "g",
        "--topic",
        "t",
        "--to",
        "28",
        "--partition",
        "0",
    ]);
    sandbox.run_until_idle();
    let records = sandbox.consume("out");
    assert_eq!(records.len(), 42);
    let again: Vec<_> = records[40..].iter().map(Consumed::value_text).collect();
    assert_eq!(again, ["0/28", "0/29"]);
    sandbox
        .run(&["group", "delete", "g"])
        .expect_code(2)
        .expect_error(&[
            "delete group `g` and its offsets in 2 partition(s)?",
            "give --yes",
        ]);
    assert_eq!(positions(&sandbox), [(30, 0), (10, 0)]);
    sandbox.succeed(&["group", "delete", "g", "--yes"]);
    sandbox
        .run(&["group", "describe", "g"])
        .expect_code(1)
        .expect_error(&["there is no consumer group `g`"]);
    sandbox.run_until_idle();
    assert_eq!(
        sandbox.consume("out").len(),
        82,
        "without a group it starts anew"
    );
}

#[test]
fn places_to_read_from() {
    let sandbox = with_records();
    let offsets = |arguments: &[&str]| -> Vec<(u32, u64)> {
        consume(&sandbox, arguments)
            .iter()
            .map(|record| (record.partition, record.offset))
            .collect()
    };
    assert_eq!(offsets(&["--from", "earliest"]).len(), 40);
    assert!(offsets(&["--from", "latest"]).is_empty());
    assert_eq!(
        offsets(&["--from", "28", "--partition", "0"]),
        [(0, 28), (0, 29)]
    );
    assert_eq!(
        offsets(&["--from", "1970-01-01T00:00:08.001Z", "--partition", "1"]),
        [(1, 9)]
    );
    sandbox
        .run(&["consume", "topic:t", "--partition", "2"])
        .expect_code(1)
        .expect_error(&["has partitions 0 to 1, there is no partition 2"]);
}

/// What is parked is not at the position that a reset moves.
///
/// Fails when a group of which a pipeline has parked records is reset without a word of them.
#[test]
fn a_reset_says_what_is_tried_again_besides() {
    let sandbox = Sandbox::new();
    let retry = "retry = { max-attempts = 1000000, initial = \"1h\", jitter = \"none\" }";
    sandbox.wire_suspect("testing-traps", 1, retry);
    let server = Server::start(&sandbox, &[]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let lines = "{\"key\":\"k\",\"value\":\"poison 0\"}\n{\"key\":\"k\",\"value\":\"fine 1\"}\n{\"key\":\"l\",\"value\":\"fine 2\"}\n";
    server
        .post_lines("/v1/topics/in/records", lines)
        .expect(200);
    wait_until("two parked records", || {
        let totals = &pipeline(&sandbox, "suspect")["running"]["totals"];
        totals["parked_records"] == 2
    });
    sandbox.succeed(&["pipeline", "pause", "suspect"]);
    let reset = ["group", "reset", "suspect", "--topic", "in", "--to"];
    let expected = json!([{ "pipeline": "suspect", "records": 2 }]);
    let told = sandbox.json(&[&reset[..], &["earliest", "--dry-run"]].concat());
    assert_eq!(told["parked"], expected);
    sandbox
        .run(&[&reset[..], &["latest"]].concat())
        .expect_code(0)
        .expect_error(&["pipeline `suspect` has parked 2 record(s), which are tried again"]);
    server.stop();
    // The same without a server; a group that is no pipeline's has nothing parked.
    let told = sandbox.json(&[&reset[..], &["earliest"]].concat());
    assert_eq!(told["parked"], expected);
    let own = ["group", "reset", "own", "--topic", "in", "--to", "earliest"];
    assert_eq!(sandbox.json(&own)["parked"], json!([]));
}
