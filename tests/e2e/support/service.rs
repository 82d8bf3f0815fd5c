//! A small HTTP service for plugins to call: it keeps connections alive, remembers every call by its
//! idempotency key, and answers as a test wants, also badly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request to the service.
pub struct Call {
    /// Its body.
    pub body: String,
    /// How many calls with its `Idempotency-Key` there have been, this one included.
    pub count: usize,
}

/// What the service does about a call.
pub enum Answer {
    /// Answers with this status and body.
    Status(u16, String),
    /// Answers with this status and these header lines, and no body.
    Headers(u16, &'static str),
    /// Leads elsewhere.
    Redirect(String),
    /// Never answers.
    Hang,
    /// Answers with a body that never ends.
    Endless,
    /// Closes the connection.
    Close,
}

type Handler = dyn Fn(&Call) -> Answer + Send + Sync;

/// A running service. It ends when this is dropped.
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Box<Handler>,
    /// The bodies of the calls with each key.
    calls: Mutex<BTreeMap<String, Vec<String>>>,
    connections: AtomicUsize,
    is_over: AtomicBool,
}

impl Service {
    /// Starts a service on a port of its own.
    pub fn start(handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(handler, None)
    }

    /// Starts a service that speaks TLS, as `localhost`, with a certificate of an authority that
    /// nobody trusts: `tls/ca.pem`.
    pub fn start_tls(handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_with(handler, Some(tls_config()))
    }

    fn start_with(
        handler: impl Fn(&Call) -> Answer + Send + Sync + 'static,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            calls: Mutex::default(),
            connections: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        });
        let in_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if in_thread.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, tls) = (Arc::clone(&in_thread), tls.clone());
                shared.connections.fetch_add(1, Ordering::SeqCst);
                // A connection that breaks is the other side's business.
                std::thread::spawn(move || {
                    let Ok(stream) = connection else { return };
                    let _ = match tls {
                        None => shared.serve(stream),
                        Some(config) => {
                            let session = ServerConnection::new(config).unwrap();
                            shared.serve(StreamOwned::new(session, stream))
                        }
                    };
                });
            }
        });
        Self { address, shared }
    }

    /// Its host and port.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/calls?x=1", self.address)
    }

    /// The bodies of the calls so far, by idempotency key.
    pub fn calls(&self) -> BTreeMap<String, Vec<String>> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// How many calls there have been.
    pub fn call_count(&self) -> usize {
        self.calls().values().map(Vec::len).sum()
    }

    /// How many connections there have been.
    pub fn connection_count(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

fn tls_config() -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../tls/localhost.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tls/localhost.key"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.unwrap()], key.unwrap());
    Arc::new(config.unwrap())
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream);
        while let Some((key, body)) = read_request(&mut reader)? {
            let count = {
                let mut calls = self.calls.lock().unwrap();
                let bodies = calls.entry(key).or_default();
                bodies.push(body.clone());
                bodies.len()
            };
            let answer = (self.handler)(&Call { body, count });
            let stream = reader.get_mut();
            let answer = match answer {
                Answer::Status(status, body) => {
                    let length = body.len();
                    format!("{status} Status\r\ncontent-length: {length}\r\n\r\n{body}")
                }
                Answer::Headers(status, headers) => {
                    format!("{status} Status\r\n{headers}\r\ncontent-length: 0\r\n\r\n")
                }
                Answer::Redirect(location) => {
                    format!("307 Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")
                }
                Answer::Hang => {
                    self.hang();
                    return Ok(());
                }
                Answer::Endless => return self.send_without_end(stream),
                Answer::Close => return Ok(()),
            };
            // In one piece: the network holds a second small one back.
            stream.write_all(format!("HTTP/1.1 {answer}").as_bytes())?;
            stream.flush()?;
        }
        Ok(())
    }

    fn send_without_end(&self, stream: &mut impl Write) -> std::io::Result<()> {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        while !self.is_over.load(Ordering::SeqCst) {
            stream.write_all(chunk.as_bytes())?;
        }
        Ok(())
    }

    fn hang(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The next request's idempotency key and body; `None` at the connection's end.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<(String, String)>> {
    let mut key = String::new();
    let mut length = 0;
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    assert!(line.ends_with(" HTTP/1.1\r\n"), "{line:?}");
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "idempotency-key" => key = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().unwrap(),
            "transfer-encoding" => panic!("the body's length is known: {line}"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((key, String::from_utf8(body).unwrap())))
}
