//! The half of `wasi:http/types` that is for servers. A component may import it along with the rest, and
//! can call none of it: it has no request to start from.

use wasmtime::component::Resource;

use super::{
    super::super::host::{HostFault, HostState},
    bindings::wasi::http::types::{
        self, ErrorCode, IncomingRequest, Method, OutgoingResponse, ResponseOutparam, Scheme,
    },
    fields::Fields,
    request::OutgoingBody,
    response::IncomingBody,
};

fn denied<T>() -> wasmtime::Result<T> {
    Err(wasmtime::Error::new(HostFault::Denied(
        "wasi:http/incoming-handler",
    )))
}

impl types::HostIncomingRequest for HostState {
    fn method(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Method> {
        denied()
    }

    fn path_with_query(
        &mut self,
        _: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Option<String>> {
        denied()
    }

    fn scheme(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Option<Scheme>> {
        denied()
    }

    fn authority(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Option<String>> {
        denied()
    }

    fn headers(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<Resource<Fields>> {
        denied()
    }

    fn consume(
        &mut self,
        _: Resource<IncomingRequest>,
    ) -> wasmtime::Result<Result<Resource<IncomingBody>, ()>> {
        denied()
    }

    fn drop(&mut self, _: Resource<IncomingRequest>) -> wasmtime::Result<()> {
        denied()
    }
}

impl types::HostOutgoingResponse for HostState {
    fn new(&mut self, _: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingResponse>> {
        denied()
    }

    fn status_code(&mut self, _: Resource<OutgoingResponse>) -> wasmtime::Result<u16> {
        denied()
    }

    fn set_status_code(
        &mut self,
        _: Resource<OutgoingResponse>,
        _: u16,
    ) -> wasmtime::Result<Result<(), ()>> {
        denied()
    }

    fn headers(&mut self, _: Resource<OutgoingResponse>) -> wasmtime::Result<Resource<Fields>> {
        denied()
    }

    fn body(
        &mut self,
        _: Resource<OutgoingResponse>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        denied()
    }

    fn drop(&mut self, _: Resource<OutgoingResponse>) -> wasmtime::Result<()> {
        denied()
    }
}

impl types::HostResponseOutparam for HostState {
    fn set(
        &mut self,
        _: Resource<ResponseOutparam>,
        _: Result<Resource<OutgoingResponse>, ErrorCode>,
    ) -> wasmtime::Result<()> {
        denied()
    }

    fn send_informational(
        &mut self,
        _: Resource<ResponseOutparam>,
        _: u16,
        _: Resource<Fields>,
    ) -> wasmtime::Result<Result<(), ErrorCode>> {
        denied()
    }

    fn drop(&mut self, _: Resource<ResponseOutparam>) -> wasmtime::Result<()> {
        denied()
    }
}
