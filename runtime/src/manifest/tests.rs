//! Tests of the module as a whole: golden cases, the reference, and properties.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::{Compression, GroupBy, MaxLengthPolicy, QueueName, Target};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/manifests");
const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/manifest-reference.md");
/// Set to `1` to write what the cases give now as what they are expected to give.
const UPDATE: &str = "UPDATE_GOLDEN";

/// The longest retention, in ms.
const MAX_RETENTION_MS: u64 = 100 * 366 * 24 * 60 * 60 * 1000;

/// Writes a file and the folders above it.
fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A copy of a golden case in a folder of its own, with `plugin.wasm` and the files that the case's
/// `files.txt` names (one path a line, created empty): built components are not kept in git.
fn copy_case(case: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(case, folder.path());
    write(&folder.path().join("plugin.wasm"), b"");
    let files = fs::read_to_string(case.join("files.txt")).unwrap_or_default();
    for file in files.lines() {
        write(&folder.path().join(file), b"");
    }
    folder
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            write(&target, &fs::read(entry.path()).unwrap());
        }
    }
}

/// What a case gives: the resolved form, then what is said if its external topics don't exist.
fn outcome(manifest: &Path) -> (bool, String) {
    match load(manifest) {
        Ok(resolved) => {
            let mut text = resolved.to_string();
            if let Err(error) = resolved.check_external_targets(|_| false) {
                text.push_str(&format!("\n--- without a data directory ---\n{error}\n"));
            }
            (true, text)
        }
        Err(error) => {
            assert!(!error.problems().is_empty(), "{error}");
            for problem in error.problems() {
                assert!(problem.help().is_some(), "without help: {problem}");
            }
            (false, format!("{error}\n"))
        }
    }
}

#[test]
fn golden_cases() {
    let update = std::env::var(UPDATE).is_ok_and(|value| value == "1");
    let mut cases: Vec<PathBuf> = fs::read_dir(GOLDEN)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    let (mut good_count, mut bad_count, mut wrong) = (0, 0, Vec::new());
    for case in &cases {
        let name = case.file_name().unwrap().to_string_lossy();
        let folder = copy_case(case);
        // Some help has whole paths.
        let path = folder.path().canonicalize().unwrap();
        let prefix = format!("{}/", path.display());
        let (good, text) = outcome(&path.join(FILE_NAME));
        let text = text.replace(&prefix, "");
        assert_eq!(good, name.starts_with("ok-"), "{name}:\n{text}");
        if good {
            good_count += 1;
        } else {
            bad_count += 1;
        }
        let expected = case.join("expected.txt");
        if update {
            fs::write(&expected, &text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("== {name}\n{text}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "cases that give something else than their expected.txt ({UPDATE}=1 rewrites it):\n{}",
        wrong.join("\n")
    );
    assert!(
        good_count >= 5 && bad_count >= 20,
        "{good_count} {bad_count}"
    );
}

/// What is shown as the resolved form is a manifest that means the same.
#[test]
fn the_resolved_form_of_every_golden_case_reads_as_the_same() {
    for entry in fs::read_dir(GOLDEN).unwrap() {
        let case = entry.unwrap().path();
        let folder = if case.is_dir() {
            copy_case(&case)
        } else {
            continue;
        };
        let path = folder.path().join(FILE_NAME);
        if let Ok(resolved) = load(&path) {
            let again = resolve(&path, &resolved.to_string()).unwrap();
            assert_eq!(without_places(again), without_places(resolved));
        }
    }
}

#[test]
fn a_file_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let error = load(&path).unwrap_err().to_string();
    assert!(error.contains("cannot read the manifest"), "{error}");

    write(&path, b"name = \"a\"\n");
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("help: did you mean"), "{error}");

    write(&path, b"name = \"a\"\n# \xff\n");
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.contains(":2:3: error: the manifest must be UTF-8"),
        "{error}"
    );

    write(&path, &vec![b'#'; MAX_MANIFEST_BYTES as usize + 1]);
    assert!(matches!(load(&path), Err(Error::TooLarge { .. })));
}

#[test]
fn external_targets_that_exist_are_fine() {
    let text = "name = \"a\"\n[plugins.p]\npath = \"p.wasm\"\n\
                [pipelines.a]\nfrom = \"topic:there\"\nplugin = \"p\"\n";
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("p.wasm"), b"");
    let resolved = resolve(&folder.path().join(FILE_NAME), text).unwrap();
    assert_eq!(resolved.external_targets.len(), 1);
    resolved
        .check_external_targets(|target| target.name() == "there")
        .unwrap();
    assert!(resolved.check_external_targets(|_| false).is_err());
}

/// The part of the reference below a heading, up to the next one.
fn section<'a>(reference: &'a str, heading: &str) -> &'a str {
    let start = reference
        .find(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("the reference has no section `## {heading}`"));
    let body = &reference[start + 4..];
    body.find("\n## ").map_or(body, |end| &body[..end])
}

#[test]
fn the_reference_describes_every_key() {
    let reference = fs::read_to_string(REFERENCE).unwrap();
    for (heading, table) in schema::TABLES {
        let section = section(&reference, heading);
        let described: BTreeSet<_> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(key, _)| key)
            .collect();
        assert_eq!(
            described,
            table.keys.iter().copied().collect(),
            "keys in section {heading}"
        );
    }
}

#[test]
fn every_example_of_the_reference_is_right() {
    let reference = fs::read_to_string(REFERENCE).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("plugins/carrier-delays");
    write(&folder.path().join("plugins/delays.wasm"), b"");
    write(
        &project.join("Cargo.toml"),
        b"[package]\nname = \"carrier-delays\"\n",
    );
    write(
        &project.join("target/wasm32-wasip2/release/carrier_delays.wasm"),
        b"",
    );
    let examples: Vec<_> = reference
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(examples.len() >= 5);
    for example in examples {
        let example = if example.starts_with("name") {
            example.to_owned()
        } else {
            format!("name = \"example\"\n{example}")
        };
        if let Err(error) = resolve(&folder.path().join(FILE_NAME), &example) {
            panic!("{error}\n\n{example}");
        }
    }
}

/// The defaults the reference states are the ones that are filled in.
#[test]
fn the_reference_states_the_defaults() {
    let reference = fs::read_to_string(REFERENCE).unwrap();
    let text = "name = \"a\"\n[topics.a]\n[topics.b]\ncleanup = \"compact\"\n\
                [queues.q]\n\
                [plugins.p]\npath = \"p.wasm\"\n\
                [pipelines.p]\nfrom = \"topic:a\"\nplugin = \"p\"\n";
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("p.wasm"), b"");
    let resolved = resolve(&folder.path().join(FILE_NAME), text).unwrap();
    let resolved: toml::Table = resolved.to_string().parse().unwrap();
    let topics = resolved["topics"].as_table().unwrap();
    let pipeline = &resolved["pipelines"]["p"];
    let checked = [
        ("`[topics.NAME]`", &topics["a"]),
        ("`[topics.NAME]`", &topics["b"]),
        ("`[queues.NAME]`", &resolved["queues"]["q"]),
        ("`batch`", &pipeline["batch"]),
        ("`limits`", &pipeline["limits"]),
        ("`allow`", &pipeline["allow"]),
    ];
    for (heading, table) in checked {
        for (key, default) in table.as_table().unwrap() {
            if key == "cleanup" && default.as_str() == Some("compact") {
                continue;
            }
            let row = section(&reference, heading)
                .lines()
                .find(|line| line.starts_with(&format!("| `{key}` |")))
                .unwrap();
            let cell = row.split(" | ").nth(2).unwrap();
            assert_eq!(cell, format!("`{default}`"), "default of {key}");
        }
    }
}

/// A resolved manifest without what depends on how its text is laid out.
fn without_places(mut manifest: ResolvedManifest) -> ResolvedManifest {
    let places = manifest
        .topics
        .iter_mut()
        .map(|topic| &mut topic.place)
        .chain(manifest.external_targets.iter_mut().map(|t| &mut t.place))
        .chain(manifest.queues.iter_mut().map(|queue| &mut queue.place))
        .chain(manifest.plugins.iter_mut().map(|plugin| &mut plugin.place))
        .chain(manifest.pipelines.iter_mut().map(|p| &mut p.place));
    places.for_each(|place| *place = Place::default());
    // The resolved form writes everything.
    for topic in &mut manifest.topics {
        topic.written_keys.clear();
    }
    manifest
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9._-]{1,30}".prop_filter("a name", |name| name != "." && name != "..")
}

fn any_topic() -> impl Strategy<Value = TopicSpec> {
    let compressions = prop::option::of(prop::sample::select(vec![
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ]));
    (
        (any_name(), 1u32..=4096, any::<bool>(), compressions),
        prop::option::of(1u64..=MAX_RETENTION_MS),
        prop::option::of(1u64..i64::MAX as u64),
        (0u64..=MAX_RETENTION_MS, 0.0f64..=1.0, 1024usize..=16 << 20),
    )
        .prop_map(
            |((name, partitions, compact, compression), ms, bytes, other)| {
                let (tombstone_delay_ms, min_cleanable_dirty_ratio, max_batch_bytes) = other;
                TopicSpec {
                    name: name.parse().unwrap(),
                    partitions,
                    retention_ms: ms.filter(|_| !compact),
                    retention_bytes: bytes.filter(|_| !compact),
                    cleanup: if compact {
                        Cleanup::Compact
                    } else {
                        Cleanup::Delete
                    },
                    compression,
                    tombstone_delay_ms: if compact {
                        tombstone_delay_ms
                    } else {
                        86_400_000
                    },
                    min_cleanable_dirty_ratio: if compact {
                        min_cleanable_dirty_ratio
                    } else {
                        0.5
                    },
                    max_batch_bytes,
                    written_keys: Vec::new(),
                    place: Place::default(),
                }
            },
        )
}

fn any_start() -> impl Strategy<Value = Start> {
    prop_oneof![
        Just(Start::Earliest),
        Just(Start::Latest),
        (0u64..200_000_000_000_000).prop_map(|timestamp_ms| Start::Time { timestamp_ms }),
    ]
}

fn any_pipeline() -> impl Strategy<Value = PipelineSpec> {
    let deliveries = prop::sample::select(vec![
        Delivery::ExactlyOnce,
        Delivery::AtLeastOnce,
        Delivery::AtMostOnce,
    ]);
    let batch = (1u32..=65_536, 1024usize..=64 << 20, 0u64..=60_000_000_000);
    let limits = (
        1usize << 20..=4 << 30,
        10u64..=3_600_000,
        1024usize..=64 << 20,
    );
    let config = prop::collection::btree_map(".{1,12}", "(?s).{0,20}", 0..4);
    let hosts = prop::collection::btree_set(
        "(\\*\\.)?[a-z]{1,9}(\\.[a-z]{1,3})?(:[1-9][0-9]{0,3})?",
        0..3,
    );
    (
        (any_name(), any_name(), any_start(), deliveries),
        // Inputs and outputs have different first letters, so that there is no loop.
        prop::collection::btree_set("(topic|queue):i[a-z.]{1,10}", 0..4),
        prop::collection::btree_map(any_name(), "(topic|queue):o[a-z.]{1,10}", 1..4),
        (batch, limits, config, any::<(bool, bool)>(), hosts),
    )
        .prop_map(|((name, group, start, delivery), inputs, ports, more)| {
            let (batch, limits, config, (clocks, random), hosts) = more;
            let producer = inputs.is_empty();
            let no_topics = !inputs.iter().any(|input| input.starts_with("topic:"));
            PipelineSpec {
                name: name.parse().unwrap(),
                group: if no_topics { &name } else { &group }.parse().unwrap(),
                inputs: inputs
                    .iter()
                    .map(|target| target.parse().unwrap())
                    .collect(),
                start: if no_topics { Start::Earliest } else { start },
                plugin: "p".parse().unwrap(),
                ports: ports
                    .iter()
                    // Not in the order of their names.
                    .rev()
                    .map(|(name, target)| Port {
                        name: name.parse().unwrap(),
                        target: target.parse().unwrap(),
                    })
                    .collect(),
                delivery: if producer {
                    Delivery::ExactlyOnce
                } else {
                    delivery
                },
                concurrency: match producer
                    || retry_order(batch.0, producer) == RetryOrder::Partition
                {
                    true => 1,
                    false => batch.0 % 256 + 1,
                },
                batch: BatchSpec {
                    max_records: batch.0,
                    max_bytes: if producer { 1 << 20 } else { batch.1 },
                    max_wait: Duration::from_nanos(batch.2),
                },
                // A producer has none of both; what is read for it are the defaults.
                retry: match producer {
                    true => retry(0),
                    false => retry(batch.0),
                },
                dead_letter: match producer || batch.0 % 2 == 0 {
                    true => DeadLetter::Queue(format!("{name}.dead-letters").parse().unwrap()),
                    false => DeadLetter::Stop,
                },
                limits: LimitsSpec {
                    memory_bytes: limits.0,
                    deadline: Duration::from_millis(limits.1),
                    output_bytes: limits.2,
                },
                config: config.into_iter().collect(),
                allow: Allow {
                    clocks,
                    random,
                    http: hosts.iter().map(|host| host.parse().unwrap()).collect(),
                },
                place: Place::default(),
            }
        })
}

/// The items whose key no earlier item has.
fn unique<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items
        .into_iter()
        .filter(|item| seen.insert(key(item)))
        .collect()
}

/// A year, the longest time of a queue.
const MAX_QUEUE_MS: u64 = 365 * 24 * 60 * 60 * 1000;

fn any_queue() -> impl Strategy<Value = QueueSpec> {
    (
        (any_name(), prop::option::of((any_name(), 1u32..))),
        (
            1..=12 * 60 * 60 * 1000u64,
            0..=MAX_QUEUE_MS,
            0..=MAX_QUEUE_MS,
        ),
        prop::option::of(1..=MAX_QUEUE_MS),
        prop::option::of((1..i64::MAX as u64, any::<bool>())),
        (any::<bool>(), 0u8..=9),
    )
        .prop_map(
            |((name, dead_letter), times, time_to_live_ms, length, (by_key, priority))| {
                let dead_letter = dead_letter.filter(|(target, _)| *target != name);
                let drops = length.is_some_and(|(_, drops)| drops);
                QueueSpec {
                    name: name.parse().unwrap(),
                    visibility_timeout_ms: times.0,
                    max_deliveries: dead_letter.as_ref().map(|(_, max)| *max),
                    dead_letter: dead_letter.map(|(target, _)| target.parse().unwrap()),
                    delay_ms: times.1,
                    deduplication_window_ms: times.2,
                    time_to_live_ms,
                    max_length: length.map(|(max, _)| max),
                    max_length_policy: if drops {
                        MaxLengthPolicy::DropOldest
                    } else {
                        MaxLengthPolicy::Reject
                    },
                    groups: if by_key {
                        GroupBy::Key
                    } else {
                        GroupBy::Header
                    },
                    default_priority: priority,
                    place: Place::default(),
                }
            },
        )
}

/// Dead letters go to queues that are declared later, or nowhere else.
fn without_circles(queues: Vec<QueueSpec>) -> Vec<QueueSpec> {
    let names: Vec<_> = queues.iter().map(|queue| queue.name.clone()).collect();
    let mut queues = queues;
    for (at, queue) in queues.iter_mut().enumerate() {
        let goes_back = |target: &QueueName| names.iter().take(at).any(|name| name == target);
        if queue.dead_letter.as_ref().is_some_and(goes_back) {
            queue.dead_letter = None;
            queue.max_deliveries = None;
        }
    }
    queues
}

/// Pieces of manifests, right and wrong, to be thrown together.
fn any_soup() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        prop::sample::select(vec![
            "name = \"a\"\n",
            "[topics.a]\n",
            "[topics]\n",
            "[[topics]]\n",
            "[topics.a.b]\n",
            "[queues.q]\n",
            "dead-letter = \"q\"\n",
            "max-length = -5\n",
            "[plugins.p]\n",
            "path = \"p.wasm\"\n",
            "path = \"/\"\n",
            "[pipelines.p]\n",
            "[pipelines.\"\"]\n",
            "from = \"topic:a\"\n",
            "from = [\"topic:b\", 1, []]\n",
            "to = {}\n",
            "to = { a = \"topic:c\", \"\" = \":\" }\n",
            "to.x.y = 1\n",
            "plugin = \"p\"\n",
            "config = { a = [1, nan, { b = 1979-05-27 }] }\n",
            "config = 99999999999999999999\n",
            "batch = { max-wait = \"1y\" }\n",
            "batch.max-records = 0x10\n",
            "limits = { memory = -1 }\n",
            "allow = []\n",
            "allow = { http = [\"a\", 1, \":\"] }\n",
            "start = 1979-05-27T00:00:00Z\n",
            "start = 12:00:00\n",
            "retention = -1\n",
            "partitions = 1_000\n",
            "cleanup = \"compact\"\n",
            "\"",
            "'''",
            "[",
            "]",
            "{",
            "}",
            "=",
            ",",
            ".",
            "\n",
            "\r\n",
            "\t",
            "é",
            "\u{1b}",
            "#",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,6}",
    ];
    prop::collection::vec(pieces, 0..20).prop_map(|pieces| pieces.concat())
}

/// Loads a text, and renders what is wrong with it.
fn try_text(text: &str) {
    if let Err(error) = resolve(Path::new("/nonexistent/millstream.toml"), text) {
        assert!(!error.problems().is_empty());
        for problem in error.problems() {
            let place = problem.place();
            assert!(place.line >= 1 && place.column >= 1);
            assert!(!problem.message().is_empty());
        }
        let _ = error.to_string();
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "(?s).{0,200}") {
        try_text(&text);
    }

    #[test]
    fn arbitrary_pieces_never_panic(text in any_soup()) {
        try_text(&text);
    }

    #[test]
    fn a_damaged_manifest_never_panics(at: prop::sample::Index, cut in 0usize..20, insert in ".{0,4}") {
        let path = Path::new(GOLDEN).join("ok-full/millstream.toml");
        let text = fs::read_to_string(path).unwrap();
        let mut chars: Vec<char> = text.chars().collect();
        let at = at.index(chars.len());
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, insert.chars());
        try_text(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn what_is_written_reads_as_the_same(
        name in any_name(),
        topics in prop::collection::vec(any_topic(), 0..4),
        queues in prop::collection::vec(any_queue(), 0..4),
        pipelines in prop::collection::vec(any_pipeline(), 0..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let wasm = folder.path().join("a \"b\".wasm");
        write(&wasm, b"");
        let pipelines = unique(pipelines, |pipeline| pipeline.name.clone());
        let queues = without_circles(unique(queues, |queue| queue.name.clone()));
        let manifest = ResolvedManifest {
            name,
            path: path.clone(),
            topics: unique(topics, |topic| topic.name.clone()),
            external_targets: Vec::new(),
            queues,
            plugins: vec![PluginSpec {
                name: "p".parse().unwrap(),
                path: wasm,
                place: Place::default(),
            }],
            pipelines: unique(pipelines, |pipeline| pipeline.group.clone()),
        };
        let text = manifest.to_string();
        let read = match resolve(&path, &text) {
            Ok(read) => read,
            Err(error) => return Err(TestCaseError::fail(format!("{error}\n\n{text}"))),
        };
        let topics = read.topics.iter().map(|topic| Target::Topic(topic.name.clone()));
        let queues = read.queues.iter().map(|queue| Target::Queue(queue.name.clone()));
        let declared: BTreeSet<Target> = topics.chain(queues).collect();
        for external in &read.external_targets {
            prop_assert!(!declared.contains(&external.target));
        }
        let read = ResolvedManifest { external_targets: Vec::new(), ..without_places(read) };
        prop_assert_eq!(read, manifest);
    }
}

/// The order of the retries that a pipeline of the test gets.
fn retry_order(seed: u32, is_producer: bool) -> RetryOrder {
    retry(if is_producer { 0 } else { seed }).order
}

/// Some settings of retries; 0 for the defaults.
fn retry(seed: u32) -> RetrySpec {
    let (jitters, orders) = (
        [Jitter::Full, Jitter::Equal, Jitter::None],
        [RetryOrder::Key, RetryOrder::Partition, RetryOrder::None],
    );
    RetrySpec {
        max_attempts: 5 + seed,
        initial: Duration::from_millis(1000 + u64::from(seed)),
        multiplier: 2.0 + f64::from(seed % 7) / 4.0,
        max: Duration::from_secs(60 + u64::from(seed)),
        jitter: jitters[seed as usize % 3],
        order: orders[seed as usize / 3 % 3],
    }
}
