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
use crate::pipeline::connection::{Connection, Reading};
use crate::pipeline::framing::{ChunkScanner, Framing, FramingError, Head, HeadLimits, HeadScanner};
use crate::pipeline::reject::Cause;

/// What the library gets instead of a refused head; `ConnectionControl::take_refusal` says why.
const REFUSED_HEAD: &[u8] =
    b"GET / HTTP/1.1\r\nhost: refused\r\npostern_refused: 1\r\nconnection: close\r\n\r\n";
/// Enough for nearly all heads; connections that only wait should cost little.
const BUFFER_START: usize = 4 * 1024;
/// A buffer larger than this is given up between requests.
const BUFFER_KEPT: usize = 16 * 1024;
/// Grown to by bodies that come fast, and by heads as far as they may go.
const BUFFER_MAX: usize = 64 * 1024;
/// Bytes that may wait while an upgrade is undecided.
const HELD_BACK_MAX: usize = 4 * 1024;
/// After the last response, so much of what the client still sends is read and dropped, lest a reset destroy the response.
const LINGER_BYTES: usize = 8 * 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Timeouts and bounds of an HTTP/1 connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http1Limits {
    pub(crate) head: HeadLimits,
    pub(crate) header_timeout: Duration,
    /// For a client that does not read.
    pub(crate) write_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

/// What may still be read and dropped after the last response.
#[derive(Debug)]
struct Linger {
    deadline: Instant,
    left: usize,
    /// The client was in the middle of something; otherwise only what is here already is dropped.
    expects_more: bool,
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
    /// Heads cleared so far.
    heads: u64,
    /// The number of the head that asks for another protocol: the bytes after it belong to nobody until it is answered.
    upgrade: Option<u64>,
    skipped_line: bool,
    read_timer: LazyTimer,
    write_timer: LazyTimer,
    opened: Instant,
    /// When the first byte of an incomplete head came.
    head_since: Option<Instant>,
    write_stalled_since: Option<Instant>,
    linger: Option<Linger>,
}

// === impl Http1Guard ===

impl<S> Http1Guard<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Guards `stream`, of which `first` has been read already since it was `opened`.
    pub(crate) fn new(
        stream: S,
        first: &[u8],
        connection: Rc<Connection>,
        limits: Http1Limits,
        opened: Instant,
    ) -> Self {
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
            heads: 0,
            upgrade: None,
            skipped_line: false,
            read_timer: LazyTimer::default(),
            write_timer: LazyTimer::default(),
            opened,
            head_since: None,
            write_stalled_since: None,
            linger: None,
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

    /// Whether a head that asks for another protocol waits for its answer.
    fn is_undecided(&self) -> bool {
        self.upgrade.is_some_and(|number| self.connection.control.ended() < number)
    }

    /// Looks at unread bytes and clears what the library may have.
    fn judge(&mut self) -> io::Result<()> {
        if self.is_undecided() {
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
                    self.state = State::Head(HeadScanner::default());
                    // What is cleared is with the library in its next read, and drained by it if nobody wants it.
                    self.connection.control.body_read();
                }
            }
            State::Chunked(scanner) => {
                let (length, ended) = scanner.advance(unread).map_err(malformed_body)?;
                self.cleared = length;
                if ended {
                    self.state = State::Head(HeadScanner::default());
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
        if unread.is_empty() {
            return;
        }
        let outcome = if unread == b"\r" { Ok(None) } else { scanner.advance(unread, self.limits.head) };
        match outcome {
            Ok(None) => {
                self.head_since.get_or_insert_with(Instant::now);
                self.connection.control.set_reading(Reading::Head);
            }
            Ok(Some(head)) => self.clear_head(head),
            Err(error) => self.refuse(Cause::Framing(error)),
        }
    }

    fn clear_head(&mut self, head: Head) {
        self.cleared = head.length;
        self.heads += 1;
        self.skipped_line = false;
        self.head_since = None;
        self.connection.control.set_reading(Reading::Nothing);
        // A request with a body is never switched, so the body's end is known.
        self.upgrade = (head.upgrade && head.framing == Framing::None).then_some(self.heads);
        self.state = match head.framing {
            Framing::None => State::Head(HeadScanner::default()),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(ChunkScanner::default()),
        };
        if head.framing != Framing::None {
            self.connection.control.body_announced(self.heads);
        }
    }

    /// Puts the refused head in the place of what was received.
    fn refuse(&mut self, cause: Cause) {
        self.connection.control.refuse(cause);
        self.connection.control.set_reading(Reading::Nothing);
        self.head_since = None;
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
            let filled = self.end == self.buffer.len();
            self.start = 0;
            self.end = 0;
            self.resize(filled);
        }
    }

    /// A body that fills the empty buffer gets a larger one; between requests a small one is enough.
    fn resize(&mut self, filled: bool) {
        match self.state {
            State::Length(_) | State::Chunked(_) if filled && self.buffer.len() < BUFFER_MAX => {
                let larger = self.buffer.len().saturating_mul(2).min(BUFFER_MAX);
                self.buffer.resize(larger, 0);
            }
            State::Head(_) if self.buffer.len() > BUFFER_KEPT => self.buffer = vec![0; BUFFER_START],
            State::Length(_) | State::Chunked(_) | State::Head(_) | State::Refused => {}
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

    fn linger(&self) -> Linger {
        let between_requests = matches!(self.state, State::Head(_)) && self.start == self.end;
        Linger { deadline: Instant::now() + LINGER_TIME, left: LINGER_BYTES, expects_more: !between_requests }
    }

    /// Whether the current wait has lasted too long; if so, what follows from it is done.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let control = &self.connection.control;
        match &self.state {
            // A body's reader has its own timeout.
            State::Refused | State::Length(_) | State::Chunked(_) => return Poll::Pending,
            State::Head(_) => {}
        }
        // Not idle: a request is being handled, or its response not yet taken. The library does not read again only
        // because that ends, so a timer must be there that makes it look.
        if control.is_busy() || self.write_stalled_since.is_some() {
            if !self.read_timer.is_armed() {
                let later = Instant::now() + self.limits.idle_timeout.min(self.limits.header_timeout);
                return self.read_timer.poll_expired(later, context);
            }
            return Poll::Pending;
        }
        let idle_since = control.idle_since().unwrap_or(self.opened);
        let deadline = match self.head_since {
            _ if self.heads == 0 => self.opened + self.limits.header_timeout,
            // A head that was begun during the request before has its time from that request's end.
            Some(since) => since.max(idle_since) + self.limits.header_timeout,
            None => idle_since + self.limits.idle_timeout,
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
            if self.end_of_stream {
                return Poll::Ready(Ok(()));
            }
            // An end of the stream here would be taken for a client that is gone, and the refusal not be sent. It is the
            // last response, so nothing is waited for.
            if matches!(self.state, State::Refused) {
                return Poll::Pending;
            }
            let undecided = self.is_undecided();
            if undecided {
                self.connection.control.wake_on_end(context.waker());
            }
            let filled = if undecided && self.end - self.start >= HELD_BACK_MAX {
                Poll::Pending
            } else {
                self.poll_fill(context)
            };
            match filled {
                Poll::Ready(filled) => self.end_of_stream = !filled?,
                Poll::Pending => ready!(self.poll_timeout(context)),
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
        let mut linger = if let Some(linger) = guard.linger.take() {
            linger
        } else {
            let outcome = Pin::new(&mut guard.stream).poll_shutdown(context);
            ready!(guard.written(outcome, context))?;
            guard.linger()
        };
        while linger.left > 0 && !guard.end_of_stream {
            guard.start = 0;
            guard.end = 0;
            match guard.poll_fill(context) {
                Poll::Ready(Ok(true)) => {
                    linger.left = linger.left.saturating_sub(guard.end);
                    linger.expects_more = true;
                }
                Poll::Ready(Ok(false) | Err(_)) => break,
                Poll::Pending if !linger.expects_more => break,
                Poll::Pending => {
                    if guard.read_timer.poll_expired(linger.deadline, context).is_pending() {
                        guard.linger = Some(linger);
                        return Poll::Pending;
                    }
                    break;
                }
            }
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
