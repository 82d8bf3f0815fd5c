//! The client that all plugins of a process share: connections, TLS, time limits, and what its errors
//! mean to a guest.
//!
//! Certificates are held against what the system trusts (on Linux `/etc/ssl`, or what `SSL_CERT_FILE`
//! and `SSL_CERT_DIR` name).

use std::{io, time::Duration};

use ureq::{
    Agent, Body, Error, Timeout,
    config::AutoHeaderValue,
    http::{Request, Response},
    tls::{RootCerts, TlsConfig},
    unversioned::transport::{
        ConnectionDetails, Connector, RustlsConnector, TcpConnector, Transport,
    },
};

use super::{
    bindings::wasi::http::types::{DnsErrorPayload, ErrorCode, TlsAlertReceivedPayload},
    resolver::CachingResolver,
};

/// Most connections that are kept for further requests, and most of them to one host.
const MAX_IDLE_CONNECTIONS: usize = 512;
const MAX_IDLE_CONNECTIONS_PER_HOST: usize = 256;
/// How long a connection is kept for further requests: less than most services keep theirs.
const MAX_IDLE_AGE: Duration = Duration::from_secs(15);
/// Longest head of a response.
const MAX_RESPONSE_HEAD_BYTES: usize = 32 * 1024;
/// Buffers of a connection; a response's head must fit.
const INPUT_BUFFER_BYTES: usize = 48 * 1024;
const OUTPUT_BUFFER_BYTES: usize = 16 * 1024;

/// How long an exchange may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// All of it, the response's body included.
    pub(super) total: Duration,
    /// Looking up the host's name, and connecting.
    pub(super) connect: Option<Duration>,
    /// From the request's end to the response's head.
    pub(super) first_byte: Option<Duration>,
    /// Each read.
    pub(super) between_bytes: Option<Duration>,
}

/// Sends requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::plugin) struct HttpClient {
    agent: Agent,
}

impl HttpClient {
    pub(in crate::plugin) fn new() -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .accept(AutoHeaderValue::None)
            .accept_encoding(AutoHeaderValue::None)
            .max_response_header_size(MAX_RESPONSE_HEAD_BYTES)
            .input_buffer_size(INPUT_BUFFER_BYTES)
            .output_buffer_size(OUTPUT_BUFFER_BYTES)
            .max_idle_connections(MAX_IDLE_CONNECTIONS)
            .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS_PER_HOST)
            .max_idle_age(MAX_IDLE_AGE)
            .build();
        let connector = ().chain(TcpConnector::default()).chain(Tls::default());
        Self {
            agent: Agent::with_parts(config, connector, CachingResolver::default()),
        }
    }

    /// Sends a request and waits for the response's head.
    pub(super) fn send(
        &self,
        request: Request<Option<Vec<u8>>>,
        timeouts: &Timeouts,
    ) -> Result<Response<Body>, Error> {
        let (head, body) = request.into_parts();
        match body {
            Some(bytes) => self.run(Request::from_parts(head, bytes), timeouts),
            None => self.run(Request::from_parts(head, ()), timeouts),
        }
    }

    fn run(
        &self,
        request: Request<impl ureq::AsSendBody>,
        timeouts: &Timeouts,
    ) -> Result<Response<Body>, Error> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(timeouts.total))
            .timeout_resolve(timeouts.connect)
            .timeout_connect(timeouts.connect)
            .timeout_recv_response(timeouts.first_byte)
            .timeout_per_read(timeouts.between_bytes)
            .build();
        self.agent.run(request)
    }
}

/// `ureq`'s connector for TLS, always with the agent's configuration. A request with a time limit of
/// its own would else make its own TLS configuration for each connection, and so read the system's
/// certificates each time.
#[derive(Debug, Default)]
struct Tls(RustlsConnector);

impl<In: Transport> Connector<In> for Tls {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let details = ConnectionDetails {
            uri: details.uri,
            addrs: details.addrs.clone(),
            config: details.config,
            request_level: false,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained)
    }
}

/// What an error means to a guest.
pub(super) fn error_code(error: &Error) -> ErrorCode {
    match error {
        Error::Timeout(timeout) => match timeout {
            Timeout::Resolve => ErrorCode::DnsTimeout,
            Timeout::Connect => ErrorCode::ConnectionTimeout,
            Timeout::SendRequest | Timeout::SendBody | Timeout::PerWrite => {
                ErrorCode::ConnectionWriteTimeout
            }
            Timeout::PerRead => ErrorCode::ConnectionReadTimeout,
            _ => ErrorCode::HttpResponseTimeout,
        },
        Error::HostNotFound => ErrorCode::DnsError(DnsErrorPayload {
            rcode: None,
            info_code: None,
        }),
        Error::Io(error) => io_error_code(error),
        Error::Protocol(_) => ErrorCode::HttpProtocolError,
        Error::Http(_) | Error::BadUri(_) => ErrorCode::HttpRequestUriInvalid,
        Error::LargeResponseHeader(..) => {
            ErrorCode::HttpResponseHeaderSectionSize(Some(MAX_RESPONSE_HEAD_BYTES as u32))
        }
        Error::Tls(_) | Error::TlsRequired => ErrorCode::TlsProtocolError,
        other => ErrorCode::InternalError(Some(other.to_string())),
    }
}

fn io_error_code(error: &io::Error) -> ErrorCode {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => ErrorCode::ConnectionRefused,
        Kind::TimedOut | Kind::WouldBlock => ErrorCode::ConnectionTimeout,
        Kind::ConnectionReset
        | Kind::ConnectionAborted
        | Kind::BrokenPipe
        | Kind::NotConnected
        | Kind::UnexpectedEof => ErrorCode::ConnectionTerminated,
        Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::AddrNotAvailable => ErrorCode::DestinationUnavailable,
        // TLS reports its errors like this; their types would need a dependency of our own.
        Kind::InvalidData => {
            let text = error.to_string();
            if text.contains("certificate") && !text.contains("alert") {
                ErrorCode::TlsCertificateError
            } else if text.contains("alert") {
                ErrorCode::TlsAlertReceived(TlsAlertReceivedPayload {
                    alert_id: None,
                    alert_message: Some(text),
                })
            } else {
                ErrorCode::TlsProtocolError
            }
        }
        _ => ErrorCode::InternalError(Some(error.to_string())),
    }
}
