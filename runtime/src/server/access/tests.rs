//! What is reached from where.

use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use serde_json::Value;
use tower::ServiceExt as _;

use super::{Audit, Entrance, Role, Tokens};
use crate::server::router::router;
use crate::server::state::{State, Stopping};
use crate::server::{Data, Limits};
use crate::storage::tests::support::TestStore;

const HERE: &str = "127.0.0.1";
const ELSEWHERE: [&str; 3] = ["10.0.0.1", "fd00::1", "::ffff:192.0.2.1"];

struct Door {
    _directory: TestStore,
    router: Router,
    /// With a role that hardly any operation asks for.
    token: String,
}

async fn door() -> Door {
    let directory = TestStore::new();
    let store = directory.store().clone();
    let audit = Audit::open(store.path()).unwrap();
    let tokens = Tokens::open(store.clone()).unwrap();
    let name = "producer".parse().unwrap();
    let token = tokens.create(&name, vec![Role::Produce], None).await;
    let entrance = Entrance::Door {
        local_token: "local".to_owned(),
        is_open: false,
        audit,
    };
    let (limits, stopping) = (Limits::default(), Stopping::new());
    let state = State::new(Data::of(store), tokens, None, limits, stopping);
    state.started();
    Door {
        _directory: directory,
        router: router(state, entrance),
        token: token.unwrap(),
    }
}

impl Door {
    /// What a request from an address is answered.
    async fn answer(
        &self,
        from: &str,
        method: &str,
        path: &str,
        token: Option<&str>,
    ) -> (u16, Vec<u8>) {
        let address: IpAddr = from.parse().unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let peer = ConnectInfo(SocketAddr::new(address, 50_000));
        let request = request.extension(peer).body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, body.to_vec())
    }

    async fn status(&self, from: &str, method: &str, path: &str, token: Option<&str>) -> u16 {
        self.answer(from, method, path, token).await.0
    }

    /// Every path of the document with each of its methods, and with names in the places of its parameters.
    async fn operations(&self) -> Vec<(String, String)> {
        let (status, document) = self.answer(HERE, "GET", "/openapi.json", None).await;
        assert_eq!(status, 200);
        let document: Value = serde_json::from_slice(&document).unwrap();
        let mut operations = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let path = path.replace(['{', '}'], "");
            for method in methods.as_object().unwrap().keys() {
                operations.push((method.to_uppercase(), path.clone()));
            }
        }
        operations
    }
}

/// Fails when anything is let through that comes from elsewhere and has no token.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_is_reached_from_elsewhere() {
    let door = door().await;
    let mut requests = door.operations().await;
    assert!(requests.len() > 50, "only {} operations", requests.len());
    let others = [
        "/openapi.json",
        "/errors/invalid-request",
        "/errors/none",
        "/",
        "/v1",
        "/none",
    ];
    requests.extend(others.map(|path| ("GET".to_owned(), path.to_owned())));
    for (method, path) in requests {
        for method in [method.as_str(), "HEAD", "OPTIONS", "PUT"] {
            for from in ELSEWHERE {
                for token in [None, Some("mst_wrong")] {
                    let status = door.status(from, method, &path, token).await;
                    assert_eq!(status, 401, "{method} {path} from {from}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_descriptions_take_any_token_and_none_on_the_same_machine() {
    let door = door().await;
    let get = Method::GET.as_str();
    for path in [
        "/livez",
        "/readyz",
        "/openapi.json",
        "/errors/invalid-request",
    ] {
        assert_eq!(door.status(HERE, get, path, None).await, 200, "{path}");
        for from in ELSEWHERE {
            let status = door.status(from, get, path, Some(&door.token)).await;
            assert_eq!(status, 200, "{path} from {from}");
        }
    }
    // The others need a token here, too, and one of the right role.
    assert_eq!(door.status(HERE, get, "/v1/topics", None).await, 401);
    let token = Some(door.token.as_str());
    assert_eq!(door.status(HERE, get, "/v1/topics", token).await, 403);
    assert_eq!(door.status(HERE, "POST", "/openapi.json", None).await, 405);
}

/// What a verb has to look at is open to the role of the verb, too. Each of these tells what there is and how far it is,
/// and nothing that a record or a message holds.
#[tokio::test(flavor = "multi_thread")]
async fn only_these_are_open_to_several_roles() {
    let (status, document) = door()
        .await
        .answer(HERE, "GET", "/openapi.json", None)
        .await;
    assert_eq!(status, 200);
    let document: Value = serde_json::from_slice(&document).unwrap();
    let mut open_to_several = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let requirements = operation["security"].as_array().unwrap();
            let roles: Vec<_> = requirements
                .iter()
                .filter_map(|requirement| requirement["token"][0].as_str())
                .collect();
            if roles.len() > 1 {
                open_to_several.push(format!("{method} {path}: {}", roles.join(" ")));
            }
        }
    }
    open_to_several.sort_unstable();
    let expected = [
        "get /v1/dead-letters/count: read consume deploy",
        "get /v1/deploys/{id}: read deploy",
        "get /v1/queues/{queue}: read produce",
        "get /v1/redrives/{id}: read deploy",
        "get /v1/topics/{topic}/offsets: read consume",
        "get /v1/topics/{topic}: read produce",
    ];
    assert_eq!(open_to_several, expected);
}
