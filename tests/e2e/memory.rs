//! Memory does not grow with the backlog.

use crate::support::{Sandbox, note};

/// The issue's bound on a run over 10 million records; a run over these has to keep it as well.
const LIMIT_BYTES: u64 = 512 << 20;
const RECORDS: usize = 2_000_000;

const MANIFEST: &str = r#"
name = "backlog"

[topics.in]
partitions = 4

[topics.out]
partitions = 4

[plugins.passthrough]
path = "{passthrough}"

[pipelines.pass]
from = "topic:in"
plugin = "passthrough"
to = "topic:out"
limits = { deadline = "30s" }
"#;

#[test]
fn a_large_backlog_takes_little_memory() {
    let sandbox = Sandbox::new();
    sandbox.manifest(MANIFEST);
    let line = format!("{}\n", "x".repeat(100));
    let file = sandbox.write("records.txt", line.repeat(RECORDS));
    let produce = [
        "produce",
        "topic:in",
        "--format",
        "lines",
        "--manifest",
        "millstream.toml",
    ];
    let produce = [&produce[..], &["--file", file.to_str().unwrap()]].concat();
    let (finished, produce_bytes) = sandbox.start(&produce).wait_for_peak_memory();
    finished.expect_code(0);

    let run = ["run", "millstream.toml", "--until-idle", "--output", "json"];
    let (finished, run_bytes) = sandbox.start(&run).wait_for_peak_memory();
    let finished = finished.expect_code(0);
    let summary: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(summary["records_in"], RECORDS);
    assert_eq!(summary["records_out"], RECORDS);
    note(format_args!(
        "peak memory: produce {} MiB, run {} MiB, {} records/s",
        produce_bytes >> 20,
        run_bytes >> 20,
        summary["records_per_second"]
    ));
    for bytes in [produce_bytes, run_bytes] {
        assert!((1..LIMIT_BYTES).contains(&bytes), "{} MiB", bytes >> 20);
    }
}
