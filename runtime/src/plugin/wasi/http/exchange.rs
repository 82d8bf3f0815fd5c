//! `wasi:http/outgoing-handler`: who may be called, and the call.

use std::{sync::Arc, time::Duration};

use ureq::http::{self, HeaderMap, Uri, header};
use wasmtime::component::Resource;

use super::{
    super::super::host::HostState,
    bindings::wasi::http::{
        outgoing_handler,
        types::{self, ErrorCode, Method, Scheme},
    },
    client::Timeouts,
    request::{BodyState, OutgoingRequest, RequestBody, RequestOptions},
    response::{FutureResponse, IncomingResponse},
};
use crate::model::HttpAuthority;

/// What a request meets where a call is run again to see what it saw.
const NO_SECOND_CALL: &str = "a replay calls no services";

/// A request that has been checked and handed over.
#[derive(Debug)]
pub struct Prepared {
    method: http::Method,
    uri: Uri,
    headers: HeaderMap,
    body: Option<RequestBody>,
    options: RequestOptions,
}

impl Prepared {
    /// Whether nothing is written to the body any more.
    pub(in crate::plugin::wasi) fn is_whole(&self) -> bool {
        let body = self.body.as_ref();
        body.is_none_or(|body| body.state() != BodyState::Open)
    }

    /// The request as the client sends it: a body, also an empty one, only where there may be one.
    fn into_request(self) -> Result<http::Request<Option<Vec<u8>>>, ErrorCode> {
        let internal = |reason: &str| Err(ErrorCode::InternalError(Some(reason.to_owned())));
        let bytes = match &self.body {
            None => Vec::new(),
            Some(body) => match body.state() {
                BodyState::Finished => body.take(),
                BodyState::Open => {
                    return internal(
                        "the request's body is not finished: finish it before waiting for the response",
                    );
                }
                BodyState::Dropped => {
                    return internal("the request's body was dropped before it was finished");
                }
            },
        };
        let has_body = !bytes.is_empty()
            || [http::Method::POST, http::Method::PUT, http::Method::PATCH].contains(&self.method);
        let mut request = http::Request::new(has_body.then_some(bytes));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        // What it says has been held against the body; the client writes its own.
        request.headers_mut().remove(header::CONTENT_LENGTH);
        Ok(request)
    }
}

impl HostState {
    /// Checks a request.
    fn prepare(
        &self,
        request: OutgoingRequest,
        options: RequestOptions,
    ) -> Result<Prepared, ErrorCode> {
        if !self.http.is_live {
            // What it did when it was called for the first time must not be done again.
            return Err(ErrorCode::InternalError(Some(NO_SECOND_CALL.to_owned())));
        }
        let (scheme, default_port) = match request.scheme {
            Some(Scheme::Http) => (http::uri::Scheme::HTTP, 80),
            Some(Scheme::Https) | None => (http::uri::Scheme::HTTPS, 443),
            Some(Scheme::Other(_)) => return Err(ErrorCode::HttpRequestUriInvalid),
        };
        let authority = request.authority.unwrap_or_default();
        let authority: HttpAuthority = authority
            .parse()
            .map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        let allowed = self.grants.http.as_deref().unwrap_or_default();
        let is_allowed = allowed
            .iter()
            .any(|host| host.matches(&authority, default_port));
        if !is_allowed {
            let pipeline = &self.context.pipeline;
            tracing::debug!(%pipeline, %authority, "a plugin's request was denied: `allow.http` does not list its host");
            return Err(ErrorCode::HttpRequestDenied);
        }
        let path = request.path_with_query.unwrap_or_else(|| "/".to_owned());
        if !path.starts_with('/') {
            return Err(ErrorCode::HttpRequestUriInvalid);
        }
        // From the host as it was checked, not from the text that it was read from.
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(authority.to_string())
            .path_and_query(path)
            .build()
            .map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        Ok(Prepared {
            method: method(&request.method)?,
            uri,
            headers: request.headers,
            body: request.body,
            options,
        })
    }

    /// Sends a request and reads the start of its response, within `left`. Blocks.
    pub(super) fn exchange(
        &self,
        prepared: Prepared,
        left: Duration,
    ) -> Result<IncomingResponse, ErrorCode> {
        let timeouts = Timeouts {
            total: left,
            connect: prepared.options.connect,
            first_byte: prepared.options.first_byte,
            between_bytes: prepared.options.between_bytes,
        };
        let outside = Arc::clone(&self.call.outside);
        let request = prepared.into_request()?;
        let uri = request.uri().clone();
        let sent = self.call.outside.run(|| {
            let response = self.http.client.send(request, &timeouts)?;
            Ok(IncomingResponse::new(response, outside))
        });
        sent.map_err(|error: ureq::Error| {
            let (pipeline, host) = (&self.context.pipeline, uri.authority());
            tracing::debug!(%pipeline, host = host.map_or("", |host| host.as_str()), %error, "a plugin's request failed");
            super::client::error_code(&error)
        })
    }
}

/// The client's method for a guest's.
fn method(method: &Method) -> Result<http::Method, ErrorCode> {
    Ok(match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Delete => http::Method::DELETE,
        Method::Options => http::Method::OPTIONS,
        Method::Trace => http::Method::TRACE,
        Method::Patch => http::Method::PATCH,
        // A tunnel leads wherever the other side lets it.
        Method::Connect => return Err(ErrorCode::HttpRequestMethodInvalid),
        Method::Other(name) if name.eq_ignore_ascii_case("connect") => {
            return Err(ErrorCode::HttpRequestMethodInvalid);
        }
        Method::Other(name) => http::Method::from_bytes(name.as_bytes())
            .map_err(|_| ErrorCode::HttpRequestMethodInvalid)?,
    })
}

impl outgoing_handler::Host for HostState {
    fn handle(
        &mut self,
        request: Resource<OutgoingRequest>,
        options: Option<Resource<RequestOptions>>,
    ) -> wasmtime::Result<Result<Resource<FutureResponse>, ErrorCode>> {
        self.require(self.grants.http.is_some(), "wasi:http")?;
        let request = self.take_http(request)?;
        let options = match options {
            Some(options) => self.take_http(options)?,
            None => RequestOptions::default(),
        };
        match self.prepare(request, options) {
            Ok(prepared) => {
                let future = FutureResponse::Pending(Box::new(prepared));
                self.push_http(future).map(Ok)
            }
            Err(code) => Ok(Err(code)),
        }
    }
}

impl types::Host for HostState {
    fn http_error_code(
        &mut self,
        error: Resource<types::IoError>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        let failure = self.table.get(&error)?.downcast_ref::<super::BodyFailure>();
        Ok(failure.map(|failure| failure.code.clone()))
    }
}
