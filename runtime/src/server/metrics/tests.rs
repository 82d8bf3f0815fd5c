//! What is exported is what is documented, and dashboards and alerts ask for nothing else.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::{Body, to_bytes};
use axum::http::Request;
use tower::ServiceExt as _;

use crate::log::{Topic, TopicConfig};
use crate::model::{BatchBuilder, Compression, HeadersRef};
use crate::server::{Data, api};
use crate::storage::{Commit, Store, StoreOptions};

const DOCUMENT: &str = include_str!("../../../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../../packaging/grafana/millstream.json");
const ALERTS: &str = include_str!("../../../../packaging/prometheus/alerts.yml");

async fn opened(directory: &tempfile::TempDir) -> Data {
    let options = StoreOptions {
        statistics: true,
        ..StoreOptions::default()
    };
    let store = Store::open(&directory.path().join("data"), options).unwrap();
    Data::of(store)
}

async fn scraped(data: &Data) -> String {
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let api = api(data.clone(), None).unwrap();
    let answer = api.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The kinds of the metrics by name, as a text that was scraped says.
fn exported(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = types.filter_map(|line| line.split_once(' '));
    let with_suffix = named.map(|(name, kind)| match kind {
        "counter" => (format!("{name}_total"), kind.to_owned()),
        _ => (name.to_owned(), kind.to_owned()),
    });
    with_suffix.collect()
}

/// As the tables of the document say.
fn documented() -> BTreeMap<String, String> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split_once("` | "));
    let named = cells.filter_map(|(name, rest)| Some((name, rest.split(' ').next()?)));
    named
        .filter(|(_, kind)| ["gauge", "counter", "histogram"].contains(kind))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Words of a text that begin as our metrics do.
fn asked_for(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    let ours = words.filter(|word| word.starts_with("millstream_") || word.starts_with("kafka_"));
    ours.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_documented_and_nothing_else_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let data = opened(&directory).await;
    let exported = exported(&scraped(&data).await);
    assert_eq!(exported, documented());
    for (what, text) in [("the dashboard", DASHBOARD), ("the alerts", ALERTS)] {
        for name in asked_for(text) {
            let of_histogram = ["_bucket", "_count", "_sum"];
            let mut of_histogram = of_histogram.iter().filter_map(|end| name.strip_suffix(end));
            let is_known = exported.contains_key(name)
                || of_histogram.any(|name| exported.get(name).is_some_and(|it| it == "histogram"));
            assert!(is_known, "{what}: {name}");
        }
    }
}

async fn append(data: &Data, topic: &Topic, value: &[u8]) {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .push(1, None, Some(value), HeadersRef::EMPTY)
        .unwrap();
    let mut commit = Commit::new();
    let partition = topic.partition(0).unwrap();
    commit.append(partition.clone(), builder.build().unwrap().unwrap());
    data.log.store().commit(commit).await.unwrap();
}

fn value(text: &str, name: &str) -> f64 {
    let of_name = text.lines().filter_map(|line| line.strip_prefix(name));
    let mut values = of_name.filter_map(|rest| rest.strip_prefix(' '));
    values.next().expect(name).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_tells_of_its_commits() {
    let directory = tempfile::tempdir().unwrap();
    let data = opened(&directory).await;
    let config = TopicConfig::default();
    let topic = data.log.create_topic(&"t".parse().unwrap(), config).await;
    let topic = topic.unwrap();
    let before = scraped(&data).await;
    for _ in 0..10 {
        append(&data, &topic, &[b'x'; 10_000]).await;
    }
    let after = scraped(&data).await;
    let grown = |name: &str| value(&after, name) - value(&before, name);
    assert_eq!(grown("millstream_store_commit_seconds_count"), 10.0);
    assert_eq!(grown("millstream_store_write_seconds_count"), 10.0);
    assert_eq!(grown("millstream_store_write_commits_sum"), 10.0);
    assert_eq!(grown("millstream_store_fsync_seconds_count"), 10.0);
    assert!(grown("millstream_store_fsync_seconds_sum") > 0.0);
    // A commit takes as long as its write, which takes as long as its sync.
    assert!(
        grown("millstream_store_commit_seconds_sum") > grown("millstream_store_write_seconds_sum")
    );
    let bytes = grown("millstream_store_write_bytes_sum");
    assert!((100_000.0..110_000.0).contains(&bytes), "{bytes}");
    // So far they are in the write-ahead log alone.
    let wal = grown("millstream_store_disk_bytes{kind=\"wal\"}");
    assert!((100_000.0..110_000.0).contains(&wal), "{wal}");
    let amplification = value(&after, "millstream_store_write_amplification");
    assert!((1.0..1.5).contains(&amplification), "{amplification}");
    data.log.store().flush().unwrap();
    let amplification = value(
        &scraped(&data).await,
        "millstream_store_write_amplification",
    );
    assert!((1.9..2.6).contains(&amplification), "{amplification}");
}

/// Fails when the lag counts what retention has removed, which the group's own page does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_lags_by_what_can_still_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let data = opened(&directory).await;
    let config = TopicConfig::default();
    let topic = data.log.create_topic(&"t".parse().unwrap(), config).await;
    let topic = topic.unwrap();
    for _ in 0..3 {
        append(&data, &topic, b"x").await;
    }
    let (group, partition) = ("g".parse().unwrap(), topic.partition(0).unwrap());
    let offsets = [(&**partition, 0)].into_iter();
    data.groups.commit(&group, offsets).await.unwrap();
    let mut commit = Commit::new();
    commit.trim_partition(partition, 2, 0);
    data.log.store().commit(commit).await.unwrap();
    let text = scraped(&data).await;
    let labels = "{consumergroup=\"g\",topic=\"t\",partition=\"0\"}";
    let of_group = |name: &str| value(&text, &format!("{name}{labels}"));
    assert_eq!(of_group("kafka_consumergroup_lag"), 1.0);
    assert_eq!(of_group("kafka_consumergroup_current_offset"), 0.0);
    let lag = data.groups.lag(topic.name(), partition, 0).unwrap();
    assert_eq!(lag.lag_records, 1);
}

/// Fails when a route is counted by its path, which would be a time series for each topic.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_route_and_status() {
    let directory = tempfile::tempdir().unwrap();
    let api = api(opened(&directory).await, None).unwrap();
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        api.clone().oneshot(request).await.unwrap()
    };
    for (method, path) in [
        ("GET", "/v1/topics/a"),
        ("GET", "/v1/topics/b"),
        ("GET", "/nowhere"),
        ("POST", "/nowhere/else"),
        ("BREW", "/v1/topics/a"),
        ("GET", "/livez"),
    ] {
        ask(method, path).await;
    }
    let text = ask("GET", "/metrics").await.into_body();
    let text = String::from_utf8(to_bytes(text, 1 << 20).await.unwrap().to_vec()).unwrap();
    let counted = |labels: &str| {
        let name = format!("millstream_http_requests_total{{{labels}}}");
        value(&text, &name)
    };
    let topic = "method=\"GET\",route=\"/v1/topics/{topic}\"";
    assert_eq!(counted(&format!("{topic},status=\"404\"")), 2.0);
    assert_eq!(counted("method=\"GET\",route=\"none\",status=\"404\""), 1.0);
    assert_eq!(
        counted("method=\"POST\",route=\"none\",status=\"404\""),
        1.0
    );
    assert_eq!(
        counted("method=\"other\",route=\"/v1/topics/{topic}\",status=\"405\""),
        1.0
    );
    assert_eq!(
        counted("method=\"GET\",route=\"/livez\",status=\"200\""),
        1.0
    );
    let seconds = |end: &str| {
        value(
            &text,
            &format!("millstream_http_request_seconds_{end}{{{topic}}}"),
        )
    };
    assert_eq!(seconds("count"), 2.0);
    assert!(seconds("sum") > 0.0);
}
