//! Bodies on their way to and from an upstream.
//!
//! A response's body is passed on as it comes: one piece at a time, and the next only when it is asked for, so that a
//! slow client slows the upstream down instead of filling memory.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::upstream::cluster::EndpointState;
use crate::upstream::error::BodyError;
use crate::upstream::http2::StreamHold;
use crate::upstream::watchdog::{Watchdog, after};
use crate::upstream::worker::InFlight;

/// A request body that can be sent upstream, and perhaps sent again.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static {
    /// A copy that yields the same bytes from the start, for a retry. `None` when the body is a stream, or any of it
    /// has been read: then it is sent once only.
    fn try_clone(&self) -> Option<Self>
    where
        Self: Sized;
}

/// The error of any body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An HTTP/1.1 connection whose response is still being read, by whoever reads its body.
pub(crate) trait Driver: fmt::Debug {
    /// The next of `incoming`, moving bytes until there is one.
    fn poll_frame(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>>;
    /// Whether the exchange is over on both sides, and the connection fit for another.
    fn is_reusable(&self) -> bool;
    /// Gives it back to its pool.
    fn release(self: Box<Self>);
}

/// What a response's body comes over.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Nothing more to come, or nothing that needs a connection.
    Done,
    /// An HTTP/1.1 connection that this body drives.
    Driven(Box<dyn Driver>),
    /// An HTTP/1.1 connection that a task drives, because the request is still being sent; ended with the body.
    #[expect(dead_code, reason = "held for its end")]
    Task(AbortOnDrop),
    /// A stream of a shared HTTP/2 connection, counted until it is dropped.
    #[expect(dead_code, reason = "held for its count")]
    Stream(StreamHold),
}

/// A task that is ended when its handle is dropped.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response's body as it arrives: back-pressure, trailers, and the stall timeout.
///
/// It holds the connection: dropping it before its end closes the connection (HTTP/1.1) or resets the stream.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    transport: Transport,
    stall_timeout: Duration,
    waiting_since: Option<Instant>,
    watchdog: Option<Watchdog>,
    in_flight: InFlight,
    tries: u32,
    failed: bool,
}

impl UpstreamBody {
    pub(crate) fn new(
        incoming: Incoming,
        transport: Transport,
        stall_timeout: Duration,
        watchdog: Option<Watchdog>,
        in_flight: InFlight,
    ) -> Self {
        let mut body = Self {
            incoming,
            transport,
            stall_timeout,
            waiting_since: None,
            watchdog,
            in_flight,
            tries: 1,
            failed: false,
        };
        // A short response is here as a whole: its connection can serve the next request at once.
        body.release_if_over();
        body
    }

    /// The endpoint that answered.
    pub fn endpoint(&self) -> &EndpointState {
        self.in_flight.endpoint().state()
    }

    /// How often the request was tried, this answer included.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    pub(crate) fn set_tries(&mut self, tries: usize) {
        self.tries = u32::try_from(tries).unwrap_or(u32::MAX);
    }

    /// Whether the whole of a driven response has been read from its connection.
    fn release_if_over(&mut self) {
        if matches!(&self.transport, Transport::Driven(driver) if driver.is_reusable()) {
            if let Transport::Driven(driver) = std::mem::replace(&mut self.transport, Transport::Done) {
                driver.release();
            }
            self.keep_watchdog();
        }
    }

    fn keep_watchdog(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            self.in_flight.endpoint().keep(watchdog);
        }
    }

    fn end(&mut self) {
        self.release_if_over();
        self.transport = Transport::Done;
        self.keep_watchdog();
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut self.transport {
            Transport::Driven(driver) => driver.poll_frame(&mut self.incoming, cx),
            Transport::Done | Transport::Task(_) | Transport::Stream(_) => {
                Pin::new(&mut self.incoming).poll_frame(cx)
            }
        }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let by = after(since, self.stall_timeout);
        self.watchdog.get_or_insert_with(|| self.in_flight.endpoint().watchdog(by)).poll(cx, by)
    }

    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.failed = true;
        // Closes the connection or resets the stream.
        self.transport = Transport::Done;
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.failed {
            return Poll::Ready(None);
        }
        match this.poll_incoming(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting_since = None;
                if this.incoming.is_end_stream() {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => this.fail(BodyError::Broken(error)),
            Poll::Pending => match this.poll_stall(cx) {
                Poll::Ready(()) => this.fail(BodyError::Stalled),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // CANCEL: a body dropped half-way drops its transport, which ends the exchange; one that is wholly read already
        // gives its connection back.
        self.release_if_over();
        self.keep_watchdog();
    }
}
