//! `wasi:http/types`: a response that is awaited, one that has come, and its body.

use std::{io::Read, sync::Arc};

use bytes::Bytes;
use ureq::{BodyReader, http::HeaderMap};
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynInputStream, DynPollable, InputStream, Pollable, StreamError, StreamResult, subscribe,
};

use super::{
    super::{
        super::{
            host::{HostFault, HostState},
            slot::Outside,
        },
        streams::Ready,
    },
    BodyFailure, MAX_RESPONSE_BODY_BYTES, PREFETCH_BYTES,
    bindings::wasi::http::types::{self, ErrorCode},
    client,
    exchange::Prepared,
    fields::Fields,
};

/// A response that may not be there yet.
pub enum FutureResponse {
    /// The exchange has not been run.
    Pending(Box<Prepared>),
    /// It has.
    Done(Box<Result<IncomingResponse, ErrorCode>>),
    /// The guest has its outcome.
    Taken,
}

impl Pollable for FutureResponse {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        // Not used: `poll` runs exchanges itself.
        Box::pin(std::future::ready(()))
    }
}

/// A response.
pub struct IncomingResponse {
    status: u16,
    headers: HeaderMap,
    /// None once the guest has asked for it.
    body: Option<ResponseBody>,
}

impl IncomingResponse {
    /// Takes over a response and reads the start of its body. Blocks.
    pub(super) fn new(response: ureq::http::Response<ureq::Body>, outside: Arc<Outside>) -> Self {
        let (head, body) = response.into_parts();
        let mut body = ResponseBody {
            start: Bytes::new(),
            rest: Some(body.into_reader()),
            failure: None,
            read_bytes: 0,
            outside,
        };
        body.prefetch();
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: Some(body),
        }
    }
}

/// A response's body.
struct ResponseBody {
    /// What has been read and is not with the guest.
    start: Bytes,
    /// What has not been read; none at the end and after a failure.
    rest: Option<BodyReader<'static>>,
    /// Why there is no more to read; told once what was read is with the guest.
    failure: Option<BodyFailure>,
    /// What has been read so far.
    read_bytes: u64,
    outside: Arc<Outside>,
}

impl ResponseBody {
    /// Reads on until there are `len` bytes, or no more. Blocks.
    fn read_on(&mut self, len: usize, is_enough: impl Fn(usize) -> bool) {
        let Some(reader) = &mut self.rest else {
            return;
        };
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
            match reader.read(room) {
                Ok(0) => {
                    self.rest = None;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) => {
                    let error = ureq::Error::from(error);
                    self.failure = Some(BodyFailure {
                        code: client::error_code(&error),
                        message: format!("the response broke off: {error}"),
                    });
                    self.rest = None;
                    break;
                }
            }
            if is_enough(filled) {
                break;
            }
        }
        bytes.truncate(filled);
        self.read_bytes += filled as u64;
        self.start = bytes.into();
        if self.read_bytes > MAX_RESPONSE_BODY_BYTES {
            // The connection goes with it: nobody would read the rest.
            self.rest = None;
            self.start = Bytes::new();
            self.failure = Some(BodyFailure {
                code: ErrorCode::HttpResponseBodySize(Some(MAX_RESPONSE_BODY_BYTES)),
                message: format!(
                    "the response's body has more than {MAX_RESPONSE_BODY_BYTES} bytes"
                ),
            });
        }
    }

    /// Reads the start of the body. A small one is whole then, and its connection free for others.
    fn prefetch(&mut self) {
        self.read_on(PREFETCH_BYTES, |_| false);
    }
}

impl Pollable for ResponseBody {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        // A read blocks, no longer than the response may take.
        Box::pin(std::future::ready(()))
    }
}

impl InputStream for ResponseBody {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        if self.start.is_empty() && self.rest.is_some() {
            let outside = Arc::clone(&self.outside);
            outside.run(|| self.read_on(size.min(PREFETCH_BYTES), |_| true));
        }
        if !self.start.is_empty() {
            return Ok(self.start.split_to(size.min(self.start.len())));
        }
        match self.failure.take() {
            Some(failure) => Err(StreamError::LastOperationFailed(wasmtime::Error::new(
                failure,
            ))),
            None => Err(StreamError::Closed),
        }
    }
}

/// The guest's handle on a response's body; the body is gone once it has its stream.
pub struct IncomingBody(Option<ResponseBody>);

/// The trailers of a response, of which there are none.
pub struct FutureTrailers {
    is_taken: bool,
}

impl Pollable for FutureTrailers {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(std::future::ready(()))
    }
}

impl types::HostFutureIncomingResponse for HostState {
    fn subscribe(
        &mut self,
        response: Resource<FutureResponse>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        let rep = response.rep();
        let pollable = subscribe(&mut self.table, response)?;
        self.http.waits.insert(pollable.rep(), rep);
        Ok(pollable)
    }

    fn get(
        &mut self,
        response: Resource<FutureResponse>,
    ) -> wasmtime::Result<Option<Result<Result<Resource<IncomingResponse>, ErrorCode>, ()>>> {
        // Not "none" until somebody polls: that would be a loop without end for who asks again and again.
        self.run_exchange(&response)?;
        let outcome = self.table.get_mut(&response)?;
        match std::mem::replace(outcome, FutureResponse::Taken) {
            FutureResponse::Done(outcome) => Ok(Some(Ok(match *outcome {
                Ok(response) => Ok(self.push_http(response)?),
                Err(code) => Err(code),
            }))),
            FutureResponse::Pending(_) | FutureResponse::Taken => Ok(Some(Err(()))),
        }
    }

    fn drop(&mut self, response: Resource<FutureResponse>) -> wasmtime::Result<()> {
        self.take_http(response).map(|_| ())
    }
}

impl types::HostIncomingResponse for HostState {
    fn status(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status)
    }

    fn headers(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.clone();
        self.push_http(Fields::immutable(headers))
    }

    fn consume(
        &mut self,
        response: Resource<IncomingResponse>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        match self.table.get_mut(&response)?.body.take() {
            Some(body) => self.push_http(IncomingBody(Some(body))).map(Ok),
            None => Ok(Err(())),
        }
    }

    fn drop(&mut self, response: Resource<IncomingResponse>) -> wasmtime::Result<()> {
        self.take_http(response).map(|_| ())
    }
}

impl types::HostIncomingBody for HostState {
    fn stream(
        &mut self,
        body: Resource<IncomingBody>,
    ) -> wasmtime::Result<Result<Resource<DynInputStream>, ()>> {
        let Some(stream) = self.table.get_mut(&body)?.0.take() else {
            return Ok(Err(()));
        };
        let stream = Box::new(stream) as DynInputStream;
        Ok(Ok(self.table.push_child(stream, &body)?))
    }

    fn finish(
        &mut self,
        body: Resource<IncomingBody>,
    ) -> wasmtime::Result<Resource<FutureTrailers>> {
        self.take_http(body)?;
        self.push_http(FutureTrailers { is_taken: false })
    }

    fn drop(&mut self, body: Resource<IncomingBody>) -> wasmtime::Result<()> {
        self.take_http(body).map(|_| ())
    }
}

impl types::HostFutureTrailers for HostState {
    fn subscribe(
        &mut self,
        trailers: Resource<FutureTrailers>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, trailers)
    }

    fn get(
        &mut self,
        trailers: Resource<FutureTrailers>,
    ) -> wasmtime::Result<Option<Result<Result<Option<Resource<Fields>>, ErrorCode>, ()>>> {
        let is_taken = &mut self.table.get_mut(&trailers)?.is_taken;
        Ok(Some(match std::mem::replace(is_taken, true) {
            false => Ok(Ok(None)),
            true => Err(()),
        }))
    }

    fn drop(&mut self, trailers: Resource<FutureTrailers>) -> wasmtime::Result<()> {
        self.take_http(trailers).map(|_| ())
    }
}

impl HostState {
    /// Runs an awaited response's exchange, unless it has been run. Blocks.
    ///
    /// # Errors
    /// [`HostFault::Deadline`] when there is no time left for it.
    pub(in crate::plugin::wasi) fn run_exchange(
        &mut self,
        response: &Resource<FutureResponse>,
    ) -> wasmtime::Result<()> {
        let future = self.table.get_mut(response)?;
        if !matches!(future, FutureResponse::Pending(_)) {
            return Ok(());
        }
        let FutureResponse::Pending(prepared) = std::mem::replace(future, FutureResponse::Taken)
        else {
            return Ok(());
        };
        let Some(left) = self.call.time_for_waits() else {
            return Err(wasmtime::Error::new(HostFault::Deadline));
        };
        let outcome = self.exchange(*prepared, left);
        *self.table.get_mut(response)? = FutureResponse::Done(Box::new(outcome));
        Ok(())
    }
}
