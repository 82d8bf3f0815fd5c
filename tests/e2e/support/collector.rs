//! A collector of OpenTelemetry traces: takes OTLP over HTTP, and keeps the spans.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// A collector that runs as long as the test's process.
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    /// Starts a collector on a port of its own.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::default();
        let shared = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                // A connection that breaks is the other side's business.
                std::thread::spawn(move || serve(stream.ok()?, &shared).ok());
            }
        });
        Self { address, received }
    }

    /// Its URL, as `--otlp-endpoint` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The spans so far, by the time at which they began.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let scopes = received.iter().flat_map(|it| &it.resource_spans);
        let scopes = scopes.flat_map(|it| &it.scope_spans);
        let mut spans: Vec<Span> = scopes.flat_map(|it| it.spans.clone()).collect();
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }

    /// The value of an attribute of whoever sent the first spans.
    pub fn resource(&self, name: &str) -> Option<String> {
        let received = self.received.lock().unwrap();
        let resource = received.first()?.resource_spans.first()?.resource.clone()?;
        let mut attributes = resource.attributes.into_iter();
        let found = attributes.find(|it| it.key == name)?;
        text(found.value?.value?)
    }
}

fn text(value: any_value::Value) -> Option<String> {
    match value {
        any_value::Value::StringValue(text) => Some(text),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// An attribute of a span, as text.
pub fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|it| it.key == name)?;
    text(found.value.clone()?.value?)
}

/// Bytes as an id is written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a span is named to others.
pub fn trace_parent(span: &Span) -> String {
    format!("00-{}-{}", hex(&span.trace_id), hex(&span.span_id))
}

fn serve(
    stream: TcpStream,
    received: &Mutex<Vec<ExportTraceServiceRequest>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        assert_eq!(line, "POST /v1/traces HTTP/1.1\r\n");
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "content-type" => assert_eq!(value.trim(), "application/x-protobuf"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
        received.lock().unwrap().push(request);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        reader.get_mut().write_all(answer)?;
    }
}
