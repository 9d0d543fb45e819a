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
/// What a DATA frame to the client earns: it opens two windows for it, or measures by it.
const EARNED_BY_DATA: u64 = 2;
/// Its bytes that earn one more: some clients open windows piece by piece.
const BYTES_PER_FRAME: usize = 1024;
/// Requests that may be reset in each window. More are an attack where they are most of the requests.
const RESETS: u32 = 500;
const WINDOW: Duration = Duration::from_secs(10);
const PREFACE_LENGTH: usize = 24;
const FRAME_HEADER_LENGTH: usize = 9;
const READ_BUFFER: usize = 16 * 1024;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;

/// Finds the headers of frames in a stream of bytes (RFC 9113 section 4.1).
#[derive(Debug, Default)]
struct FrameScanner {
    /// Bytes to pass over before the next frame header: the preface, or a payload.
    skip: usize,
    header: [u8; FRAME_HEADER_LENGTH],
    filled: usize,
}

/// What a frame's header says.
#[derive(Debug, Clone, Copy)]
struct FrameHeader {
    kind: u8,
    length: usize,
}

/// What a client has sent, set against what it was sent.
#[derive(Debug)]
struct FrameBudget {
    from_client: FrameScanner,
    to_client: FrameScanner,
    window_start: Instant,
    /// Control frames not earned.
    spent: u64,
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

// === impl FrameScanner ===

impl FrameScanner {
    /// The next frame header that ends in `bytes`, of which what belongs to it is taken off. `None` when all are taken.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHeader> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            *bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (FRAME_HEADER_LENGTH - self.filled).min(bytes.len());
            let (taken, rest) = bytes.split_at(wanted);
            for (place, byte) in self.header.iter_mut().skip(self.filled).zip(taken) {
                *place = *byte;
            }
            self.filled += wanted;
            *bytes = rest;
            if self.filled == FRAME_HEADER_LENGTH {
                let [high, middle, low, kind, ..] = self.header;
                let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.filled = 0;
                self.skip = length;
                return Some(FrameHeader { kind, length });
            }
        }
        None
    }
}

// === impl FrameBudget ===

impl FrameBudget {
    fn new(now: Instant) -> Self {
        Self {
            from_client: FrameScanner { skip: PREFACE_LENGTH, ..FrameScanner::default() },
            to_client: FrameScanner::default(),
            window_start: now,
            spent: 0,
            requests: 0,
            resets: 0,
        }
    }

    /// Looks at bytes that have been written to the client.
    fn written(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.to_client.next(&mut bytes) {
            if frame.kind == DATA && frame.length > 0 {
                let pieces = u64::try_from(frame.length / BYTES_PER_FRAME).unwrap_or(u64::MAX);
                self.spent = self.spent.saturating_sub(EARNED_BY_DATA.saturating_add(pieces));
            }
        }
    }

    /// Looks at the next bytes from the client; `false` when the budget is used up.
    fn read(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while let Some(frame) = self.from_client.next(&mut bytes) {
            if !self.count(frame, now) {
                return false;
            }
        }
        true
    }

    fn count(&mut self, frame: FrameHeader, now: Instant) -> bool {
        if now.duration_since(self.window_start) > WINDOW {
            self.window_start = now;
            self.spent = 0;
            self.requests = 0;
            self.resets = 0;
        }
        match frame.kind {
            // They carry requests; each earns one control frame, for windows and acknowledgements.
            DATA => self.spent = self.spent.saturating_sub(1),
            HEADERS => {
                self.requests += 1;
                self.spent = self.spent.saturating_sub(1);
            }
            RST_STREAM => {
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
            guard.budget.read(bytes, Instant::now())
        } else {
            let length = guard.first.len().min(cursor.remaining());
            let bytes: Vec<u8> = guard.first.drain(..length).collect();
            cursor.put_slice(&bytes);
            guard.budget.read(&bytes, Instant::now())
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
            self.budget.written(bytes.get(..*length).unwrap_or_default());
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
            let mut left = *length;
            for slice in slices {
                let taken = slice.get(..left.min(slice.len())).unwrap_or_default();
                self.budget.written(taken);
                left -= taken.len();
            }
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
        assert!(budget.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now));
        (0..count)
            .take_while(|index| {
                let frame = frame(kinds[index % kinds.len()], 8);
                frame.chunks(piece).all(|bytes| budget.read(bytes, now))
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
    fn responses_earn_the_windows_that_are_opened_for_them() {
        let now = Instant::now();
        for (payload, windows) in [(16 * 1024, 8), (1, 2), (100, 2)] {
            let mut budget = FrameBudget::new(now);
            budget.from_client.skip = 0;
            for _ in 0..20_000 {
                // Written in pieces that do not end where frames do.
                for piece in frame(0x0, payload).chunks(1000) {
                    budget.written(piece);
                }
                assert!((0..windows).all(|_| budget.read(&frame(0x8, 4), now)), "{payload}");
            }
        }
        let mut budget = FrameBudget::new(now);
        budget.from_client.skip = 0;
        let answered = (0..5_000).take_while(|_| {
            budget.written(&frame(0x6, 8));
            budget.read(&frame(0x6, 8), now)
        });
        assert_eq!(answered.count(), 1_000, "answers to control frames earn nothing");
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
        budget.from_client.skip = 0;
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            for _ in 0..50 {
                assert!(budget.read(&frame(0x6, 8), now));
            }
        }
    }
}
