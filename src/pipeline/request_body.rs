//! A request's body on its way upstream: bounded, without trailers, and with the reason kept when it breaks off.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::base::timer::LazyTimer;
use crate::pipeline::connection::Connection;
use crate::pipeline::reject::Cause;
use crate::upstream::body::RequestBody;

/// What a body must bring in each timeout.
const BYTES_PER_TIMEOUT: u64 = 1024;

/// Why a client's body ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// It is over its limit.
    #[error("the body is too large")]
    TooLarge,
    /// It stalled.
    #[error("the body did not arrive in time")]
    Timeout,
    /// The client broke off, or its framing is malformed.
    #[error("the body is malformed or incomplete")]
    Broken,
}

/// Where a body's fault is left for the stage that waits for the upstream.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultCell(Rc<Cell<Option<BodyFault>>>);

/// The body that is sent upstream.
#[derive(Debug)]
pub enum UpstreamRequestBody {
    /// None.
    Empty,
    /// Read whole before, because the policy looks into it.
    Whole(Option<Bytes>),
    /// As it comes.
    Stream(LimitedBody),
}

/// The client's body with its bound and its timeout.
#[derive(Debug)]
pub struct LimitedBody {
    body: Incoming,
    remaining: u64,
    fault: FaultCell,
    timeout: Duration,
    timer: LazyTimer,
    wait: Wait,
    connection: Rc<Connection>,
}

/// How long the gateway has waited for bytes, and what came meanwhile. Time in which nobody asked for bytes, because
/// the upstream is slow, does not count.
#[derive(Debug, Default)]
struct Wait {
    pending_since: Option<Instant>,
    waited: Duration,
    received: u64,
}

// === impl BodyFault ===

impl BodyFault {
    /// What the client is told.
    pub(crate) fn cause(self) -> Cause {
        match self {
            Self::TooLarge => Cause::BodyTooLarge,
            Self::Timeout => Cause::BodyTimeout,
            Self::Broken => Cause::BodyBroken,
        }
    }
}

// === impl FaultCell ===

impl FaultCell {
    pub(crate) fn get(&self) -> Option<BodyFault> {
        self.0.get()
    }
}

// === impl LimitedBody ===

impl LimitedBody {
    /// `body`, of which at most `limit` bytes are taken. In each `timeout` of waiting it must bring 1 KiB or end: a slow
    /// drip is a stall.
    pub(crate) fn new(body: Incoming, limit: u64, timeout: Duration, connection: Rc<Connection>) -> Self {
        Self {
            body,
            remaining: limit,
            fault: FaultCell::default(),
            timeout,
            timer: LazyTimer::default(),
            wait: Wait::default(),
            connection,
        }
    }

    /// Where its fault will be found.
    pub(crate) fn fault(&self) -> FaultCell {
        self.fault.clone()
    }

    /// Tightens the bound to `limit` bytes from here.
    pub(crate) fn tighten(&mut self, limit: u64) {
        self.remaining = self.remaining.min(limit);
    }

    /// Reads it whole.
    pub(crate) async fn collect(mut self, hint: Option<u64>) -> Result<Bytes, BodyFault> {
        const TRUSTED_HINT: u64 = 64 * 1024;
        let capacity = usize::try_from(hint.unwrap_or(0).min(TRUSTED_HINT)).unwrap_or(0);
        let mut whole = Vec::with_capacity(capacity);
        let mut only: Option<Bytes> = None;
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await
        {
            let Ok(data) = frame?.into_data() else { continue };
            // One piece is the usual case, and needs no copy.
            match only.take() {
                None if whole.is_empty() => only = Some(data),
                None => whole.extend_from_slice(&data),
                Some(first) => {
                    whole.extend_from_slice(&first);
                    whole.extend_from_slice(&data);
                }
            }
        }
        Ok(only.unwrap_or_else(|| Bytes::from(whole)))
    }

    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<BodyFault> {
        let since = *self.wait.pending_since.get_or_insert_with(Instant::now);
        let deadline = since + self.timeout.saturating_sub(self.wait.waited);
        ready!(self.timer.poll_expired(deadline, context));
        Poll::Ready(BodyFault::Timeout)
    }

    fn end<T>(&self) -> Poll<Option<T>> {
        self.connection.control.body_read();
        Poll::Ready(None)
    }

    fn fail(&self, fault: BodyFault) -> BodyFault {
        self.fault.0.set(Some(fault));
        fault
    }
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(None) => return self.end(),
            Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(self.fail(BodyFault::Broken)))),
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Pending => {
                let fault = ready!(self.poll_stalled(context));
                return Poll::Ready(Some(Err(self.fail(fault))));
            }
        };
        match frame.into_data() {
            Ok(data) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.wait.add(length);
                match self.remaining.checked_sub(length) {
                    Some(remaining) => {
                        self.remaining = remaining;
                        Poll::Ready(Some(Ok(Frame::data(data))))
                    }
                    None => Poll::Ready(Some(Err(self.fail(BodyFault::TooLarge)))),
                }
            }
            // A client's trailers are dropped: no policy has seen them.
            Err(_trailers) => self.end(),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Wait ===

impl Wait {
    fn add(&mut self, length: u64) {
        if let Some(since) = self.pending_since.take() {
            self.waited += since.elapsed();
        }
        self.received = self.received.saturating_add(length);
        if self.received >= BYTES_PER_TIMEOUT {
            *self = Self::default();
        }
    }
}

// === impl UpstreamRequestBody ===

impl UpstreamRequestBody {
    /// A body that has been read whole.
    pub(crate) fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Whole(Some(bytes)) }
    }
}

impl Body for UpstreamRequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(None) => true,
            Self::Whole(Some(_)) => false,
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(bytes)) => SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

impl RequestBody for UpstreamRequestBody {
    fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Whole(Some(bytes)) => Some(Self::Whole(Some(bytes.clone()))),
            Self::Whole(None) | Self::Stream(_) => None,
        }
    }
}
