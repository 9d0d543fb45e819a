//! The few HTTP/2 connections of one worker to one endpoint, shared by many exchanges.
//!
//! hyper runs each connection in tasks of its own, and resets the stream of an exchange that is dropped.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{Instant, timeout};

use crate::upstream::RESPONSE_HEAD_MAX;
use crate::upstream::body::RequestBody;
use crate::upstream::error::{ConnectError, UpstreamError};
use crate::upstream::frames::{CountedStream, Credit};
use crate::upstream::http1::Failed;
use crate::upstream::outgoing::Outgoing;
use crate::upstream::prepare::{self, Slot};
use crate::upstream::stream::Stream;
use crate::upstream::wait::HeadWait;
use crate::upstream::worker::{OpenConnection, WorkerEndpoint};

/// Exchanges on one connection before another is opened; the upstream may allow fewer, then they wait in turn.
pub(crate) const STREAMS_MAX: u32 = 100;
/// Bytes of one response read ahead of what its client takes.
const STREAM_WINDOW: u32 = 256 << 10;
/// All streams' windows together: a slow client must never hold up another's response.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX;
/// Bytes of one request written ahead of what the upstream takes.
const SEND_BUFFER_MAX: usize = 256 << 10;
/// A connection with exchanges in flight is probed when nothing has come for so long.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// It is dead when the probe is not answered within.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs hyper's tasks on the worker.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        // hyper ends its tasks itself, when the last sender and stream are gone.
        drop(tokio::task::spawn_local(future));
    }
}

/// A connection.
pub(crate) struct Http2<B: RequestBody> {
    sender: RefCell<SendRequest<Outgoing<B>>>,
    load: Rc<Load>,
    credit: Rc<Credit>,
    used: Cell<bool>,
    retired: Cell<bool>,
    _open: OpenConnection,
}

/// How many exchanges a connection has.
#[derive(Debug)]
struct Load {
    streams: Cell<u32>,
    idle_since: Cell<Instant>,
}

/// One exchange on a connection, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct StreamHold(Rc<Load>);

/// A place on a connection, for one exchange.
#[derive(Debug)]
pub(crate) struct Place<B: RequestBody> {
    connection: Rc<Http2<B>>,
    hold: StreamHold,
}

impl<B: RequestBody> Http2<B> {
    /// Speaks HTTP/2 over `stream`, within `limit`.
    pub(crate) async fn handshake(
        stream: Stream,
        endpoint: &Rc<WorkerEndpoint>,
        limit: Duration,
    ) -> Result<Rc<Self>, UpstreamError> {
        let credit = Rc::new(Credit::default());
        let handshake = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER_MAX)
            .max_header_list_size(u32::try_from(RESPONSE_HEAD_MAX).unwrap_or(u32::MAX))
            .handshake(TokioIo::new(CountedStream::new(stream, Rc::clone(&credit))));
        let (sender, connection) = timeout(limit, handshake)
            .await
            .map_err(|_elapsed| UpstreamError::ConnectTimeout)?
            .map_err(|error| UpstreamError::Connect(ConnectError::Http(error)))?;
        drop(tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "Upstream connection ended");
            }
        }));
        Ok(Rc::new(Self {
            sender: RefCell::new(sender),
            load: Rc::new(Load { streams: Cell::new(0), idle_since: Cell::new(Instant::now()) }),
            credit,
            used: Cell::new(false),
            retired: Cell::new(false),
            _open: OpenConnection::new(endpoint),
        }))
    }

    /// Whether new exchanges may go over it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.retired.get() && !self.sender.borrow().is_closed()
    }

    /// Exchanges on it.
    pub(crate) fn streams(&self) -> u32 {
        self.load.streams.get()
    }

    /// Whether it has had no exchange since `since`.
    pub(crate) fn is_idle_since(&self, since: Instant) -> bool {
        self.load.streams.get() == 0 && self.load.idle_since.get() <= since
    }

    /// Takes a place on it.
    pub(crate) fn enter(self: &Rc<Self>) -> Place<B> {
        self.load.streams.set(self.load.streams.get() + 1);
        Place { connection: Rc::clone(self), hold: StreamHold(Rc::clone(&self.load)) }
    }
}

impl<B: RequestBody> Place<B> {
    /// Sends the request in `slot` and waits for its response's head. If not a byte of it was sent, it is back in its
    /// slot.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream.
    pub(crate) async fn exchange(
        self,
        slot: &mut Slot<B>,
        wait: &mut HeadWait,
    ) -> Result<(Response<Incoming>, StreamHold), Failed> {
        let Some(request) = slot.take() else { return Err(Failed::new(UpstreamError::Broken(None))) };
        let Self { connection, hold } = self;
        let used = connection.used.replace(true);
        connection.credit.add_exchange();
        let sent = connection.sender.borrow_mut().try_send_request(request);
        let mut response = pin!(sent);
        let result = poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Ok(result)),
            Poll::Pending => wait.poll(cx).map(Err),
        })
        .await;
        match result {
            Ok(Ok(response)) => Ok((response, hold)),
            Ok(Err(mut failed)) => {
                *slot = failed.take_message().map(prepare::restore);
                let error = failed.into_error();
                if wait.request_body_failed() {
                    return Err(Failed::new(UpstreamError::RequestBody(error)));
                }
                let stale = used && !connection.is_usable();
                Err(Failed { error: UpstreamError::Broken(Some(error)), stale })
            }
            Err(expired) => {
                // It may hang as a whole: the exchanges on it go on, new ones take another.
                connection.retired.set(true);
                Err(Failed::new(expired))
            }
        }
    }
}

impl Drop for StreamHold {
    fn drop(&mut self) {
        let Self(load) = self;
        load.streams.set(load.streams.get().saturating_sub(1));
        if load.streams.get() == 0 {
            load.idle_since.set(Instant::now());
        }
    }
}

impl<B: RequestBody> fmt::Debug for Http2<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("load", &self.load).finish_non_exhaustive()
    }
}
