//! The byte stream of an HTTP/1 connection, as the HTTP library gets to see it.
//!
//! Bytes of a head are held back until the head is complete and well-formed; body bytes are followed to the body's
//! end, so that each next head is found where the library will look for it. A refused head is replaced by a harmless one
//! whose cause waits in the connection's control, so that the refusal is answered in turn, after the responses before it.
//! The timeouts of heads, of idle connections and of writes live here too. It never repairs anything.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{self, ReadBufCursor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::base::timer::LazyTimer;
use crate::pipeline::connection::Connection;
use crate::pipeline::framing::{ChunkScanner, Framing, FramingError, HeadLimits, HeadScanner};
use crate::pipeline::reject::Cause;

/// What the library gets instead of a refused head; `ConnectionControl::take_refusal` says why.
const REFUSED_HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
const BUFFER_START: usize = 4 * 1024;
const BUFFER_MAX: usize = 64 * 1024;
/// Bytes that may wait while an upgrade is undecided.
const HELD_BACK_MAX: usize = 4 * 1024;
/// After the last response, so much of what the client still sends is read and dropped, lest a reset destroy the response.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_millis(500);

/// Timeouts and bounds of an HTTP/1 connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http1Limits {
    pub(crate) head: HeadLimits,
    pub(crate) header_timeout: Duration,
    /// For a client that does not read.
    pub(crate) write_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Length(u64),
    Chunked(ChunkScanner),
    /// Nothing more is read.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Http1Guard<S> {
    stream: S,
    connection: Rc<Connection>,
    limits: Http1Limits,
    state: State,
    buffer: Vec<u8>,
    /// Unread bytes of the buffer.
    start: usize,
    end: usize,
    /// How many of them the library may have.
    cleared: usize,
    end_of_stream: bool,
    first_head: bool,
    skipped_line: bool,
    read_timer: LazyTimer,
    write_timer: LazyTimer,
    /// When the connection, or the first byte of this head, came.
    head_since: Instant,
    write_stalled_since: Option<Instant>,
    lingered: usize,
}

// === impl Http1Guard ===

impl<S> Http1Guard<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Guards `stream`, of which `first` has been read already.
    pub(crate) fn new(stream: S, first: &[u8], connection: Rc<Connection>, limits: Http1Limits) -> Self {
        let mut buffer = vec![0; BUFFER_START.max(first.len())];
        if let Some(front) = buffer.get_mut(..first.len()) {
            front.copy_from_slice(first);
        }
        Self {
            stream,
            connection,
            limits,
            state: State::Head(HeadScanner::default()),
            buffer,
            start: 0,
            end: first.len(),
            cleared: 0,
            end_of_stream: false,
            first_head: true,
            skipped_line: false,
            read_timer: LazyTimer::default(),
            write_timer: LazyTimer::default(),
            head_since: Instant::now(),
            write_stalled_since: None,
            lingered: 0,
        }
    }

    /// The stream, and what has been read from it and belongs to nobody yet.
    pub(crate) fn into_parts(mut self) -> (S, Vec<u8>) {
        self.buffer.truncate(self.end);
        self.buffer.drain(..self.start);
        (self.stream, self.buffer)
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Looks at unread bytes and clears what the library may have.
    fn judge(&mut self) -> io::Result<()> {
        if self.connection.control.is_upgrade_asked() {
            return Ok(());
        }
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        if unread.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Refused => {}
            State::Length(remaining) => {
                let available = u64::try_from(unread.len()).unwrap_or(u64::MAX).min(*remaining);
                *remaining -= available;
                self.cleared = usize::try_from(available).unwrap_or(usize::MAX);
                if *remaining == 0 {
                    self.next_head();
                }
            }
            State::Chunked(scanner) => {
                let (length, ended) = scanner.advance(unread).map_err(malformed_body)?;
                self.cleared = length;
                if ended {
                    self.next_head();
                }
            }
            State::Head(_) => self.judge_head(),
        }
        Ok(())
    }

    fn judge_head(&mut self) {
        // One empty line before a request is tolerated, as RFC 9112 section 2.2 asks: old clients send it after a body.
        if !self.skipped_line && self.unread().starts_with(b"\r\n") {
            self.start += 2;
            self.skipped_line = true;
        }
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        let State::Head(scanner) = &mut self.state else { return };
        if unread.is_empty() || unread == b"\r" {
            return;
        }
        match scanner.advance(unread, self.limits.head) {
            Ok(None) => {}
            Ok(Some(head)) => {
                self.cleared = head.length;
                self.first_head = false;
                self.skipped_line = false;
                if head.upgrade && head.framing == Framing::None {
                    self.connection.control.upgrade_asked();
                }
                match head.framing {
                    Framing::None => self.next_head(),
                    Framing::Length(length) => self.state = State::Length(length),
                    Framing::Chunked => self.state = State::Chunked(ChunkScanner::default()),
                }
            }
            Err(error) => self.refuse(Cause::Framing(error)),
        }
    }

    fn next_head(&mut self) {
        self.state = State::Head(HeadScanner::default());
    }

    /// Puts the refused head in the place of what was received.
    fn refuse(&mut self, cause: Cause) {
        self.connection.control.refuse(cause);
        self.state = State::Refused;
        if let Some(front) = self.buffer.get_mut(..REFUSED_HEAD.len()) {
            front.copy_from_slice(REFUSED_HEAD);
        }
        self.start = 0;
        self.end = REFUSED_HEAD.len();
        self.cleared = REFUSED_HEAD.len();
    }

    /// Hands cleared bytes on.
    fn deliver(&mut self, cursor: &mut ReadBufCursor<'_>) {
        let length = self.cleared.min(cursor.remaining());
        let bytes = self.buffer.get(self.start..self.start + length).unwrap_or_default();
        cursor.put_slice(bytes);
        self.start += length;
        self.cleared -= length;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Reads once more into the buffer; `false` at the end of the stream.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let bound = BUFFER_MAX.max(self.limits.head.bytes.saturating_add(1));
                let larger = self.buffer.len().saturating_mul(2).min(bound);
                if larger == self.buffer.len() {
                    // Cannot happen: a head is refused before it fills the buffer, and bodies are passed on.
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                self.buffer.resize(larger, 0);
            }
        }
        let mut space = ReadBuf::new(self.buffer.get_mut(self.end..).unwrap_or_default());
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut space))?;
        let length = space.filled().len();
        self.end += length;
        Poll::Ready(Ok(length > 0))
    }

    /// Whether the current wait has lasted too long; if so, what follows from it is done.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let control = &self.connection.control;
        let deadline = match &self.state {
            // A body's reader has its own timeout.
            State::Refused | State::Length(_) | State::Chunked(_) => return Poll::Pending,
            State::Head(_) if control.is_busy() => return Poll::Pending,
            State::Head(_) if self.start == self.end && !self.first_head => {
                let since = control.idle_since().unwrap_or(self.head_since);
                since + self.limits.idle_timeout
            }
            State::Head(_) => self.head_since + self.limits.header_timeout,
        };
        ready!(self.read_timer.poll_expired(deadline, context));
        if self.start < self.end {
            self.refuse(Cause::HeaderTimeout);
        } else {
            self.end_of_stream = true;
        }
        Poll::Ready(())
    }

    fn poll_flow(
        &mut self,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.cleared == 0 {
                self.judge()?;
            }
            if self.cleared > 0 {
                self.deliver(&mut cursor);
                return Poll::Ready(Ok(()));
            }
            if self.end_of_stream || matches!(self.state, State::Refused) {
                return Poll::Ready(Ok(()));
            }
            let held_back = self.end - self.start;
            let filled = if self.connection.control.is_upgrade_asked() && held_back >= HELD_BACK_MAX {
                Poll::Pending
            } else {
                self.poll_fill(context)
            };
            match filled {
                Poll::Ready(filled) => {
                    self.end_of_stream = !filled?;
                    if held_back == 0 && !self.first_head && matches!(self.state, State::Head(_)) {
                        self.head_since = Instant::now();
                    }
                }
                Poll::Pending => {
                    self.connection.control.wake_on_change(context.waker());
                    ready!(self.poll_timeout(context));
                }
            }
        }
    }

    fn poll_stall(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let since = *self.write_stalled_since.get_or_insert_with(Instant::now);
        ready!(self.write_timer.poll_expired(since + self.limits.write_timeout, context));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn written<T>(&mut self, outcome: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if let Poll::Ready(outcome) = outcome {
            self.write_stalled_since = None;
            return Poll::Ready(outcome);
        }
        Poll::Ready(Err(ready!(self.poll_stall(context))))
    }
}

fn malformed_body(error: FramingError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S> rt::Read for Http1Guard<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_flow(context, cursor)
    }
}

impl<S> rt::Write for Http1Guard<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(outcome, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.written(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        if guard.lingered == 0 {
            ready!(Pin::new(&mut guard.stream).poll_shutdown(context))?;
            guard.lingered = 1;
            guard.head_since = Instant::now();
        }
        guard.start = 0;
        guard.end = 0;
        while guard.lingered < LINGER_BYTES && !guard.end_of_stream {
            match guard.poll_fill(context) {
                Poll::Ready(Ok(true)) => guard.lingered += guard.end,
                Poll::Ready(Ok(false) | Err(_)) => break,
                Poll::Pending => {
                    let deadline = guard.head_since + LINGER_TIME;
                    ready!(guard.read_timer.poll_expired(deadline, context));
                    break;
                }
            }
            guard.end = 0;
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(outcome, context)
    }
}
