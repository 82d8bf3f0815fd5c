//! Queues as the API takes and shows them.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::model::{HeadersBuf, Record};
use crate::queue::{DEDUPLICATION_ID, Queue, QueueConfig};
use crate::server::{Data, api};
use crate::storage::tests::support::TestStore;

struct Fixture {
    data: Data,
    api: Router,
    _directory: TestStore,
}

impl Fixture {
    fn new() -> Self {
        let directory = TestStore::new();
        let store = directory.store().clone();
        let data = Data::of(store);
        Self {
            api: api(data.clone(), None).unwrap(),
            data,
            _directory: directory,
        }
    }

    async fn queue(&self) -> Queue {
        let (queues, name) = (&self.data.queues, "q".parse().unwrap());
        let created = queues.create_queue(&name, QueueConfig::default()).await;
        created.unwrap()
    }
}

async fn post(api: Router, path: &str, media_type: &str, body: String) -> (u16, Value) {
    let request = Request::post(path).header("content-type", media_type);
    let answer = api.oneshot(request.body(Body::from(body)).unwrap()).await;
    let answer = answer.unwrap();
    let status = answer.status().as_u16();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

/// A setting that is misspelt would be the default without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_not_known_is_refused() {
    let fixture = Fixture::new();
    let create = |settings: Value| {
        let new = json!({ "name": "q", "settings": settings }).to_string();
        post(fixture.api.clone(), "/v1/queues", "application/json", new)
    };
    let (status, problem) = create(json!({ "max_deliverys": 3 })).await;
    assert_eq!(status, 400, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("unknown field `max_deliverys`"), "{detail}");
    let settings = json!({ "max_deliveries": 3, "dead_letter": "d", "default_priority": 0 });
    let (status, created) = create(settings).await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["max_deliveries"], 3);
    assert_eq!(created["dead_letter"], "d");
    assert_eq!(created["default_priority"], 0);
    assert_eq!(created["visibility_timeout_ms"], 30_000);
}

/// Somebody enqueues a message with a deduplication id, another one the same id by HTTP, between two other messages.
/// Returns how many are stored before the first decides, and the answer.
async fn enqueued_meanwhile(happens: bool) -> (u64, (u16, Value)) {
    let fixture = Fixture::new();
    let queue = fixture.queue().await;
    let mut headers = HeadersBuf::new();
    headers.push(DEDUPLICATION_ID, Some(b"order-1")).unwrap();
    let mut first = queue.batch();
    assert!(first.push(0, None, None, headers.as_headers()).unwrap());
    let lines = [
        json!({ "value": "before", "headers": [[DEDUPLICATION_ID, "order-0"]] }),
        json!({ "value": "twice", "headers": [[DEDUPLICATION_ID, "order-1"]] }),
        json!({ "value": "after" }),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    let api = fixture.api.clone();
    let answer = tokio::spawn(async move {
        post(api, "/v1/queues/q/messages", "application/x-ndjson", lines).await
    });
    let mut before = 0;
    while before == 0 && !answer.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        before = queue.message_count().await.unwrap();
    }
    if happens {
        assert_eq!(first.enqueue().await.unwrap().stored_count, 1);
    }
    drop(first);
    (before, answer.await.unwrap())
}

/// Fails when the request is refused instead, and when it keeps the messages before back.
#[tokio::test(flavor = "multi_thread")]
async fn who_enqueues_an_id_waits_until_it_is_decided() {
    let (before, (status, answer)) = enqueued_meanwhile(false).await;
    assert_eq!((status, before), (200, 1), "{answer}");
    assert_eq!(answer, json!({ "acknowledged": 3, "duplicates": 0 }));
    let (before, (status, answer)) = enqueued_meanwhile(true).await;
    assert_eq!((status, before), (200, 1), "{answer}");
    assert_eq!(answer, json!({ "acknowledged": 2, "duplicates": 1 }));
}

fn message(value: &'static str) -> Record {
    Record {
        key: None,
        value: Some(value.into()),
        headers: Vec::new(),
        timestamp_ms: 0,
    }
}

/// Fails when purging dead letters empties a queue that is none.
#[tokio::test(flavor = "multi_thread")]
async fn purging_dead_letters_deletes_nothing_else() {
    let fixture = Fixture::new();
    let queue = fixture.queue().await;
    queue
        .enqueue(&[message("order"), message("order")])
        .await
        .unwrap();
    let letter = crate::model::Header::new(crate::queue::REASON, Some("trap".into()));
    let letters = [0, 1, 2].map(|_| Record {
        headers: vec![letter.clone()],
        ..message("letter")
    });
    queue.enqueue(&letters).await.unwrap();
    let purge = |body: Value| {
        let (api, body) = (fixture.api.clone(), body.to_string());
        post(api, "/v1/dead-letters/purge", "application/json", body)
    };
    let some = purge(json!({ "source": "queue:q", "filter": "reason=rejected" })).await;
    let none_deleted = json!({ "queue": "q", "deleted": 0, "held": 0, "others": 0 });
    assert_eq!(some, (200, none_deleted));
    let all = purge(json!({ "source": "queue:q" })).await;
    let letters_deleted = json!({ "queue": "q", "deleted": 3, "held": 0, "others": 2 });
    assert_eq!(all, (200, letters_deleted));
    assert_eq!(queue.message_count().await.unwrap(), 2);
}
