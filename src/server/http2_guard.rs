//! The byte stream of an HTTP/2 connection: control frames have a budget, and a stalled write an end.
//!
//! The library answers PING and SETTINGS without end; a client that sends hardly anything else is cut off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{self, ReadBufCursor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::base::timer::LazyTimer;

/// Control frames allowed in each window, beside one for each frame that carries a request.
const CONTROL_FRAMES: u32 = 1000;
const WINDOW: Duration = Duration::from_secs(10);
const PREFACE_LENGTH: usize = 24;
const FRAME_HEADER_LENGTH: usize = 9;
const READ_BUFFER: usize = 16 * 1024;

/// Counts frames as their headers pass by (RFC 9113 section 4.1).
#[derive(Debug)]
struct FrameBudget {
    /// Bytes to pass over before the next frame header: the preface, or a payload.
    skip: usize,
    header: [u8; FRAME_HEADER_LENGTH],
    filled: usize,
    window_start: Instant,
    spent: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Http2Guard<S> {
    stream: S,
    first: Vec<u8>,
    buffer: Box<[u8]>,
    budget: FrameBudget,
    write_timeout: Duration,
    write_timer: LazyTimer,
    write_stalled_since: Option<Instant>,
}

// === impl FrameBudget ===

impl FrameBudget {
    fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE_LENGTH,
            header: [0; FRAME_HEADER_LENGTH],
            filled: 0,
            window_start: now,
            spent: 0,
        }
    }

    /// Looks at the next bytes; `false` when the budget is used up.
    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let wanted = (FRAME_HEADER_LENGTH - self.filled).min(bytes.len());
            let (taken, rest) = bytes.split_at(wanted);
            for (place, byte) in self.header.iter_mut().skip(self.filled).zip(taken) {
                *place = *byte;
            }
            self.filled += wanted;
            bytes = rest;
            if self.filled == FRAME_HEADER_LENGTH && !self.count(now) {
                return false;
            }
        }
        true
    }

    fn count(&mut self, now: Instant) -> bool {
        let [high, middle, low, kind, ..] = self.header;
        self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.filled = 0;
        match kind {
            // DATA and HEADERS carry requests; each earns one control frame, for windows and acknowledgements.
            0x0 | 0x1 => self.spent = self.spent.saturating_sub(1),
            _ => self.spent += 1,
        }
        if now.duration_since(self.window_start) > WINDOW {
            self.window_start = now;
            self.spent = 0;
        }
        self.spent <= CONTROL_FRAMES
    }
}

// === impl Http2Guard ===

impl<S: AsyncRead + AsyncWrite + Unpin> Http2Guard<S> {
    /// Guards `stream`, of which `first` has been read already.
    pub(crate) fn new(stream: S, first: Vec<u8>, write_timeout: Duration) -> Self {
        Self {
            stream,
            first,
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            budget: FrameBudget::new(Instant::now()),
            write_timeout,
            write_timer: LazyTimer::default(),
            write_stalled_since: None,
        }
    }

    fn written<T>(&mut self, outcome: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if let Poll::Ready(outcome) = outcome {
            self.write_stalled_since = None;
            return Poll::Ready(outcome);
        }
        let since = *self.write_stalled_since.get_or_insert_with(Instant::now);
        ready!(self.write_timer.poll_expired(since + self.write_timeout, context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> rt::Read for Http2Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        let passed = if guard.first.is_empty() {
            let wanted = cursor.remaining().min(guard.buffer.len());
            let mut space = ReadBuf::new(guard.buffer.get_mut(..wanted).unwrap_or_default());
            ready!(Pin::new(&mut guard.stream).poll_read(context, &mut space))?;
            let bytes = space.filled();
            cursor.put_slice(bytes);
            guard.budget.pass(bytes, Instant::now())
        } else {
            let length = guard.first.len().min(cursor.remaining());
            let bytes: Vec<u8> = guard.first.drain(..length).collect();
            cursor.put_slice(&bytes);
            guard.budget.pass(&bytes, Instant::now())
        };
        if passed { Poll::Ready(Ok(())) } else { Poll::Ready(Err(io::ErrorKind::InvalidData.into())) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> rt::Write for Http2Guard<S> {
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
        Pin::new(&mut self.stream).poll_shutdown(context)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let [_, _, _, _, _, high, middle, low] = u64::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![high, middle, low, kind, 0, 0, 0, 0, 0];
        bytes.resize(9 + payload, 0xff);
        bytes
    }

    /// How many of `count` frames pass, fed in pieces of `piece` bytes.
    fn passed(kinds: &[u8], count: usize, piece: usize) -> usize {
        let now = Instant::now();
        let mut budget = FrameBudget::new(now);
        assert!(budget.pass(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now));
        (0..count)
            .take_while(|index| {
                let frame = frame(kinds[index % kinds.len()], 8);
                frame.chunks(piece).all(|bytes| budget.pass(bytes, now))
            })
            .count()
    }

    #[test]
    fn a_ping_flood_is_cut_off_however_it_is_cut_up() {
        for piece in [1, 5, 9, 17, 1000] {
            assert_eq!(passed(&[0x6], 5_000, piece), 1_000, "{piece}");
            assert_eq!(passed(&[0x4], 5_000, piece), 1_000, "{piece}");
        }
    }

    #[test]
    fn requests_earn_their_control_frames() {
        assert_eq!(passed(&[0x1, 0x8], 50_000, 17), 50_000);
        assert_eq!(passed(&[0x0, 0x1, 0x8, 0x6], 50_000, 17), 50_000);
    }

    #[test]
    fn a_window_begins_with_a_fresh_budget() {
        let start = Instant::now();
        let mut budget = FrameBudget::new(start);
        budget.skip = 0;
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            for _ in 0..50 {
                assert!(budget.pass(&frame(0x6, 8), now));
            }
        }
    }
}
