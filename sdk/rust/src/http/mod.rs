//! Calls to services over HTTP, to the hosts that the manifest allows:
//! `allow = { http = ["api.example.com"] }`.
//!
//! ```
//! use std::time::Duration;
//!
//! use millstream_sdk::http;
//! use millstream_sdk::prelude::*;
//!
//! millstream_sdk::stateless_consumer!(charge);
//!
//! fn charge(record: Record<'_>, out: &mut Outputs) -> Result<(), Failure> {
//!     let answer = http::post("https://api.example.com/charges", record.value())
//!         .header("Content-Type", "application/json")
//!         .idempotent(record)
//!         .timeout(Duration::from_millis(500))
//!         .send()?
//!         .success()?;
//!     out.emit(answer.body());
//!     Ok(())
//! }
//! ```
//!
//! The first `?` asks for another attempt if there is no answer, the second one looks at the answer's
//! status: 5xx and 429 ask for another attempt, when `Retry-After` says, and other failures reject the
//! record.
//!
//! A call happens outside of what Millstream commits: a record that is processed again, after a failure
//! of another record or a crash, calls again. [`Request::idempotent`] gives the service what it needs to
//! tell; without it every call must be one that may happen twice.
//!
//! Calls of one instance come one after another. Redirects are not followed. Only plugins that use this
//! module import `wasi:http`.

#[cfg(target_arch = "wasm32")]
mod component;
mod date;
mod error;
mod response;
mod url;

use std::time::Duration;

pub use error::{Error, ErrorKind};
pub use response::Response;
use url::Url;
pub use url::encode;

use crate::host;
use crate::record::Record;
use crate::timers::Timer;

/// The header of [`Request::idempotent`].
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A request that can be sent. Made with [`get`], [`post`] and the like.
#[must_use = "a request does nothing until it is sent"]
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

/// A `GET` request.
pub fn get(url: impl Into<String>) -> Request {
    request("GET", url)
}

/// A `POST` request.
pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Request {
    request("POST", url).body(body)
}

/// A `PUT` request.
pub fn put(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Request {
    request("PUT", url).body(body)
}

/// A `DELETE` request.
pub fn delete(url: impl Into<String>) -> Request {
    request("DELETE", url)
}

/// A request with any method, in capitals.
pub fn request(method: impl Into<String>, url: impl Into<String>) -> Request {
    Request {
        method: method.into(),
        url: url.into(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout: None,
    }
}

impl Request {
    /// Adds a header. `Host`, `Connection` and the like are the client's own, and refused.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds the header `Idempotency-Key` with a key that is the same whenever this record is
    /// processed, also after a crash: `<pipeline>/<topic>/<partition>/<offset>`. A service that knows
    /// the header does what is asked once for each key. One record that makes several calls to one
    /// service needs a key of its own for each: see [`context::idempotency_key`](crate::context).
    pub fn idempotent(self, record: Record<'_>) -> Self {
        self.header(IDEMPOTENCY_KEY, host::idempotency_key(record.index()))
    }

    /// As [`Request::idempotent`], for a timer: with `timer:<pipeline>/<partition>/<key>@<due-ms>`.
    pub fn idempotent_timer(self, timer: Timer<'_>) -> Self {
        self.header(IDEMPOTENCY_KEY, host::idempotency_key(timer.index()))
    }

    /// Sets how long to wait at most for the connection, for the head of the response, and between two
    /// pieces of its body. Whatever it is, all of them together end a little before the deadline of the
    /// call (`limits.deadline`).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends the request and reads the response, whatever its status.
    ///
    /// # Errors
    /// There is no whole response. With `?` that becomes another attempt, or a rejection where one
    /// cannot help: see [`Error`].
    pub fn send(self) -> Result<Response, Error> {
        let url = match Url::parse(&self.url) {
            Ok(url) => url,
            Err(reason) => {
                let message = format!("{:?} is no URL that can be called: {reason}", self.url);
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        };
        // Without path and query, which may hold what is secret.
        let context = format!("{} {}://{}", self.method, url.scheme(), url.authority);
        send(&self, &url).map_err(|error| error.context(&context))
    }

    /// The method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The first header of that name, in whatever case, if it is text.
    pub fn header_value(&self, name: &str) -> Option<&str> {
        response::find(&self.headers, name)
    }

    /// The body.
    pub fn body_bytes(&self) -> &[u8] {
        &self.body
    }
}

#[cfg(target_arch = "wasm32")]
fn send(request: &Request, url: &Url<'_>) -> Result<Response, Error> {
    component::send(request, url)
}

#[cfg(not(target_arch = "wasm32"))]
fn send(request: &Request, _: &Url<'_>) -> Result<Response, Error> {
    crate::testing::host::answer(request)
}
