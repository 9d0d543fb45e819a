//! One connection's life: handshake, choice of protocol, requests, end.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
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
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::base::timer::LazyTimer;
use crate::config::model::{ListenerLimits, Protocols};
use crate::contract::request::TlsFacts;
use crate::pipeline::connection::{Connection, ConnectionControl, Reading};
use crate::pipeline::framing::HeadLimits;
use crate::pipeline::{self, Worker};
use crate::runtime::tls;
use crate::server::accept::Accepted;
use crate::server::drain;
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
/// While the gateway drains, a connection that was just opened may still send its first request for so long.
const FIRST_REQUEST: Duration = Duration::from_millis(200);
/// An HTTP/2 client that has been told to go away, and waits for nothing, has so long to go.
const GOING_AWAY: Duration = Duration::from_secs(5);

/// The protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// A byte stream that can be cut so that the other end cannot take the cut for an orderly end.
trait Cut {
    fn cut(&self);
}

impl Cut for TcpStream {
    fn cut(&self) {
        // A socket that is broken already needs no reset.
        drop(self.set_zero_linger());
    }
}

impl Cut for TlsStream<TcpStream> {
    fn cut(&self) {
        self.get_ref().0.cut();
    }
}

/// Serves an accepted connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted, drain: drain::Receiver) {
    let local = worker.local();
    let Some(listener) = local.runtime().listener(accepted.listener) else { return };
    let config = listener.config.clone();
    let tls = listener.tls.clone();
    let series = local.listener_series(accepted.listener);
    drop(local);
    if let Some(series) = series {
        worker.metrics.connection_opened(series);
    }
    let Accepted { stream, peer, listener, open } = accepted;
    let ended = async {
        let stream = TcpStream::from_std(stream)?;
        stream.set_nodelay(true)?;
        let connection = |tls, shown| {
            Rc::new(Connection { listener, peer, tls, shown, control: ConnectionControl::default() })
        };
        let Some(tls) = tls else {
            let connection = connection(None, None);
            return plaintext(&worker, stream, connection, config.protocols, &config.limits, drain).await;
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
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
        let connection = connection(Some(facts), Some(tls.shown(session)));
        let begun = Begun { stream, first: Vec::new(), opened: Instant::now() };
        speak(&worker, begun, connection, protocol, &config.limits, drain).await
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
    protocols: Protocols,
    limits: &ListenerLimits,
    mut drain: drain::Receiver,
) -> io::Result<()> {
    let opened = Instant::now();
    let mut first = Vec::new();
    let mut protocol = if protocols.http1 { Protocol::Http1 } else { Protocol::Http2 };
    if protocols.http1 && protocols.http2 {
        let mut buffer = [0; HTTP2_PREFACE.len()];
        while HTTP2_PREFACE.starts_with(&first) && first.len() < HTTP2_PREFACE.len() {
            let space = buffer.get_mut(first.len()..).unwrap_or_default();
            let read = tokio::select! {
                biased;
                read = timeout_at(opened + limits.header_timeout, stream.read(space)) => read,
                () = drained_while_new(&mut drain, opened), if first.is_empty() => break,
            };
            // What has come so far is the guard's to answer.
            let Ok(read) = read else { break };
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
    let begun = Begun { stream, first, opened };
    speak(worker, begun, connection, protocol, limits, drain).await
}

/// The worker is draining, and a connection that was `opened` then and has sent nothing has had its time.
async fn drained_while_new(drain: &mut drain::Receiver, opened: Instant) {
    // An error means that the gateway is gone, which is an end too.
    drop(drain.wait_for(|drain| drain.has_begun()).await);
    sleep_until(opened + FIRST_REQUEST).await;
}

/// The worker is draining, and the connection is not in the middle of a head: it is told to close.
async fn drained_between_heads(drain: &mut drain::Receiver, connection: &Connection, opened: Instant) {
    drop(drain.wait_for(|drain| drain.has_begun()).await);
    let mut first_request = pin!(sleep_until(opened + FIRST_REQUEST));
    poll_fn(|context| match connection.control.reading() {
        Reading::New => first_request.as_mut().poll(context),
        // Whatever completes the head wakes this task as well.
        Reading::Head => Poll::Pending,
        Reading::Nothing => Poll::Ready(()),
    })
    .await;
}

/// A connection whose protocol is known, and what has been read of it already.
struct Begun<S> {
    stream: S,
    first: Vec<u8>,
    opened: Instant,
}

async fn speak<S>(
    worker: &Rc<Worker>,
    begun: Begun<S>,
    connection: Rc<Connection>,
    protocol: Protocol,
    limits: &ListenerLimits,
    drain: drain::Receiver,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Cut + Unpin + 'static,
{
    match protocol {
        Protocol::Http1 => speak_http1(worker, begun, connection, limits, drain).await,
        Protocol::Http2 => speak_http2(worker, begun, connection, limits, drain).await,
    }
}

async fn speak_http1<S>(
    worker: &Rc<Worker>,
    Begun { stream, first, opened }: Begun<S>,
    connection: Rc<Connection>,
    limits: &ListenerLimits,
    mut drain: drain::Receiver,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Cut + Unpin + 'static,
{
    let head = HeadLimits { bytes: limits.header_bytes.as_usize(), fields: limits.headers };
    let guarded = Http1Guard::new(
        stream,
        &first,
        Rc::clone(&connection),
        Http1Limits {
            head,
            header_timeout: limits.header_timeout,
            write_timeout: limits.body_timeout,
            idle_timeout: limits.idle_timeout,
        },
        opened,
    );
    let service = service_fn(|request: Request<Incoming>| {
        pipeline::serve(Rc::clone(worker), Rc::clone(&connection), request)
    });
    let mut builder = http1::Builder::new();
    // The guard has the timeouts and the bounds; the library must not be tighter.
    builder.header_read_timeout(None).max_buf_size(head.bytes.saturating_add(16 * 1024).max(64 * 1024));
    if limits.headers > LIBRARY_HEADERS {
        builder.max_headers(limits.headers);
    }
    let mut served = builder.serve_connection(guarded, service);
    let ended = {
        let mut drained = pin!(drained_between_heads(&mut drain, &connection, opened));
        let mut told = false;
        poll_fn(|context| {
            // A response that is about to begin says that it is the last. A connection that waits for a request is
            // looked at first: one may be there already.
            if !told && connection.control.is_busy() && drained.as_mut().poll(context).is_ready() {
                Pin::new(&mut served).graceful_shutdown();
                told = true;
            }
            let ended = Pin::new(&mut served).poll(context);
            if told || ended.is_ready() || drained.as_mut().poll(context).is_pending() {
                return ended;
            }
            Pin::new(&mut served).graceful_shutdown();
            told = true;
            Pin::new(&mut served).poll(context)
        })
        .await
    };
    let tunnel = connection.control.take_tunnel();
    match ended {
        Ok(()) => {
            if let Some(tunnel) = tunnel {
                let parts = served.into_parts();
                let (stream, held_back) = parts.io.into_parts();
                let first = [&*parts.read_buf, &held_back].concat();
                tunnel.run(stream, &first).await;
            }
            Ok(())
        }
        Err(error) => {
            if breaks_a_response(&error) {
                served.into_parts().io.into_parts().0.cut();
            }
            Err(io::Error::other(error))
        }
    }
}

/// Whether a response was broken off by the upstream, or because the client did not take it. Where only the end of the
/// connection ends a response, an orderly end would make it look whole.
fn breaks_a_response(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    error.is_user() || source.is_some_and(|source| source.kind() == io::ErrorKind::TimedOut)
}

async fn speak_http2<S>(
    worker: &Rc<Worker>,
    Begun { stream, first, opened }: Begun<S>,
    connection: Rc<Connection>,
    limits: &ListenerLimits,
    mut drain: drain::Receiver,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let guarded = Http2Guard::new(stream, first, limits.body_timeout);
    let service = service_fn(|request: Request<Incoming>| {
        pipeline::serve(Rc::clone(worker), Rc::clone(&connection), request)
    });
    let mut builder = http2::Builder::new(LocalExecutor(Rc::clone(worker)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes.bytes()).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    let mut served = pin!(builder.serve_connection(guarded, service));
    let mut watch = Watch::new(limits, opened);
    let mut draining = pin!(drain.wait_for(|drain| drain.has_begun()));
    poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = served.as_mut().poll(context) {
                return Poll::Ready(ended.map_err(io::Error::other));
            }
            if watch.closing_since.is_none()
                && (draining.as_mut().poll(context).is_ready()
                    || watch.poll_idle(&connection, context).is_ready())
            {
                served.as_mut().graceful_shutdown();
                watch.closing_since = Some(Instant::now());
                continue;
            }
            return watch.poll_over(&connection, context);
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
    /// When the client was told to go away.
    closing_since: Option<Instant>,
    idle_timer: LazyTimer,
    stall_timer: LazyTimer,
}

// === impl Watch ===

impl Watch {
    fn new(limits: &ListenerLimits, started: Instant) -> Self {
        Self {
            started,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            stall_timeout: limits.body_timeout,
            closing_since: None,
            idle_timer: LazyTimer::default(),
            stall_timer: LazyTimer::default(),
        }
    }

    fn poll_idle(&mut self, connection: &Connection, context: &mut Context<'_>) -> Poll<()> {
        if connection.control.is_busy() {
            // The end of a request need not wake this task, so a timer makes it look again.
            if self.idle_timer.is_armed() {
                return Poll::Pending;
            }
            return self.idle_timer.poll_expired(Instant::now() + self.idle_timeout, context);
        }
        let deadline = match connection.control.idle_since() {
            Some(since) => since + self.idle_timeout,
            None => self.started + self.header_timeout,
        };
        self.idle_timer.poll_expired(deadline, context)
    }

    /// Whether the connection is over without the client's consent.
    fn poll_over(&mut self, connection: &Connection, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_stalled(connection, context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.poll_gone(connection, context).map(Ok)
    }

    /// A client that opens no window for a response's bytes holds them, and the upstream, for ever: it is cut off.
    fn poll_stalled(&mut self, connection: &Connection, context: &mut Context<'_>) -> Poll<()> {
        let deadline = match connection.control.oldest_unread() {
            Some(oldest) => oldest + self.stall_timeout,
            // Bytes that find no window do not wake this task, so a timer makes it look again.
            None if connection.control.has_open_response() && !self.stall_timer.is_armed() => {
                Instant::now() + self.stall_timeout
            }
            None => return Poll::Pending,
        };
        self.stall_timer.poll_expired(deadline, context)
    }

    /// A client that was told to go away, and waits for no response, need not answer: it is not waited for long.
    fn poll_gone(&mut self, connection: &Connection, context: &mut Context<'_>) -> Poll<()> {
        let Some(since) = self.closing_since else { return Poll::Pending };
        let patience = GOING_AWAY.min(self.stall_timeout);
        if connection.control.is_busy() {
            if self.idle_timer.is_armed() {
                return Poll::Pending;
            }
            return self.idle_timer.poll_expired(Instant::now() + patience, context);
        }
        let since = connection.control.idle_since().map_or(since, |idle_since| since.max(idle_since));
        self.idle_timer.poll_expired(since + patience, context)
    }
}

/// Runs the library's tasks on the worker's own thread.
#[derive(Debug, Clone)]
struct LocalExecutor(Rc<Worker>);

/// Counts a task that panics: it costs one stream.
struct PanicCount(Rc<Worker>);

impl Drop for PanicCount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.shared.metrics.task_panicked();
            tracing::error!("Stream task panicked");
        }
    }
}

impl<F> rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let count = PanicCount(Rc::clone(&self.0));
        tokio::task::spawn_local(async move {
            let _count = count;
            future.await;
        });
    }
}
