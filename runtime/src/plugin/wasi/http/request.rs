//! `wasi:http/types`: a request, its body and its options.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use ureq::http::{self, HeaderMap};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynOutputStream, OutputStream, Pollable, StreamError, StreamResult,
    bindings::clocks::monotonic_clock,
};

use super::{
    super::{super::host::HostState, streams::Ready},
    BodyFailure, MAX_PATH_BYTES, MAX_REQUEST_BODY_BYTES,
    bindings::wasi::http::types::{self, ErrorCode, Method, Scheme},
    fields::Fields,
};
use crate::model::HttpAuthority;

/// What a body's stream takes in one write.
const WRITE_PERMIT_BYTES: usize = 64 * 1024;

/// A request that has not been handed over.
#[derive(Debug)]
pub struct OutgoingRequest {
    pub(super) method: Method,
    pub(super) scheme: Option<Scheme>,
    pub(super) authority: Option<String>,
    pub(super) path_with_query: Option<String>,
    pub(super) headers: HeaderMap,
    /// None until the guest asks for it.
    pub(super) body: Option<RequestBody>,
}

/// A request's body: shared by the request, the guest's handle on it, and its stream.
#[derive(Debug, Clone)]
pub(super) struct RequestBody(Arc<Mutex<Collected>>);

/// What a body's bytes have come to.
#[derive(Debug)]
struct Collected {
    bytes: Vec<u8>,
    state: BodyState,
    /// What all bodies of the instance hold.
    total_bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    /// The guest may go on writing.
    Open,
    /// It is whole.
    Finished,
    /// The guest dropped it before it was whole.
    Dropped,
}

impl RequestBody {
    fn new(total_bytes: Arc<AtomicUsize>) -> Self {
        Self(Arc::new(Mutex::new(Collected {
            bytes: Vec::new(),
            state: BodyState::Open,
            total_bytes,
        })))
    }

    pub(super) fn state(&self) -> BodyState {
        self.0.lock().state
    }

    /// The bytes; nothing is left.
    pub(super) fn take(&self) -> Vec<u8> {
        let mut collected = self.0.lock();
        collected.release();
        std::mem::take(&mut collected.bytes)
    }

    fn len(&self) -> usize {
        self.0.lock().bytes.len()
    }

    fn end(&self, state: BodyState) {
        self.0.lock().state = state;
    }

    /// How many bytes there is room for.
    fn room(&self) -> usize {
        let total = self.0.lock().total_bytes.load(Ordering::Relaxed);
        MAX_REQUEST_BODY_BYTES.saturating_sub(total)
    }
}

impl Collected {
    fn release(&self) {
        self.total_bytes
            .fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.release();
    }
}

/// The guest's handle on a request's body.
#[derive(Debug)]
pub struct OutgoingBody {
    body: RequestBody,
    /// What the request's `content-length` promises.
    content_length: Option<u64>,
    has_stream: bool,
}

/// The stream that fills a request's body.
struct BodyWriter(RequestBody);

impl Pollable for BodyWriter {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(std::future::ready(()))
    }
}

fn too_large() -> StreamError {
    let code = ErrorCode::HttpRequestBodySize(Some(MAX_REQUEST_BODY_BYTES as u64));
    StreamError::LastOperationFailed(wasmtime::Error::new(BodyFailure {
        code,
        message: format!(
            "the bodies of requests that are open take more than {MAX_REQUEST_BODY_BYTES} bytes"
        ),
    }))
}

impl OutputStream for BodyWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.0.room() {
            return Err(too_large());
        }
        let mut collected = self.0.0.lock();
        if collected.state != BodyState::Open {
            return Err(StreamError::Closed);
        }
        collected.bytes.extend_from_slice(&bytes);
        collected
            .total_bytes
            .fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.0.room().min(WRITE_PERMIT_BYTES) {
            0 => Err(too_large()),
            room => Ok(room),
        }
    }
}

/// How long the parts of an exchange may take.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestOptions {
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    pub(super) between_bytes: Option<Duration>,
}

impl types::HostOutgoingRequest for HostState {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingRequest>> {
        let headers = self.take_http(headers)?.into_map();
        self.push_http(OutgoingRequest {
            method: Method::Get,
            scheme: None,
            authority: None,
            path_with_query: None,
            headers,
            body: None,
        })
    }

    fn body(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        let total_bytes = Arc::clone(&self.http.body_bytes);
        let request = self.table.get_mut(&request)?;
        if request.body.is_some() {
            return Ok(Err(()));
        }
        let content_length = match request.headers.get(http::header::CONTENT_LENGTH) {
            None => None,
            Some(value) => match value.to_str().ok().and_then(|text| text.parse().ok()) {
                Some(length) => Some(length),
                None => return Ok(Err(())),
            },
        };
        let body = RequestBody::new(total_bytes);
        request.body = Some(body.clone());
        let handle = OutgoingBody {
            body,
            content_length,
            has_stream: false,
        };
        self.push_http(handle).map(Ok)
    }

    fn method(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Method> {
        Ok(self.table.get(&request)?.method.clone())
    }

    fn set_method(
        &mut self,
        request: Resource<OutgoingRequest>,
        method: Method,
    ) -> wasmtime::Result<Result<(), ()>> {
        let request = self.table.get_mut(&request)?;
        let is_method = match &method {
            Method::Other(name) => http::Method::from_bytes(name.as_bytes()).is_ok(),
            _ => true,
        };
        Ok(set(is_method, &mut request.method, method))
    }

    fn path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.path_with_query.clone())
    }

    fn set_path_with_query(
        &mut self,
        request: Resource<OutgoingRequest>,
        path: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        let request = self.table.get_mut(&request)?;
        let is_path = path.as_ref().is_none_or(|path| {
            path.len() <= MAX_PATH_BYTES && path.parse::<http::uri::PathAndQuery>().is_ok()
        });
        Ok(set(is_path, &mut request.path_with_query, path))
    }

    fn scheme(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<Option<Scheme>> {
        Ok(self.table.get(&request)?.scheme.clone())
    }

    fn set_scheme(
        &mut self,
        request: Resource<OutgoingRequest>,
        scheme: Option<Scheme>,
    ) -> wasmtime::Result<Result<(), ()>> {
        let request = self.table.get_mut(&request)?;
        let is_known = !matches!(scheme, Some(Scheme::Other(_)));
        Ok(set(is_known, &mut request.scheme, scheme))
    }

    fn authority(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Option<String>> {
        Ok(self.table.get(&request)?.authority.clone())
    }

    fn set_authority(
        &mut self,
        request: Resource<OutgoingRequest>,
        authority: Option<String>,
    ) -> wasmtime::Result<Result<(), ()>> {
        let request = self.table.get_mut(&request)?;
        let is_authority = authority
            .as_ref()
            .is_none_or(|authority| authority.parse::<HttpAuthority>().is_ok());
        Ok(set(is_authority, &mut request.authority, authority))
    }

    fn headers(
        &mut self,
        request: Resource<OutgoingRequest>,
    ) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&request)?.headers.clone();
        self.push_http(Fields::immutable(headers))
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> wasmtime::Result<()> {
        self.take_http(request).map(|_| ())
    }
}

/// Sets a part of a request if it is one.
fn set<T>(is_valid: bool, part: &mut T, value: T) -> Result<(), ()> {
    if !is_valid {
        return Err(());
    }
    *part = value;
    Ok(())
}

impl types::HostOutgoingBody for HostState {
    fn write(
        &mut self,
        body: Resource<OutgoingBody>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let handle = self.table.get_mut(&body)?;
        if std::mem::replace(&mut handle.has_stream, true) {
            return Ok(Err(()));
        }
        let stream = BodyWriter(handle.body.clone());
        let stream = self
            .table
            .push_child(Box::new(stream) as DynOutputStream, &body)?;
        Ok(Ok(stream))
    }

    fn finish(
        &mut self,
        body: Resource<OutgoingBody>,
        trailers: Option<Resource<Fields>>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        let handle = self.take_http(body)?;
        if let Some(trailers) = trailers
            && !self.take_http(trailers)?.into_map().is_empty()
        {
            handle.body.end(BodyState::Dropped);
            let reason = "trailers are not supported".to_owned();
            return Ok(Err(ErrorCode::InternalError(Some(reason))));
        }
        let len = handle.body.len() as u64;
        if handle
            .content_length
            .is_some_and(|promised| promised != len)
        {
            handle.body.end(BodyState::Dropped);
            return Ok(Err(ErrorCode::HttpRequestBodySize(Some(len))));
        }
        handle.body.end(BodyState::Finished);
        Ok(Ok(()))
    }

    fn drop(&mut self, body: Resource<OutgoingBody>) -> wasmtime::Result<()> {
        self.take_http(body)?.body.end(BodyState::Dropped);
        Ok(())
    }
}

type Nanoseconds = monotonic_clock::Duration;

fn to_nanoseconds(duration: Option<Duration>) -> Option<Nanoseconds> {
    // They were made from as many.
    duration.map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

impl types::HostRequestOptions for HostState {
    fn new(&mut self) -> wasmtime::Result<Resource<RequestOptions>> {
        self.push_http(RequestOptions::default())
    }

    fn connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<Nanoseconds>> {
        Ok(to_nanoseconds(self.table.get(&options)?.connect))
    }

    fn set_connect_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        timeout: Option<Nanoseconds>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.connect = timeout.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<Nanoseconds>> {
        Ok(to_nanoseconds(self.table.get(&options)?.first_byte))
    }

    fn set_first_byte_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        timeout: Option<Nanoseconds>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.first_byte = timeout.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
    ) -> wasmtime::Result<Option<Nanoseconds>> {
        Ok(to_nanoseconds(self.table.get(&options)?.between_bytes))
    }

    fn set_between_bytes_timeout(
        &mut self,
        options: Resource<RequestOptions>,
        timeout: Option<Nanoseconds>,
    ) -> wasmtime::Result<Result<(), ()>> {
        self.table.get_mut(&options)?.between_bytes = timeout.map(Duration::from_nanos);
        Ok(Ok(()))
    }

    fn drop(&mut self, options: Resource<RequestOptions>) -> wasmtime::Result<()> {
        self.take_http(options).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_bodies_are_bounded_together() {
        let total: Arc<AtomicUsize> = Arc::default();
        let first = RequestBody::new(Arc::clone(&total));
        let mut first_writer = BodyWriter(first.clone());
        first_writer
            .write(vec![0; MAX_REQUEST_BODY_BYTES - 10].into())
            .unwrap();
        let mut second = BodyWriter(RequestBody::new(Arc::clone(&total)));
        assert_eq!(second.check_write().unwrap(), 10);
        assert!(second.write(vec![0; 11].into()).is_err());
        second.write(vec![0; 10].into()).unwrap();
        assert!(second.check_write().is_err());
        // What is sent, and what is dropped, makes room.
        assert_eq!(first.take().len(), MAX_REQUEST_BODY_BYTES - 10);
        assert_eq!(second.check_write().unwrap(), WRITE_PERMIT_BYTES);
        drop((first, first_writer, second));
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_finished_body_takes_nothing_more() {
        let body = RequestBody::new(Arc::default());
        let mut writer = BodyWriter(body.clone());
        body.end(BodyState::Finished);
        assert!(matches!(
            writer.write(vec![0].into()),
            Err(StreamError::Closed)
        ));
    }
}
