//! The byte stream of an HTTP/2 connection: control frames and resets have a budget, and a stalled write an end.
//!
//! The library answers PING and SETTINGS without end, and begins each request that is reset at once; a client that
//! sends hardly anything else is cut off. Frames are only counted here, never changed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{self, ReadBufCursor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::base::timer::LazyTimer;

/// Control frames allowed in each window, beside those that requests and responses earn.
const CONTROL_FRAMES: u64 = 1000;
/// Response bytes that earn a control frame: clients open windows, and measure, as they read.
const BYTES_PER_FRAME: u64 = 1024;
/// Requests that may be reset in each window. More are an attack where they are most of the requests.
const RESETS: u32 = 500;
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
    /// Control frames not earned.
    spent: u64,
    /// Response bytes that have not earned a frame yet.
    written: u64,
    requests: u32,
    resets: u32,
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
            written: 0,
            requests: 0,
            resets: 0,
        }
    }

    /// So many bytes have been written to the client.
    fn earn(&mut self, length: usize) {
        self.written = self.written.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        self.spent = self.spent.saturating_sub(self.written / BYTES_PER_FRAME);
        self.written %= BYTES_PER_FRAME;
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
        if now.duration_since(self.window_start) > WINDOW {
            *self = Self { skip: self.skip, ..Self::new(now) };
        }
        match kind {
            // DATA and HEADERS carry requests; each earns one control frame, for windows and acknowledgements.
            0x0 => self.spent = self.spent.saturating_sub(1),
            0x1 => {
                self.requests += 1;
                self.spent = self.spent.saturating_sub(1);
            }
            0x3 => {
                self.resets += 1;
                self.spent += 1;
            }
            _ => self.spent += 1,
        }
        let mostly_resets = self.resets > RESETS && self.resets > self.requests / 2;
        self.spent <= CONTROL_FRAMES && !mostly_resets
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
        if let Poll::Ready(Ok(length)) = &outcome {
            self.budget.earn(*length);
        }
        self.written(outcome, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.written(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(outcome, context)
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
        if let Poll::Ready(Ok(length)) = &outcome {
            self.budget.earn(*length);
        }
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
    fn response_bytes_earn_the_windows_that_are_opened_for_them() {
        let now = Instant::now();
        let mut budget = FrameBudget::new(now);
        budget.skip = 0;
        for _ in 0..100_000 {
            budget.earn(9 + 4096);
            assert!(budget.pass(&frame(0x8, 4), now) && budget.pass(&frame(0x8, 4), now));
        }
        let mut drip = FrameBudget::new(now);
        drip.skip = 0;
        let opened = (0..5_000).take_while(|_| {
            drip.earn(9 + 1);
            drip.pass(&frame(0x8, 4), now)
        });
        assert!(opened.count() < 1_100, "a window opened by a byte at a time earns nothing");
    }

    #[test]
    fn requests_that_are_mostly_reset_are_cut_off() {
        assert_eq!(passed(&[0x1, 0x3], 5_000, 17), 1_001);
        assert_eq!(passed(&[0x1, 0x1, 0x1, 0x3], 50_000, 17), 50_000);
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
