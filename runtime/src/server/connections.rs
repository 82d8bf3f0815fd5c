//! Bounds on connections. Beyond their number, some new ones wait until one is closed, or, after a while, are; all others
//! are closed at once, since each takes a file descriptor, without which the store cannot go on. Those whose client has
//! gone, or takes nothing of its answer, are closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::middleware::AddExtension;
use axum_server::accept::Accept;
use futures_util::task::AtomicWaker;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tower::Layer as _;

use crate::storage::open_files;

/// How long a connection waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that may wait for their turn, unless files are few.
const MAX_WAITING: usize = 1_024;

/// How long clients may do nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// Until the headers of a request are there.
    pub(super) headers: Duration,
    /// While there is something of an answer to take.
    pub(super) answer: Duration,
    /// Until one that speaks HTTP/2 is asked whether it is still there.
    pub(super) ping: Duration,
    /// Until it has answered that.
    pub(super) pong: Duration,
    /// Until the system asks it, whatever it speaks.
    pub(super) keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(20),
            keep_alive: Duration::from_secs(60),
        }
    }
}

/// A connection, as those know it who answer on it.
#[derive(Debug, Default)]
pub(super) struct Connection {
    is_given_up: AtomicBool,
    reader: AtomicWaker,
}

impl Connection {
    /// Closes it, whatever is under way.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
        self.reader.wake();
    }

    fn check(&self) -> io::Result<()> {
        match self.is_given_up.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
        }
    }
}

/// Accepts as many connections as may be open.
#[derive(Clone)]
pub(super) struct Bounded {
    connections: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    timeouts: Timeouts,
}

impl Bounded {
    /// As many connections, and no more than leave files to the store.
    pub(super) fn new(connections: usize, timeouts: Timeouts) -> Self {
        let most = open_files::max_connections();
        if most < connections {
            tracing::info!(
                asked = connections,
                max_connections = most,
                "the limit of open files bounds connections"
            );
        }
        Self {
            connections: Arc::new(Semaphore::new(connections.min(most))),
            waiting: Arc::new(Semaphore::new(MAX_WAITING.min(most / 4))),
            timeouts,
        }
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }
}

impl<S: Send + 'static> Accept<TcpStream, S> for Bounded {
    type Stream = Counted;
    type Service = AddExtension<S, Arc<Connection>>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Self {
            connections,
            waiting,
            timeouts,
        } = self.clone();
        Box::pin(async move {
            stream.set_nodelay(true)?;
            let keep_alive = TcpKeepalive::new().with_time(timeouts.keep_alive);
            SockRef::from(&stream).set_tcp_keepalive(&keep_alive)?;
            let permit = match Arc::clone(&connections).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    let _waiting = waiting.try_acquire().map_err(io::Error::other)?;
                    let permit = tokio::time::timeout(PATIENCE, connections.acquire_owned()).await;
                    permit
                        .map_err(io::Error::other)?
                        .map_err(io::Error::other)?
                }
            };
            let connection = Arc::<Connection>::default();
            let service = Extension(Arc::clone(&connection)).layer(service);
            let counted = Counted {
                stream,
                connection,
                stalled: None,
                max_stall: timeouts.answer,
                _permit: permit,
            };
            Ok((counted, service))
        })
    }
}

/// A connection that counts while it is open.
pub(super) struct Counted {
    stream: TcpStream,
    connection: Arc<Connection>,
    /// Ends when the client has taken nothing for too long, while it does not.
    stalled: Option<Pin<Box<Sleep>>>,
    max_stall: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    /// What became of a write, which fails if none has gone on for too long.
    fn unless_stalled(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.connection.check()?;
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let max_stall = self.max_stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(max_stall)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Whoever answers reads all the time, be it only to notice that the client has gone.
        self.connection.reader.register(context.waker());
        self.connection.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.unless_stalled(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.unless_stalled(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
