//! What verbs ask: the API of a running server, or, where none runs, the same API within this process, on the data
//! directory itself.

mod remote;
mod unreachable;

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header, request};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tower::ServiceExt as _;

use super::GlobalArgs;
use super::open::{Access, DataDirectory};
use super::signatures::SignatureArgs;
use crate::deploy::{Deployments, Offline, SignatureRules};
use crate::plugin::{EngineOptions, PluginEngine};
use crate::server::{self, Data, LocalServer, Problem};
use crate::storage::{self, layout};

pub(super) use remote::Remote;
pub(super) use unreachable::Unreachable;

/// Plugin instances at a time where no pipeline runs: one is opened, to see whether it does.
const OFFLINE_INSTANCES: u32 = 16;
/// Media types of a body.
pub(super) const JSON: &str = "application/json";

/// Who answers.
#[derive(Clone)]
pub(super) enum Client {
    /// This process, which has the data directory open.
    Embedded(Router),
    /// A server.
    Remote(Remote),
}

/// An answer: its body, and a header if there is one.
pub(super) struct Answer {
    pub(super) body: Bytes,
    headers: axum::http::HeaderMap,
}

impl Answer {
    /// The text of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn json<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.body)
            .context("the server's answer is not what this version of millstream expects")
    }
}

/// Where a command finds what it works on.
pub(super) enum Place {
    /// The data directory, which this process has open now.
    Directory(DataDirectory),
    /// A server.
    Server(Remote),
}

impl Place {
    /// Opens the data directory, or finds the server that holds it, or takes the one that `--server` names.
    pub(super) fn find(global: &GlobalArgs, access: Access) -> anyhow::Result<Self> {
        if let Some(url) = &global.server {
            return Ok(Self::Server(Remote::named(url, global)?));
        }
        let error = match DataDirectory::open(global, access) {
            Ok(data) => return Ok(Self::Directory(data)),
            Err(error) => error,
        };
        let is_locked = matches!(error.downcast_ref(), Some(storage::Error::Locked { .. }));
        match LocalServer::read(&global.data_dir).filter(|_| is_locked) {
            Some(server) => Ok(Self::Server(Remote::local(server)?)),
            None => Err(error),
        }
    }
}

impl Client {
    /// Whoever answers for the data directory, or `--server`.
    pub(super) fn connect(global: &GlobalArgs, access: Access) -> anyhow::Result<Self> {
        match Place::find(global, access)? {
            Place::Server(remote) => Ok(Self::Remote(remote)),
            Place::Directory(data) => Self::embedded(data, None),
        }
    }

    /// As [`connect`](Self::connect), for the verbs that look at what was deployed, or change it. `signatures` count
    /// where no server runs: one that does has its own.
    pub(super) async fn connect_to_deployments(
        global: &GlobalArgs,
        access: Access,
        signatures: &SignatureArgs,
        about: Offline,
    ) -> anyhow::Result<Self> {
        // First: keys that cannot be read make no data directory.
        let rules = match global.server {
            Some(_) => SignatureRules::default(),
            None => signatures.rules()?,
        };
        let data = match Place::find(global, access)? {
            Place::Server(remote) => return Ok(Self::Remote(remote)),
            Place::Directory(data) => data,
        };
        let engine = PluginEngine::new(EngineOptions {
            cache_dir: Some(global.data_dir.join(layout::PLUGIN_CACHE)),
            max_instances: OFFLINE_INSTANCES,
        })
        .context("cannot run plugins")?;
        let (log, queues, groups) = (&data.log, &data.queues, &data.groups);
        let deployments =
            Deployments::open_offline(log, queues, groups, &engine, rules, about).await?;
        // A manifest that cannot be read is logged.
        deployments.restore().await?;
        Self::embedded(data, Some(deployments))
    }

    /// The API on an open data directory.
    fn embedded(data: DataDirectory, deployments: Option<Deployments>) -> anyhow::Result<Self> {
        let DataDirectory {
            log,
            queues,
            groups,
        } = data;
        let data = Data {
            log,
            queues,
            groups,
        };
        Ok(Self::Embedded(server::api(data, deployments)?))
    }

    /// Whether no server answers, so that no pipeline runs.
    pub(super) fn is_offline(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    /// `GET`, with parameters if there are any.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.fetch(path, query).await?.json()
    }

    /// `GET` of something that is no JSON document.
    pub(super) async fn fetch(&self, path: &str, query: &impl Serialize) -> anyhow::Result<Answer> {
        let query = serde_urlencoded::to_string(query)?;
        let path = match query.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{query}"),
        };
        self.send(Request::get(&path), JSON, Bytes::new()).await
    }

    /// `POST` of a JSON document.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?.into();
        self.send(Request::post(path), JSON, body).await?.json()
    }

    /// `POST` of something else, or whose answer is no JSON document.
    pub(super) async fn post_bytes(
        &self,
        path: &str,
        media_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        self.post_with(path, media_type, body, None).await
    }

    /// As [`post_bytes`](Self::post_bytes), with a header more if there is one.
    pub(super) async fn post_with(
        &self,
        path: &str,
        media_type: &'static str,
        body: Bytes,
        header: Option<(&'static str, String)>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::post(path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        self.send(request, media_type, body).await
    }

    /// `PATCH` of a JSON document.
    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body)?.into();
        self.send(Request::patch(path), JSON, body).await?.json()
    }

    /// `DELETE`, answered with a JSON document.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.remove(path).await?.json()
    }

    /// `DELETE`, answered with nothing.
    pub(super) async fn remove(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Request::delete(path), JSON, Bytes::new()).await
    }

    async fn send(
        &self,
        request: request::Builder,
        media_type: &'static str,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        let request = request
            .header(header::CONTENT_TYPE, media_type)
            .body(body)?;
        let (status, answer) = match self {
            Self::Embedded(router) => ask_router(router, request).await?,
            Self::Remote(remote) => remote.send(request).await?,
        };
        if status.is_success() {
            return Ok(answer);
        }
        match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => Err(problem.into()),
            Err(_) => Err(anyhow!(
                "the server answered with status {status} and no problem document; is it a millstream server?"
            )),
        }
    }
}

async fn ask_router(
    router: &Router,
    request: Request<Bytes>,
) -> anyhow::Result<(StatusCode, Answer)> {
    let response = router.clone().oneshot(request.map(Body::from)).await?;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await?;
    let answer = Answer {
        body,
        headers: parts.headers,
    };
    Ok((parts.status, answer))
}
