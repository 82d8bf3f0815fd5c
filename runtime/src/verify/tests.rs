use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Problem, ProblemKind, Report, data_directory};
use crate::group::Groups;
use crate::log::{Cleanup, Log, TopicConfig};
use crate::model::{Compression, Record, RecordBatch};
use crate::queue::{LeaseRequest, QueueConfig, Queues};
use crate::storage::schema::group_offset::{self, CommittedOffset};
use crate::storage::schema::parked::{self, ParkedRecord};
use crate::storage::schema::parked_group::{self, ParkedGroup};
use crate::storage::schema::partition_head::{self, PartitionHead};
use crate::storage::schema::{
    KeyKind, batch as batch_key, changelog, deduplication, deploy, group_gaps, manifest, pipeline,
    plugin, queue_chunk, state, timer, token,
};
use crate::storage::tests::support::{START_MS, TestStore, block_on, encode, record};
use crate::storage::{Commit, Partition, Store, layout};

const PIPELINE: u32 = 0;
/// Batches of each partition of the topic; three records each.
const BATCHES: u64 = 4;

/// A data directory with something of every kind in it.
struct Fixture {
    directory: TestStore,
    topic: u32,
    queue: u32,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Cleanup::Delete)
    }

    fn with(cleanup: Cleanup) -> Self {
        Self::within(TestStore::new(), cleanup)
    }

    fn within(directory: TestStore, cleanup: Cleanup) -> Self {
        let store = directory.store().clone();
        let (topic, queue) = block_on(async {
            let log = Log::open(store.clone()).unwrap();
            let config = TopicConfig {
                partitions: 2,
                cleanup,
                ..TopicConfig::default()
            };
            let name = "flights".parse().unwrap();
            let topic = log.create_topic(&name, config).await.unwrap();
            for partition in topic.partitions() {
                for number in 0..BATCHES {
                    store.commit(batch(partition, number)).await.unwrap();
                }
            }
            let groups = Groups::new(store.clone());
            let positions = topic.partitions().iter().map(|partition| (&**partition, 5));
            let group = "readers".parse().unwrap();
            groups.commit(&group, positions).await.unwrap();
            (topic.id(), work_queue(&store).await)
        });
        let mut commit = Commit::new();
        add_pipeline(&mut commit);
        add_deployed(&mut commit);
        fs::create_dir_all(directory.path().join(layout::PLUGINS)).unwrap();
        fs::write(component_file(&directory), COMPONENT).unwrap();
        directory.commit(commit);
        Self {
            directory,
            topic,
            queue,
        }
    }

    fn partition(&self, index: u32) -> Arc<Partition> {
        self.directory.partition(self.topic, index)
    }

    fn put(&self, kind: KeyKind, key: impl AsRef<[u8]>, value: impl Into<Bytes>) {
        let mut commit = Commit::new();
        commit.put(kind, key, value.into());
        self.directory.commit(commit);
    }

    fn batch_bytes(&self, index: u32, base_offset: u64) -> Vec<u8> {
        let key = batch_key::key(self.topic, index, base_offset);
        let value = self.directory.store().get(KeyKind::Batch, &key).unwrap();
        value.unwrap().to_vec()
    }

    fn report(&mut self) -> Report {
        self.directory.close();
        data_directory(self.directory.path()).unwrap()
    }

    /// The problem that there is, and no other.
    #[track_caller]
    fn problem(mut self) -> Problem {
        let mut problems = self.report().problems.problems;
        assert_eq!(problems.len(), 1, "{problems:#?}");
        problems.remove(0)
    }
}

fn batch(partition: &Arc<Partition>, number: u64) -> Commit {
    // Every other one is large enough for a blob file.
    let value = "x".repeat(if number.is_multiple_of(2) { 9_000 } else { 10 });
    let compression = match number % 4 {
        1 => Compression::Zstd,
        _ => Compression::None,
    };
    let records: Vec<Record> = ["a", "b", "c"]
        .map(|key| record(key, Some(&value), START_MS))
        .into();
    let mut commit = Commit::new();
    commit.append(Arc::clone(partition), encode(compression, &records));
    commit
}

async fn work_queue(store: &Store) -> u32 {
    let queues = Queues::open(store.clone()).unwrap();
    let name = "work".parse().unwrap();
    let queue = queues
        .create_queue(&name, QueueConfig::default())
        .await
        .unwrap();
    let messages: Vec<Record> = (0..5)
        .map(|number| record(&number.to_string(), None, START_MS))
        .collect();
    queue.enqueue(&messages).await.unwrap();
    let request = LeaseRequest {
        max_messages: 3,
        ..LeaseRequest::default()
    };
    let leased = queue.lease(&request).await.unwrap();
    queue.acknowledge(&[leased[1].receipt()]).await.unwrap();
    let mut commit = Commit::new();
    commit.put_deduplication(queue.id(), START_MS, 0, &[7]);
    store.commit(commit).await.unwrap();
    queue.id()
}

fn add_pipeline(commit: &mut Commit) {
    let entry = format!(r#"{{"id":{PIPELINE},"group":"readers"}}"#);
    commit.put(KeyKind::Pipeline, pipeline::key("count"), entry.into());
    let key = state::key(PIPELINE, 1, b"AA");
    commit.put(KeyKind::State, key, Bytes::from_static(b"12"));
    let changes = changelog::value(&[(Bytes::from_static(b"AA"), None)]);
    commit.put(
        KeyKind::Changelog,
        changelog::key(PIPELINE, 1, 3),
        changes.into(),
    );
    let key = timer::key(PIPELINE, 1, START_MS, b"AA");
    commit.put(KeyKind::Timer, key, timer::value(b"payload"));
    let parked = ParkedRecord {
        input: 0,
        attempt_count: 1,
        has_faulted: false,
        due_ms: START_MS,
        first_failed_ms: START_MS,
        last_failed_ms: START_MS,
        reason: "no".to_owned(),
        record: encode(Compression::None, &[record("k", None, START_MS)]).assign(4),
    };
    commit.put(
        KeyKind::Parked,
        parked::key(PIPELINE, 1, 0, 0),
        parked::value(&parked),
    );
    let group = parked_group::value(&ParkedGroup::default());
    let key = parked_group::key(PIPELINE, 1, 0);
    commit.put(KeyKind::ParkedGroup, key, group.to_vec().into());
}

/// What lies as the component of the plugin.
const COMPONENT: &[u8] = b"component";
/// Its SHA-256.
const DIGEST: &str = "6985ca1f4daa5a584a28eae043a239cb96689af1337ea13afb63e00c2bf512fa";

fn component_file(directory: &TestStore) -> PathBuf {
    let folder = directory.path().join(layout::PLUGINS);
    folder.join(format!("{DIGEST}.wasm"))
}

fn add_deployed(commit: &mut Commit) {
    let plugin_entry = format!(r#"{{"current":"{DIGEST}","versions":[{{"digest":"{DIGEST}"}}]}}"#);
    commit.put(KeyKind::Plugin, plugin::key("count"), plugin_entry.into());
    let empty = || Bytes::from_static(b"{}");
    commit.put(KeyKind::Manifest, manifest::key("flights"), empty());
    commit.put(KeyKind::Deploy, deploy::key(1), empty());
    commit.put(KeyKind::Token, token::key("ann"), empty());
}

#[test]
fn components_that_are_missing_or_changed_are_named() {
    let fixture = Fixture::new();
    fs::write(component_file(&fixture.directory), b"changed").unwrap();
    let problem = fixture.problem();
    assert_eq!(problem.kind, ProblemKind::Component, "{problem:?}");
    let fixture = Fixture::new();
    fs::remove_file(component_file(&fixture.directory)).unwrap();
    assert_eq!(fixture.problem().kind, ProblemKind::Component);
}

#[test]
fn nothing_is_wrong_with_what_is_whole() {
    let mut fixture = Fixture::new();
    let report = fixture.report();
    assert_eq!(report.problems.problems, []);
    let counts = report.counts;
    assert_eq!((counts.topics, counts.queues, counts.pipelines), (1, 1, 1));
    assert_eq!((counts.partitions, counts.batches), (3, 2 * BATCHES + 1));
    assert_eq!(counts.records, 2 * BATCHES * 3 + 5);
    assert_eq!((counts.group_offsets, counts.queue_chunks), (2, 1));
    assert_eq!((counts.state_entries, counts.changelog_entries), (1, 1));
    assert_eq!((counts.parked_records, counts.timers), (1, 1));
    assert_eq!(counts.deduplication_entries, 1);
    assert_eq!((counts.plugins, counts.components), (1, 1));
    assert_eq!((counts.manifests, counts.deploys, counts.tokens), (1, 1, 1));
}

#[test]
fn a_batch_with_a_flipped_byte_is_named() {
    let fixture = Fixture::new();
    let mut bytes = fixture.batch_bytes(1, 3);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fixture.put(KeyKind::Batch, batch_key::key(fixture.topic, 1, 3), bytes);
    let problem = fixture.problem();
    assert_eq!(problem.kind, ProblemKind::Batch);
    assert_eq!(problem.place(), "topic flights, partition 1, offset 3");
    assert!(problem.reason.contains("CRC"), "{problem:?}");
    assert!(problem.key.unwrap().ends_with("0000000000000003"));
}

#[test]
fn records_that_cannot_be_read_are_named() {
    let fixture = Fixture::new();
    let intact = RecordBatch::from_stored(fixture.batch_bytes(0, 0).into()).unwrap();
    let mut bytes = intact.as_bytes().to_vec();
    // The length of the first record; and a CRC that fits.
    bytes[61] ^= 0x02;
    let crc = crc32c::crc32c(&bytes[21..]).to_be_bytes();
    bytes[17..21].copy_from_slice(&crc);
    fixture.put(KeyKind::Batch, batch_key::key(fixture.topic, 0, 0), bytes);
    let problem = fixture.problem();
    assert_eq!(problem.kind, ProblemKind::Batch);
    assert!(problem.reason.contains("record 0"), "{problem:?}");
}

#[test]
fn a_batch_under_the_key_of_another_is_named() {
    let fixture = Fixture::new();
    let other = fixture.batch_bytes(0, 0);
    fixture.put(KeyKind::Batch, batch_key::key(fixture.topic, 0, 6), other);
    let problem = fixture.problem();
    assert_eq!(problem.kind, ProblemKind::Batch);
    assert!(
        problem.reason.contains("offset 0, its key says 6"),
        "{problem:?}"
    );
}

#[test]
fn offsets_that_are_missing_are_named() {
    for (removed, from) in [(0, 0), (6, 6), (9, 9)] {
        let fixture = Fixture::new();
        let mut commit = Commit::new();
        commit.remove_batch(&fixture.partition(1), removed);
        fixture.directory.commit(commit);
        let problem = fixture.problem();
        assert_eq!(problem.kind, ProblemKind::Offsets, "{problem:?}");
        assert_eq!(
            (problem.partition, problem.topic.as_deref()),
            (Some(1), Some("flights"))
        );
        let text = format!("from offset {from} up to");
        assert!(problem.reason.contains(&text), "{problem:?}");
    }
}

#[test]
fn the_gaps_of_a_compacted_topic_are_none() {
    let mut fixture = Fixture::with(Cleanup::Compact);
    let partition = fixture.partition(1);
    let freed = fixture.batch_bytes(1, 3).len() as i64;
    let mut commit = Commit::new();
    commit.remove_batch(&partition, 3);
    commit.resize_partition(&partition, -freed);
    fixture.directory.commit(commit);
    drop(partition);
    assert_eq!(fixture.report().problems.problems, []);
}

#[test]
fn a_hole_in_a_queue_is_none_if_its_messages_are_done_with() {
    for acknowledged in [2, 1] {
        let mut fixture = Fixture::new();
        let store = fixture.directory.store().clone();
        block_on(async {
            let queues = Queues::open(store.clone()).unwrap();
            let queue = queues.queue(&"work".parse().unwrap()).unwrap();
            // The batches 5..7 and 7..8, behind 0..5.
            for count in [2, 1] {
                queue
                    .enqueue(&vec![record("k", None, START_MS); count])
                    .await
                    .unwrap();
            }
            let key = batch_key::key(queue.id(), 0, 5);
            let freed_bytes = store.get(KeyKind::Batch, &key).unwrap().unwrap().len();
            let mut chunk = queue_chunk::Chunk::default();
            chunk.acknowledged.insert_range(5, 5 + acknowledged);
            let mut commit = Commit::new();
            commit.merge_queue_chunk(queue.id(), 0, &chunk);
            commit.hollow_partition(queue.partition(), (5, 7), freed_bytes as u64);
            store.commit(commit).await.unwrap();
        });
        drop(store);
        if acknowledged == 2 {
            assert_eq!(fixture.report().problems.problems, []);
            continue;
        }
        let problem = fixture.problem();
        assert_eq!(problem.kind, ProblemKind::Offsets, "{problem:?}");
        for part in ["from offset 5 up to 7", "message at 6"] {
            assert!(problem.reason.contains(part), "{problem:?}");
        }
    }
}

#[test]
fn a_head_that_does_not_fit_its_batches_is_named() {
    let whole = |fixture: &Fixture| {
        let key = partition_head::key(fixture.topic, 0);
        let value = fixture.directory.store().get(KeyKind::PartitionHead, &key);
        partition_head::parse_value(&value.unwrap().unwrap()).unwrap()
    };
    type Change = fn(&mut PartitionHead);
    let changes: [(Change, ProblemKind, &str); 5] = [
        (
            |head| head.next_offset = 11,
            ProblemKind::Head,
            "beyond the partition's end at 11",
        ),
        (
            |head| head.next_offset = 20,
            ProblemKind::Offsets,
            "from offset 12 up to the end at 20",
        ),
        (
            |head| head.start_offset = 3,
            ProblemKind::Offsets,
            "before the partition's start at 3",
        ),
        (
            |head| head.size_bytes += 1,
            ProblemKind::Head,
            "the partition's head says",
        ),
        (
            |head| head.start_offset = 30,
            ProblemKind::Head,
            "starts at 30, after its end",
        ),
    ];
    for (change, kind, text) in changes {
        let fixture = Fixture::new();
        let mut head = whole(&fixture);
        change(&mut head);
        let key = partition_head::key(fixture.topic, 0);
        let value = partition_head::value(&head).to_vec();
        fixture.put(KeyKind::PartitionHead, key, value);
        let problem = fixture.problem();
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(problem.reason.contains(text), "{problem:?}");
    }
}

#[test]
fn what_belongs_to_nothing_is_named() {
    let batch = |fixture: &Fixture| fixture.batch_bytes(0, 0);
    let mut found = Vec::new();
    let mut add = |kind: KeyKind, key: Vec<u8>, value: Vec<u8>| {
        let fixture = Fixture::new();
        let value = match kind {
            KeyKind::Batch => batch(&fixture),
            _ => value,
        };
        fixture.put(kind, key, value);
        let problem = fixture.problem();
        assert_eq!(problem.kind, ProblemKind::Orphan, "{problem:?}");
        found.push(problem.place());
    };
    let head = partition_head::value(&PartitionHead::default()).to_vec();
    add(KeyKind::Batch, batch_key::key(77, 0, 0).into(), vec![]);
    add(
        KeyKind::PartitionHead,
        partition_head::key(77, 0).into(),
        head,
    );
    add(KeyKind::State, state::key(9, 0, b"k"), vec![]);
    add(
        KeyKind::Timer,
        timer::key(9, 2, 0, b"k"),
        timer::value(b"").to_vec(),
    );
    add(
        KeyKind::Deduplication,
        deduplication::key(77, 0, 0).into(),
        vec![],
    );
    assert_eq!(
        found,
        [
            "topic with the id 77, partition 0, offset 0",
            "topic with the id 77, partition 0",
            "pipeline with the id 9, partition 0",
            "pipeline with the id 9, partition 2",
            "topic with the id 77",
        ]
    );
}

#[test]
fn groups_that_are_beyond_the_end_are_named() {
    for (offset, is_wrong) in [(12, false), (13, true)] {
        let mut fixture = Fixture::new();
        let committed = CommittedOffset {
            offset,
            committed_at_ms: 0,
        };
        let value = group_offset::value(committed).to_vec();
        let key = group_offset::key("readers", fixture.topic, 1);
        fixture.put(KeyKind::GroupOffset, key, value);
        let problems = fixture.report().problems.problems;
        assert_eq!(problems.len(), usize::from(is_wrong));
        for problem in problems {
            assert_eq!(problem.kind, ProblemKind::GroupOffset);
            let place = "topic flights, group readers, partition 1, offset 13";
            assert_eq!(problem.place(), place);
        }
    }
}

/// Each of these entries is cut off or garbled, one at a time.
#[test]
fn malformed_entries_of_every_kind_are_named() {
    let fixture = Fixture::new();
    let (topic, queue) = (fixture.topic, fixture.queue);
    drop(fixture);
    let chunk_beyond = {
        let mut chunk = queue_chunk::Chunk::default();
        chunk.acknowledged.insert(700);
        queue_chunk::value(&chunk)
    };
    let given_back_beyond = {
        use queue_chunk::GivenBack;
        let mut chunk = queue_chunk::Chunk::default();
        chunk.given_back.insert(700, GivenBack::default().with(1));
        queue_chunk::value(&chunk)
    };
    let other_current = format!(r#"{{"current":"{}","versions":[]}}"#, "0".repeat(64));
    let no_digest = r#"{"current":"../x","versions":[{"digest":"../x"}]}"#;
    let cases: [(KeyKind, Vec<u8>, Vec<u8>, ProblemKind); 22] = [
        (
            KeyKind::Topic,
            vec![0x01, 0, 0, 0, 9],
            b"{".into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::Queue,
            vec![0x05, 0, 0, 0, 9],
            b"{}".into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::Pipeline,
            pipeline::key("other"),
            b"[]".into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::Pipeline,
            pipeline::key("other"),
            br#"{"id":0}"#.into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::PartitionHead,
            partition_head::key(topic, 0).into(),
            vec![0; 47],
            ProblemKind::Head,
        ),
        (
            KeyKind::GroupOffset,
            group_offset::key("g", topic, 0),
            vec![0; 15],
            ProblemKind::GroupOffset,
        ),
        (
            KeyKind::GroupGaps,
            group_gaps::key("g", topic, 0, 0),
            vec![9],
            ProblemKind::GroupOffset,
        ),
        (
            KeyKind::Deduplication,
            deduplication::key(queue, 1, 0).into(),
            vec![0; 3],
            ProblemKind::QueueChunk,
        ),
        (
            KeyKind::QueueChunk,
            queue_chunk::key(queue, 1).into(),
            vec![200],
            ProblemKind::QueueChunk,
        ),
        (
            KeyKind::QueueChunk,
            queue_chunk::key(queue, 0).into(),
            chunk_beyond,
            ProblemKind::QueueChunk,
        ),
        (
            KeyKind::QueueChunk,
            queue_chunk::key(queue, 0).into(),
            given_back_beyond,
            ProblemKind::QueueChunk,
        ),
        (
            KeyKind::Changelog,
            changelog::key(PIPELINE, 0, 0).into(),
            vec![0, 0, 0, 9],
            ProblemKind::PipelineData,
        ),
        (
            KeyKind::Parked,
            parked::key(PIPELINE, 0, 0, 0).into(),
            vec![1, 0],
            ProblemKind::PipelineData,
        ),
        (
            KeyKind::ParkedGroup,
            parked_group::key(PIPELINE, 0, 0).into(),
            vec![1, 0],
            ProblemKind::PipelineData,
        ),
        (
            KeyKind::Timer,
            timer::key(PIPELINE, 0, 0, b"k"),
            vec![7],
            ProblemKind::PipelineData,
        ),
        (KeyKind::State, vec![0x30, 0], vec![], ProblemKind::Key),
        (
            KeyKind::Plugin,
            plugin::key("other"),
            b"{}".into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::Plugin,
            plugin::key("other"),
            other_current.into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::Plugin,
            plugin::key("other"),
            no_digest.into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::Manifest,
            manifest::key("other"),
            b"[]".into(),
            ProblemKind::Entry,
        ),
        (
            KeyKind::Token,
            token::key("other"),
            b"".into(),
            ProblemKind::Entry,
        ),
        (KeyKind::Deploy, vec![0x0a, 1], vec![], ProblemKind::Key),
    ];
    for (kind, key, value, expected) in cases {
        let fixture = Fixture::new();
        fixture.put(kind, &key, value);
        let problem = fixture.problem();
        assert_eq!(problem.kind, expected, "{kind:?}: {problem:?}");
        assert_eq!(
            problem.key,
            Some(super::place::hexadecimal(&key)),
            "{kind:?}"
        );
    }
}

#[test]
fn a_key_of_no_known_kind_is_named() {
    for code in [0x00, 0x0f, 0x1f, 0x3f, 0x7f, 0xff] {
        let fixture = Fixture::new();
        let mut commit = Commit::new();
        commit.put_of_no_kind([code, 1], vec![].into());
        fixture.directory.commit(commit);
        assert_eq!(fixture.problem().kind, ProblemKind::Key, "{code}");
    }
}

/// Changes a byte of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

fn store_files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(directory.join("store")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// A blob is damaged on disk: it is named, and what lies behind it is looked at all the same.
#[test]
fn a_damaged_blob_file_is_named_and_passed_over() {
    let mut fixture = Fixture::new();
    fixture.directory.store().flush().unwrap();
    let mut bytes = fixture.batch_bytes(1, 9);
    bytes[30] ^= 1;
    fixture.put(KeyKind::Batch, batch_key::key(fixture.topic, 1, 9), bytes);
    fixture.directory.close();
    let blobs = store_files(fixture.directory.path(), "blob");
    assert!(!blobs.is_empty());
    flip(&blobs[0], 5_000);
    let report = fixture.report();
    let problems = &report.problems.problems;
    let kinds: Vec<_> = problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(
        kinds,
        [ProblemKind::Unreadable, ProblemKind::Batch],
        "{problems:#?}"
    );
    assert!(problems[0].reason.contains("CRC mismatch"), "{problems:#?}");
    assert_eq!(problems[0].place(), "topic flights, partition 0, offset 3");
    assert!(
        problems[0].reason.contains("before this one"),
        "{problems:#?}"
    );
    assert_eq!(problems[1].offset, Some(9));
    assert_eq!(report.counts.batches, 2 * BATCHES);
}

#[test]
fn damaged_table_files_are_named() {
    let mut fixture = Fixture::new();
    fixture.directory.store().flush().unwrap();
    fixture.directory.close();
    let tables = store_files(fixture.directory.path(), "sst");
    assert!(!tables.is_empty());
    for table in tables {
        let intact = fs::read(&table).unwrap();
        flip(&table, 20);
        let report = fixture.report();
        let kinds: Vec<_> = report.problems.problems.iter().map(|it| it.kind).collect();
        assert!(
            kinds.contains(&ProblemKind::Unreadable),
            "{table:?}: {kinds:?}"
        );
        fs::write(&table, &intact[..intact.len() - 1]).unwrap();
        let kinds: Vec<_> = fixture
            .report()
            .problems
            .problems
            .iter()
            .map(|it| it.kind)
            .collect();
        assert!(!kinds.is_empty(), "{table:?}");
        fs::write(&table, intact).unwrap();
    }
    assert_eq!(fixture.report().problems.problems, []);
}

/// What RocksDB would silently leave out when it opens the store.
#[test]
fn a_damaged_write_ahead_log_is_named() {
    let mut directory = TestStore::new();
    // Nothing is flushed, so that all of it is in one log.
    directory.options.memtable_bytes = 8 << 20;
    directory.reopen();
    let mut fixture = Fixture::within(directory, Cleanup::Delete);
    fixture.directory.close();
    let logs = store_files(fixture.directory.path(), "log");
    let log = logs
        .iter()
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    let log = log.unwrap().clone();
    let middle = fs::metadata(&log).unwrap().len() as usize / 2;
    flip(&log, middle);
    let report = fixture.report();
    let problems = &report.problems.problems;
    assert_eq!(
        problems[0].kind,
        ProblemKind::WriteAheadLog,
        "{problems:#?}"
    );
    assert!(
        problems[0].reason.contains("write-ahead log"),
        "{problems:#?}"
    );
    // The part before the damage was looked at.
    assert!(report.counts.batches > 0);
}
