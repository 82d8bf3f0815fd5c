//! `wasi:io/streams`: stdout and stderr become log lines, stdin is at its end; none of these ever blocks.
//! The bodies of requests and responses are in `http/`; a read of a response's may block.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime::component::{Resource, ResourceTableError};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, OutputStream, Pollable, StreamError,
    StreamResult, bindings::sync, subscribe,
};

use super::super::host::{
    HostState,
    guest_log::{GuestLog, Stdio},
};

/// What a stream takes in one write.
const WRITE_PERMIT_BYTES: usize = 64 * 1024;

/// The boxed future that `async fn ready` of wasmtime-wasi's trait returns.
pub(super) type Ready<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// stdout or stderr.
struct LogStream {
    stdio: Stdio,
    log: Arc<Mutex<GuestLog>>,
}

impl Pollable for LogStream {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(std::future::ready(()))
    }
}

impl OutputStream for LogStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.lock().write(self.stdio, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_PERMIT_BYTES)
    }
}

impl HostState {
    pub(super) fn open_output(
        &mut self,
        stdio: Stdio,
    ) -> wasmtime::Result<Resource<DynOutputStream>> {
        let stream = LogStream {
            stdio,
            log: Arc::clone(&self.log),
        };
        Ok(self.table.push(Box::new(stream) as DynOutputStream)?)
    }
}

/// What a stream's function fails with when it names a stream that is not there.
fn no_stream(error: ResourceTableError) -> StreamError {
    StreamError::Trap(error.into())
}

impl sync::io::streams::Host for HostState {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<sync::io::streams::StreamError> {
        sync::io::streams::Host::convert_stream_error(&mut self.table, error)
    }
}

impl sync::io::streams::HostOutputStream for HostState {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        Ok(self
            .table
            .get_mut(&stream)
            .map_err(no_stream)?
            .check_write()? as u64)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.table
            .get_mut(&stream)
            .map_err(no_stream)?
            .write(bytes.into())
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.write(stream, bytes)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.table.get_mut(&stream).map_err(no_stream)?.flush()
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.flush(stream)
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        self.table
            .get_mut(&stream)
            .map_err(no_stream)?
            .write_zeroes(clamp(len))
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        self.write_zeroes(stream, len)
    }

    fn splice(
        &mut self,
        target: Resource<DynOutputStream>,
        source: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        let permit = self.check_write(Resource::new_borrow(target.rep()))?;
        let bytes = sync::io::streams::HostInputStream::read(self, source, len.min(permit))?;
        let len = bytes.len() as u64;
        self.write(target, bytes)?;
        Ok(len)
    }

    fn blocking_splice(
        &mut self,
        target: Resource<DynOutputStream>,
        source: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        self.splice(target, source, len)
    }

    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl sync::io::streams::HostInputStream for HostState {
    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        Ok(self
            .table
            .get_mut(&stream)
            .map_err(no_stream)?
            .read(clamp(len))?
            .into())
    }

    fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<Vec<u8>> {
        self.read(stream, len)
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        Ok(self
            .table
            .get_mut(&stream)
            .map_err(no_stream)?
            .skip(clamp(len))? as u64)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        self.skip(stream, len)
    }

    fn subscribe(
        &mut self,
        stream: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, stream)
    }

    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

fn clamp(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
