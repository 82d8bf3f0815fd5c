//! Sends requests through `wasi:http`.

use super::response::Response;
use super::url::Url;
use super::{Error, ErrorKind, Request};
use crate::bindings::http::wasi::http::outgoing_handler;
use crate::bindings::http::wasi::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method,
    OutgoingBody, OutgoingRequest, RequestOptions, Scheme, http_error_code,
};
use crate::bindings::http::wasi::io::streams::StreamError;

/// How much of a body is read at a time, in bytes.
const READ_BYTES: u64 = 64 * 1024;

/// Sends a request and reads the whole response.
pub(super) fn send(request: &Request, url: &Url<'_>) -> Result<Response, Error> {
    let outgoing = outgoing(request, url)?;
    let body = outgoing
        .body()
        .map_err(|()| invalid("its Content-Length is no number"))?;
    write(body, &request.body)?;
    let options = request.timeout.map(|timeout| {
        let options = RequestOptions::new();
        let timeout = u64::try_from(timeout.as_nanos()).ok();
        // What is not supported is left to the deadline.
        let _ = options.set_connect_timeout(timeout);
        let _ = options.set_first_byte_timeout(timeout);
        let _ = options.set_between_bytes_timeout(timeout);
        options
    });
    let response = outgoing_handler::handle(outgoing, options).map_err(to_error)?;
    read(&wait(&response)?)
}

fn outgoing(request: &Request, url: &Url<'_>) -> Result<OutgoingRequest, Error> {
    let fields = Fields::new();
    for (name, value) in &request.headers {
        fields
            .append(name, value)
            .map_err(|error| invalid(format!("the header `{name}` cannot be set: {error}")))?;
    }
    let outgoing = OutgoingRequest::new(fields);
    let method = match request.method.as_str() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        "TRACE" => Method::Trace,
        other => Method::Other(other.to_owned()),
    };
    let scheme = match url.is_https {
        true => Scheme::Https,
        false => Scheme::Http,
    };
    outgoing
        .set_method(&method)
        .map_err(|()| invalid("its method is none"))?;
    outgoing
        .set_scheme(Some(&scheme))
        .map_err(|()| invalid("its scheme is not supported"))?;
    outgoing
        .set_authority(Some(url.authority))
        .map_err(|()| invalid("its host is none"))?;
    outgoing
        .set_path_with_query(Some(&url.path))
        .map_err(|()| invalid("its path is none, or too long"))?;
    Ok(outgoing)
}

fn write(body: OutgoingBody, mut bytes: &[u8]) -> Result<(), Error> {
    if !bytes.is_empty() {
        let stream = body
            .write()
            .map_err(|()| invalid("its body cannot be written"))?;
        while !bytes.is_empty() {
            let permit = stream.check_write().map_err(stream_error)? as usize;
            if permit == 0 {
                stream.subscribe().block();
                continue;
            }
            let (now, later) = bytes.split_at(permit.min(bytes.len()));
            stream.write(now).map_err(stream_error)?;
            bytes = later;
        }
    }
    OutgoingBody::finish(body, None).map_err(to_error)
}

fn wait(response: &FutureIncomingResponse) -> Result<IncomingResponse, Error> {
    loop {
        if let Some(response) = response.get() {
            // The inner error is that somebody has taken the response already.
            return match response {
                Ok(response) => response.map_err(to_error),
                Err(()) => Err(Error::new(ErrorKind::Broken, "there is no response")),
            };
        }
        response.subscribe().block();
    }
}

fn read(response: &IncomingResponse) -> Result<Response, Error> {
    let incoming = response
        .consume()
        .map_err(|()| Error::new(ErrorKind::Broken, "the response has no body"))?;
    let body = read_body(&incoming)?;
    let mut whole = Response::new(response.status(), body);
    for (name, value) in response.headers().entries() {
        whole = whole.with_header(name, value);
    }
    Ok(whole)
}

fn read_body(incoming: &IncomingBody) -> Result<Vec<u8>, Error> {
    let stream = incoming
        .stream()
        .map_err(|()| Error::new(ErrorKind::Broken, "the response has no body"))?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(bytes) => body.extend_from_slice(&bytes),
            Err(StreamError::Closed) => return Ok(body),
            Err(error) => return Err(stream_error(error)),
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn stream_error(error: StreamError) -> Error {
    match error {
        StreamError::Closed => Error::new(ErrorKind::Broken, "the connection was closed"),
        StreamError::LastOperationFailed(error) => match http_error_code(&error) {
            Some(code) => to_error(code),
            None => Error::new(ErrorKind::Broken, error.to_debug_string()),
        },
    }
}

/// What the host says, in words.
fn to_error(code: ErrorCode) -> Error {
    let (kind, message) = match code {
        ErrorCode::HttpRequestDenied => (
            ErrorKind::Denied,
            "the pipeline does not allow this host: list it in `allow.http`".to_owned(),
        ),
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => (
            ErrorKind::Timeout,
            format!("no answer in time ({})", name(&code)),
        ),
        ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound => (
            ErrorKind::Connect,
            "the host's name has no address".to_owned(),
        ),
        ErrorCode::ConnectionRefused => {
            (ErrorKind::Connect, "the connection was refused".to_owned())
        }
        ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpProhibited
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionLimitReached => (
            ErrorKind::Connect,
            format!("the host cannot be reached ({})", name(&code)),
        ),
        ErrorCode::TlsCertificateError => (
            ErrorKind::Connect,
            "the host's certificate is not trusted".to_owned(),
        ),
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => (
            ErrorKind::Connect,
            format!("no secure connection ({code:?})"),
        ),
        ErrorCode::HttpRequestBodySize(Some(bytes)) => (
            ErrorKind::Invalid,
            format!("the request's body is too large, or not what its length says ({bytes} bytes)"),
        ),
        ErrorCode::HttpRequestMethodInvalid
        | ErrorCode::HttpRequestUriInvalid
        | ErrorCode::HttpRequestUriTooLong => (
            ErrorKind::Invalid,
            format!("it is no request that can be sent ({})", name(&code)),
        ),
        ErrorCode::HttpResponseBodySize(Some(bytes)) => (
            ErrorKind::TooLarge,
            format!("the response's body has more than the {bytes} bytes that one may have"),
        ),
        ErrorCode::HttpResponseHeaderSectionSize(Some(bytes)) => (
            ErrorKind::TooLarge,
            format!("the response's headers have more than the {bytes} bytes that they may have"),
        ),
        ErrorCode::ConnectionTerminated | ErrorCode::HttpResponseIncomplete => {
            (ErrorKind::Broken, "the connection broke off".to_owned())
        }
        ErrorCode::InternalError(Some(message)) => (ErrorKind::Broken, message),
        other => (ErrorKind::Broken, format!("the call failed ({other:?})")),
    };
    Error::new(kind, message)
}

/// A code without its type's name.
fn name(code: &ErrorCode) -> String {
    let text = format!("{code:?}");
    text.strip_prefix("ErrorCode::").unwrap_or(&text).to_owned()
}
