//! One HTTP/1.1 connection to an endpoint.
//!
//! The connection has no task of its own: whoever waits for its response drives it, which saves wake-ups for each
//! request. An idle connection is therefore not watched; that it is still good is found out when it is used again
//! (hyper reads before it writes, and hands an unsent request back).

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::upstream::RESPONSE_HEAD_MAX;
use crate::upstream::body::{AbortOnDrop, Driver, RequestBody, Transport};
use crate::upstream::cluster::Tunnel;
use crate::upstream::connections::Connections;
use crate::upstream::error::{ConnectError, UpstreamError};
use crate::upstream::outgoing::Outgoing;
use crate::upstream::prepare::{self, Slot};
use crate::upstream::relay::Relay;
use crate::upstream::stream::{HeadWatch, Stream, WatchedStream};
use crate::upstream::wait::HeadWait;
use crate::upstream::worker::{OpenConnection, WorkerEndpoint};

/// Bytes read ahead of what the client takes, and written ahead of what the upstream takes.
const BUFFER_MAX: usize = 128 << 10;

/// hyper's side of a connection. Boxed because hyper does not name the type of one that can be upgraded.
type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

/// A connection: its two halves in hyper, and the pool it belongs to.
pub(crate) struct Http1<B: RequestBody> {
    sender: SendRequest<Outgoing<B>>,
    // `None` once it is closed: hyper hands a request that it has not begun to send back when it is dropped.
    connection: Option<Connection>,
    used: bool,
    relay: Relay,
    watch: Arc<HeadWatch>,
    home: Weak<Connections<B>>,
    endpoint: Rc<WorkerEndpoint>,
    _open: OpenConnection,
}

/// An exchange that gave no response.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Why.
    pub(crate) error: UpstreamError,
    /// A kept connection broke before any byte of a response: most likely it was closed just before.
    pub(crate) stale: bool,
}

impl Failed {
    /// A failure after which nothing is known about what the upstream has seen.
    pub(crate) fn new(error: UpstreamError) -> Self {
        Self { error, stale: false }
    }
}

/// How waiting for a head ended without one.
enum Stop<B> {
    Expired(UpstreamError),
    Closed,
    Failed(Box<TrySendError<Request<Outgoing<B>>>>),
}

impl<B: RequestBody> Http1<B> {
    /// Speaks HTTP/1.1 over `stream`.
    pub(crate) async fn handshake(
        stream: Stream,
        home: &Rc<Connections<B>>,
        endpoint: &Rc<WorkerEndpoint>,
    ) -> Result<Box<Self>, UpstreamError> {
        let watch = Arc::new(HeadWatch::default());
        let stream = TokioIo::new(WatchedStream::new(stream, Arc::clone(&watch)));
        let (sender, connection) = http1::Builder::new()
            .max_header_size(RESPONSE_HEAD_MAX)
            .max_buf_size(BUFFER_MAX)
            // One buffer, one plain write: most requests are a head alone, or with a small body.
            .writev(false)
            .handshake(stream)
            .await
            .map_err(|error| UpstreamError::Connect(ConnectError::Http(error)))?;
        Ok(Box::new(Self {
            sender,
            connection: Some(Box::pin(connection.with_upgrades())),
            used: false,
            relay: Relay::new(),
            watch,
            home: Rc::downgrade(home),
            endpoint: Rc::clone(endpoint),
            _open: OpenConnection::new(endpoint),
        }))
    }

    /// Sends the request in `slot` and waits for its response's head. If not a byte of it was sent, it is back in its
    /// slot.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn exchange(
        mut self: Box<Self>,
        slot: &mut Slot<B>,
        wait: &mut HeadWait,
    ) -> Result<(Response<Incoming>, Box<Self>), Failed> {
        let Some(request) = slot.take() else { return Err(Failed::new(UpstreamError::Broken(None))) };
        self.watch.expect_head();
        let mut response = pin!(self.sender.try_send_request(request));
        let (relay, connection) = (&self.relay, &mut self.connection);
        let result = poll_fn(|cx| {
            let polled = relay.poll(cx, |cx| {
                drive(connection, cx);
                // Only driving brings the response: there is nobody else to be woken by it.
                match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(result) => Poll::Ready(result.map_err(|error| Stop::Failed(Box::new(error)))),
                    Poll::Pending if connection.is_none() => Poll::Ready(Err(Stop::Closed)),
                    Poll::Pending => Poll::Pending,
                }
            });
            match polled {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => wait.poll(cx).map(|expired| Err(Stop::Expired(expired))),
            }
        })
        .await;
        match result {
            Ok(response) => {
                self.used = true;
                Ok((response, self))
            }
            Err(stop) => Err(self.failed(stop, slot, wait)),
        }
    }

    /// What the end of the exchange means.
    fn failed(&self, stop: Stop<B>, slot: &mut Slot<B>, wait: &HeadWait) -> Failed {
        let stale = self.used && !self.watch.received();
        match stop {
            Stop::Expired(error) => Failed::new(error),
            Stop::Closed => Failed { error: UpstreamError::Broken(None), stale },
            Stop::Failed(mut failed) => {
                *slot = failed.take_message().map(prepare::restore);
                let error = failed.into_error();
                if self.watch.too_many_interim() {
                    Failed::new(UpstreamError::TooManyInterim)
                } else if wait.request_body_failed() || error.is_body_write_aborted() {
                    Failed::new(UpstreamError::RequestBody(error))
                } else if error.is_parse() {
                    Failed::new(UpstreamError::InvalidResponse(error))
                } else {
                    Failed { error: UpstreamError::Broken(Some(error)), stale }
                }
            }
        }
    }

    /// What the body of `response` comes over. A response that came before the request's end, and a tunnel, get a task
    /// that drives the connection, because their two directions move independently.
    pub(crate) fn into_transport(self: Box<Self>, status: StatusCode, wait: &HeadWait) -> Transport {
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.watch.hold(Tunnel::new(self.endpoint.state()));
            if let Some(connection) = self.connection {
                // It ends when hyper has handed the stream over.
                drop(tokio::task::spawn_local(connection));
            }
            return Transport::Done;
        }
        if wait.request_sent() {
            return Transport::Driven(self);
        }
        let mut http1 = self;
        let task = tokio::task::spawn_local(async move {
            poll_fn(|cx| {
                drive(&mut http1.connection, cx);
                let over = http1.connection.is_none() || http1.sender.is_ready();
                if over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            if http1.is_reusable() {
                http1.release();
            }
        });
        Transport::Task(AbortOnDrop(task.abort_handle()))
    }

    /// Notices that an idle connection was closed by the upstream.
    pub(crate) fn is_open(&mut self) -> bool {
        // No waker: the connection is looked at again when it is used or swept.
        drive(&mut self.connection, &mut Context::from_waker(Waker::noop()));
        self.connection.is_some()
    }
}

impl<B: RequestBody> Driver for Http1<B> {
    fn poll_frame(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let connection = &mut self.connection;
        let mut quiet = Context::from_waker(Waker::noop());
        self.relay.poll(cx, |cx| {
            if let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(&mut quiet) {
                return Poll::Ready(frame);
            }
            drive(connection, cx);
            Pin::new(&mut *incoming).poll_frame(&mut quiet)
        })
    }

    fn is_reusable(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }

    fn release(self: Box<Self>) {
        if let Some(home) = self.home.upgrade() {
            home.keep(self);
        }
    }
}

/// Moves bytes, and drops the connection when it is closed.
fn drive(connection: &mut Option<Connection>, cx: &mut Context<'_>) {
    if connection.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready()) {
        // An error is told by the response or its body, which hyper fails as well.
        *connection = None;
    }
}

impl<B: RequestBody> fmt::Debug for Http1<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("used", &self.used).finish_non_exhaustive()
    }
}
