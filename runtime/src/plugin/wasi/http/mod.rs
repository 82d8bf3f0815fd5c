//! `wasi:http`: requests of plugins to the services that their pipeline allows.
//!
//! - `fields.rs`, `request.rs`, `response.rs`: the resources of `wasi:http/types`.
//! - `exchange.rs`: `outgoing-handler`: who may be called, and the call itself.
//! - `client.rs`, `resolver.rs`: connections, TLS, names.
//! - `incoming.rs`: the half of `types` that is for servers, which plugins are not.
//!
//! # Why not wasmtime-wasi-http
//!
//! It is made of tokio tasks and hyper: every exchange is spawned on a runtime, bodies are channels
//! between tasks, and what is synchronous about its synchronous bindings is a wait for those. A wait that
//! ends at the call's deadline, bodies that are bounded, and connections that all instances share would
//! each have to be built beside it. Calls here are synchronous from end to end (see the module above), so
//! the client is one that is, too: `ureq`, on blocking sockets with a timeout for every read and write.
//!
//! # When what happens
//!
//! `handle` checks the request and sends nothing. The exchange is run when the guest first waits for its
//! response: in `block`, `poll` or `get`, on the guest's thread, which gives up its right to compute
//! meanwhile (`slot.rs`). Requests of one instance so run one after another; a pipeline has more of them
//! under way by having more instances. The request's body is collected before it is sent, and a wait
//! before it is finished is an error, not a deadlock. Of the response, up to
//! [`PREFETCH_BYTES`] of the body are read along with its head, and the rest as the guest reads.
//!
//! # What ends a wait
//!
//! Every wait ends a tenth of the deadline, at most [`MAX_MARGIN`], before the call's deadline: the guest
//! then sees a timeout and has the time to fail its record, as with the timeouts of its own
//! `request-options`. A request that would start only then is not the service's fault: it ends the call
//! as one that ran past its deadline.
//!
//! # What there is not
//!
//! A call that is run again to see what it saw (`replay.rs`) sends nothing: its requests fail.
//!
//! Redirects are not followed, and proxies of the environment not used: a guest that follows a redirect
//! makes a request that is checked like every other. Trailers: a request's are refused, and a response's
//! are never there. HTTP/2: the client speaks HTTP/1.1.

mod client;
mod exchange;
mod fields;
mod incoming;
mod request;
mod resolver;
mod response;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use wasmtime::component::{HasSelf, Linker, Resource};

use self::bindings::wasi::http::types::ErrorCode;
use super::super::{
    conditions::Conditions,
    host::{HostFault, HostState},
};

pub(in crate::plugin) use client::HttpClient;
pub(super) use response::FutureResponse;

/// Most headers, requests, responses and bodies that an instance has open at a time.
const MAX_OPEN: usize = 256;
/// Most bytes of names and values in one set of headers, a request's or a response's.
const MAX_FIELDS_BYTES: usize = 32 * 1024;
/// Most bytes of request bodies that an instance has open at a time.
const MAX_REQUEST_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Most bytes of one response's body.
const MAX_RESPONSE_BODY_BYTES: u64 = 16 * 1024 * 1024;
/// Longest path with query.
const MAX_PATH_BYTES: usize = 16 * 1024;
/// How much of a response's body is read along with its head.
const PREFETCH_BYTES: usize = 64 * 1024;
/// The longest time before a call's deadline at which waits end.
const MAX_MARGIN: Duration = Duration::from_millis(500);

/// What `wit/deps/wasi-http` says, as Rust traits.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package millstream:http-host;
            world http-host {
                import wasi:http/types@0.2.12;
                import wasi:http/outgoing-handler@0.2.12;
            }
        ",
        world: "millstream:http-host/http-host",
        imports: { default: trappable },
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::sync::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:http/types.fields": super::fields::Fields,
            "wasi:http/types.outgoing-request": super::request::OutgoingRequest,
            "wasi:http/types.outgoing-body": super::request::OutgoingBody,
            "wasi:http/types.request-options": super::request::RequestOptions,
            "wasi:http/types.future-incoming-response": super::response::FutureResponse,
            "wasi:http/types.incoming-response": super::response::IncomingResponse,
            "wasi:http/types.incoming-body": super::response::IncomingBody,
            "wasi:http/types.future-trailers": super::response::FutureTrailers,
        },
        require_store_data_send: true,
    });
}

/// Links `wasi:http`.
///
/// # Errors
/// When an import is linked twice, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    use bindings::wasi::http;
    type This = HasSelf<HostState>;
    let options = http::types::LinkOptions::default();
    http::types::add_to_linker::<_, This>(linker, &options, |state| state)?;
    http::outgoing_handler::add_to_linker::<_, This>(linker, |state| state)
}

/// An instance's requests.
pub(in crate::plugin) struct Http {
    client: HttpClient,
    /// Whether requests are sent: not where a call is run again.
    is_live: bool,
    /// Resources of this module that are open.
    open_count: usize,
    /// Bytes of request bodies that are open.
    body_bytes: Arc<AtomicUsize>,
    /// The responses that pollables wait for: index in the table of the one and of the other.
    waits: HashMap<u32, u32>,
}

impl Http {
    pub(in crate::plugin) fn new(client: HttpClient, conditions: &Conditions) -> Self {
        Self {
            client,
            is_live: matches!(conditions, Conditions::Live),
            open_count: 0,
            body_bytes: Arc::default(),
            waits: HashMap::new(),
        }
    }

    /// The response that a pollable waits for.
    pub(super) fn awaited(&self, pollable: u32) -> Option<Resource<FutureResponse>> {
        let response = self.waits.get(&pollable)?;
        Some(Resource::new_borrow(*response))
    }

    /// Forgets a pollable.
    pub(super) fn forget(&mut self, pollable: u32) {
        self.waits.remove(&pollable);
    }
}

/// How long before a deadline waits end.
pub(in crate::plugin) fn margin(deadline: Duration) -> Duration {
    (deadline / 10).min(MAX_MARGIN)
}

/// Why a body broke off, as the guest may ask for it (`http-error-code`).
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct BodyFailure {
    code: ErrorCode,
    message: String,
}

impl HostState {
    /// Puts a resource of this module into the table.
    fn push_http<T: Send + 'static>(&mut self, resource: T) -> wasmtime::Result<Resource<T>> {
        if self.http.open_count >= MAX_OPEN {
            return Err(HostFault::argument(format!(
                "it has more than {MAX_OPEN} headers, requests and responses of wasi:http open"
            )));
        }
        let resource = self.table.push(resource)?;
        self.http.open_count += 1;
        Ok(resource)
    }

    /// Takes a resource of this module out of the table.
    fn take_http<T: Send + 'static>(&mut self, resource: Resource<T>) -> wasmtime::Result<T> {
        let resource = self.table.delete(resource)?;
        self.http.open_count = self.http.open_count.saturating_sub(1);
        Ok(resource)
    }
}
