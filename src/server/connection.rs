//! One connection's life: handshake, choice of protocol, requests, end.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, rt};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::base::timer::LazyTimer;
use crate::config::model::ListenerLimits;
use crate::contract::request::TlsFacts;
use crate::pipeline::connection::{Connection, ConnectionControl};
use crate::pipeline::framing::HeadLimits;
use crate::pipeline::{self, Worker};
use crate::runtime::tls;
use crate::server::accept::Accepted;
use crate::server::http1_guard::{Http1Guard, Http1Limits};
use crate::server::http2_guard::Http2Guard;

const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// More fields than this need the library to allocate; the byte guard has the listener's own bound.
const LIBRARY_HEADERS: usize = 100;
/// What one HTTP/2 stream, and all streams of a connection together, may have in flight towards the gateway.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Response bytes buffered for a stream whose client does not read.
const SEND_BUFFER: usize = 64 * 1024;

/// Tells connections that the worker is draining.
pub(crate) type Drain = watch::Receiver<bool>;

/// The protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Serves an accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted, drain: Drain) {
    let local = worker.local();
    let Some(listener) = local.runtime().listener(accepted.listener) else { return };
    let config = listener.config.clone();
    let acceptor = listener.tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(tls)));
    let series = local.listener_series(accepted.listener);
    drop(local);
    if let Some(series) = series {
        worker.metrics.connection_opened(series);
    }
    let Accepted { stream, peer, listener, open } = accepted;
    let ended = async {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let connection =
            |tls| Rc::new(Connection { listener, peer, tls, control: ConnectionControl::default() });
        let Some(acceptor) = acceptor else {
            return plaintext(&worker, stream, connection(None), config.protocols, &config.limits, drain)
                .await;
        };
        let shaken = timeout(config.limits.handshake_timeout, acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = shaken else {
            if let Some(series) = series {
                worker.metrics.handshake_failed(series);
            }
            return Ok(());
        };
        if let Some(series) = series {
            worker.metrics.handshake_completed(series);
        }
        let (_, session) = stream.get_ref();
        let protocol = match session.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            Some(_) | None if config.protocols.http1 => Protocol::Http1,
            Some(_) | None => return Ok(()),
        };
        let facts: Arc<TlsFacts> = Arc::new(tls::facts(session));
        let connection = connection(Some(facts));
        speak(&worker, stream, Vec::new(), connection, protocol, &config.limits, drain).await
    };
    let outcome: io::Result<()> = ended.await;
    if let Err(error) = outcome {
        tracing::debug!(client.ip = %peer.ip(), %error, "Connection ended early");
    }
    drop(open);
    if let Some(series) = series {
        worker.metrics.connection_closed(series);
    }
}

/// On plaintext, HTTP/2 is known by its preface (RFC 9113 section 3.3).
async fn plaintext(
    worker: &Rc<Worker>,
    mut stream: TcpStream,
    connection: Rc<Connection>,
    protocols: crate::config::model::Protocols,
    limits: &ListenerLimits,
    drain: Drain,
) -> io::Result<()> {
    let mut first = Vec::new();
    let mut protocol = if protocols.http1 { Protocol::Http1 } else { Protocol::Http2 };
    if protocols.http1 && protocols.http2 {
        let patience = Instant::now() + limits.header_timeout;
        let mut byte = [0; HTTP2_PREFACE.len()];
        while HTTP2_PREFACE.starts_with(&first) && first.len() < HTTP2_PREFACE.len() {
            let space = byte.get_mut(first.len()..).unwrap_or_default();
            let Ok(read) = tokio::time::timeout_at(patience, stream.read(space)).await else { return Ok(()) };
            let read = read?;
            if read == 0 {
                return Ok(());
            }
            first.extend_from_slice(space.get(..read).unwrap_or_default());
        }
        if first == HTTP2_PREFACE {
            protocol = Protocol::Http2;
        }
    }
    speak(worker, stream, first, connection, protocol, limits, drain).await
}

async fn speak<S>(
    worker: &Rc<Worker>,
    stream: S,
    first: Vec<u8>,
    connection: Rc<Connection>,
    protocol: Protocol,
    limits: &ListenerLimits,
    drain: Drain,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    match protocol {
        Protocol::Http1 => speak_http1(worker, stream, &first, connection, limits, drain).await,
        Protocol::Http2 => speak_http2(worker, stream, first, connection, limits, drain).await,
    }
}

async fn speak_http1<S>(
    worker: &Rc<Worker>,
    stream: S,
    first: &[u8],
    connection: Rc<Connection>,
    limits: &ListenerLimits,
    mut drain: Drain,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let head = HeadLimits { bytes: limits.header_bytes.as_usize(), fields: limits.headers };
    let guarded = Http1Guard::new(
        stream,
        first,
        Rc::clone(&connection),
        Http1Limits {
            head,
            header_timeout: limits.header_timeout,
            write_timeout: limits.body_timeout,
            idle_timeout: limits.idle_timeout,
        },
    );
    let service = service_fn(|request: Request<Incoming>| {
        let answered = pipeline::serve(Rc::clone(worker), Rc::clone(&connection), request);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let mut builder = http1::Builder::new();
    // The guard has the timeouts and the bounds; the library must not be tighter.
    builder.header_read_timeout(None).max_buf_size(head.bytes.saturating_add(16 * 1024).max(64 * 1024));
    if limits.headers > LIBRARY_HEADERS {
        builder.max_headers(limits.headers);
    }
    let mut served = builder.serve_connection(guarded, service);
    let ended = tokio::select! {
        ended = &mut served => ended,
        _ = drain.wait_for(|draining| *draining) => {
            Pin::new(&mut served).graceful_shutdown();
            (&mut served).await
        }
    };
    if let Some(tunnel) = connection.control.take_tunnel() {
        let parts = served.into_parts();
        let (stream, held_back) = parts.io.into_parts();
        let first = [&*parts.read_buf, &held_back].concat();
        tunnel.run(stream, &first).await;
    }
    ended.map_err(io::Error::other)
}

async fn speak_http2<S>(
    worker: &Rc<Worker>,
    stream: S,
    first: Vec<u8>,
    connection: Rc<Connection>,
    limits: &ListenerLimits,
    mut drain: Drain,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let guarded = Http2Guard::new(stream, first, limits.body_timeout);
    let service = service_fn(|request: Request<Incoming>| {
        let answered = pipeline::serve(Rc::clone(worker), Rc::clone(&connection), request);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes.bytes()).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let mut served = pin!(builder.serve_connection(guarded, service));
    let mut watch = Watch::new(limits);
    let mut draining = pin!(drain.wait_for(|draining| *draining));
    let mut closing = false;
    poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = served.as_mut().poll(context) {
                return Poll::Ready(ended.map_err(io::Error::other));
            }
            if closing {
                return watch.poll_stalled(&connection, context);
            }
            if draining.as_mut().poll(context).is_ready() || watch.poll_idle(&connection, context).is_ready()
            {
                served.as_mut().graceful_shutdown();
                closing = true;
                continue;
            }
            return watch.poll_stalled(&connection, context);
        }
    })
    .await
}

/// The clocks of an HTTP/2 connection: it must make a request in time, and its streams must be read.
#[derive(Debug)]
struct Watch {
    started: Instant,
    header_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: Duration,
    idle_timer: LazyTimer,
    stall_timer: LazyTimer,
}

// === impl Watch ===

impl Watch {
    fn new(limits: &ListenerLimits) -> Self {
        Self {
            started: Instant::now(),
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            stall_timeout: limits.body_timeout,
            idle_timer: LazyTimer::default(),
            stall_timer: LazyTimer::default(),
        }
    }

    fn poll_idle(&mut self, connection: &Connection, context: &mut Context<'_>) -> Poll<()> {
        if connection.control.is_busy() {
            return Poll::Pending;
        }
        let deadline = match connection.control.idle_since() {
            Some(since) => since + self.idle_timeout,
            None => self.started + self.header_timeout,
        };
        self.idle_timer.poll_expired(deadline, context)
    }

    /// A client that opens no window for a response's bytes holds them, and the upstream, for ever: it is cut off.
    fn poll_stalled(&mut self, connection: &Connection, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(oldest) = connection.control.oldest_unread() else { return Poll::Pending };
        match self.stall_timer.poll_expired(oldest + self.stall_timeout, context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Runs the library's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F> rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
