//! Topics as the API changes them.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::log::TopicConfig;
use crate::server::{Data, api};
use crate::storage::tests::support::TestStore;

async fn alter(api: Router, path: String, settings: Value) {
    let request = Request::patch(path).header("content-type", "application/json");
    let request = request.body(Body::from(settings.to_string())).unwrap();
    let answer = api.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Fails when a change is made from settings that were read before another change was over.
#[tokio::test(flavor = "multi_thread")]
async fn changes_at_the_same_time_undo_nothing() {
    let directory = TestStore::new();
    let store = directory.store().clone();
    let data = Data::of(store);
    let api = api(data.clone(), None).unwrap();
    for round in 0..50 {
        let name = format!("t{round}").parse().unwrap();
        let created = data.log.create_topic(&name, TopicConfig::default());
        let topic = created.await.unwrap();
        let changes = [
            json!({ "retention_ms": 7 }),
            json!({ "retention_bytes": 8 }),
            json!({ "max_batch_bytes": 65_536 }),
        ];
        let changes = changes.map(|settings| {
            let path = format!("/v1/topics/{}", topic.name());
            tokio::spawn(alter(api.clone(), path, settings))
        });
        for change in changes {
            change.await.unwrap();
        }
        let config = topic.config();
        let changed = (
            config.retention_ms,
            config.retention_bytes,
            config.max_batch_bytes,
        );
        assert_eq!(changed, (Some(7), Some(8), 65_536), "round {round}");
    }
}
