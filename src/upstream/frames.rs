//! Budgets for the HTTP/2 frames of an upstream that cost it nothing and us an answer or a look.
//!
//! h2 answers `PING` and `SETTINGS` without end and skips interim responses without end, so both are counted from the
//! bytes, by frame header alone (RFC 9113 section 4.1). Floods of `RST_STREAM`, `CONTINUATION` and empty `DATA` are cut
//! off by h2 itself.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::upstream::INTERIM_RESPONSES_MAX;
use crate::upstream::http2::STREAMS_MAX;
use crate::upstream::stream::Stream;

/// Control frames that may come at once, and in each second after that. Servers that measure the round trip send one
/// `PING` for each; a flood is far more.
const CONTROL_FRAMES: u32 = 2_000;
/// `HEADERS` frames of one exchange: interim responses, the response, its trailers.
const HEADERS_PER_EXCHANGE: u32 = INTERIM_RESPONSES_MAX + 2;

/// Bytes of a frame header.
const HEADER: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// Too many frames of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flood {
    /// `HEADERS`, that is interim responses.
    #[error("the upstream sent more HEADERS frames than its exchanges can have")]
    Headers,
    /// `PING`, `SETTINGS` and the like.
    #[error("the upstream sent a flood of control frames")]
    Control,
}

/// The `HEADERS` frames that may still come. Shared by a connection and its exchanges.
#[derive(Debug, Default)]
pub(crate) struct Credit(Cell<u32>);

impl Credit {
    /// One more exchange begins.
    pub(crate) fn add_exchange(&self) {
        let credit = self.0.get().saturating_add(HEADERS_PER_EXCHANGE);
        self.0.set(credit.min(HEADERS_PER_EXCHANGE * STREAMS_MAX));
    }
}

/// Counts frames in a stream of bytes.
#[derive(Debug)]
struct FrameCounter {
    header: [u8; HEADER],
    filled: usize,
    payload_left: usize,
    control: u32,
    refilled: Instant,
    credit: Rc<Credit>,
}

impl FrameCounter {
    fn new(credit: Rc<Credit>) -> Self {
        let (control, refilled) = (CONTROL_FRAMES, Instant::now());
        Self { header: [0; HEADER], filled: 0, payload_left: 0, control, refilled, credit }
    }

    fn scan(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        loop {
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            if let Some(slot) = self.header.get_mut(self.filled) {
                *slot = *first;
            }
            self.filled += 1;
            bytes = rest;
            if self.filled == HEADER {
                self.filled = 0;
                let [high, middle, low, kind, flags, ..] = self.header;
                self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.count(kind, flags)?;
            }
        }
    }

    fn count(&mut self, kind: u8, flags: u8) -> Result<(), Flood> {
        match kind {
            HEADERS => {
                let credit = self.credit.0.get().checked_sub(1).ok_or(Flood::Headers)?;
                self.credit.0.set(credit);
            }
            // An acknowledgement answers a frame of ours.
            SETTINGS | PING if flags & ACK != 0 => {}
            SETTINGS | PING => self.take_control()?,
            _ => {}
        }
        Ok(())
    }

    fn take_control(&mut self) -> Result<(), Flood> {
        if self.control == 0 {
            let now = Instant::now();
            if now.saturating_duration_since(self.refilled) < Duration::from_secs(1) {
                return Err(Flood::Control);
            }
            self.refilled = now;
            self.control = CONTROL_FRAMES;
        }
        self.control -= 1;
        Ok(())
    }
}

/// A stream whose incoming frames are counted.
#[derive(Debug)]
pub(crate) struct CountedStream {
    stream: Stream,
    counter: FrameCounter,
}

impl CountedStream {
    /// Counts the frames that come over `stream`.
    pub(crate) fn new(stream: Stream, credit: Rc<Credit>) -> Self {
        Self { stream, counter: FrameCounter::new(credit) }
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let counted = self.counter.scan(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(counted.map_err(io::Error::other))
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATA: u8 = 0;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + payload, HEADERS);
        frame
    }

    fn counter() -> FrameCounter {
        FrameCounter::new(Rc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn control_frames_are_bounded_in_time() {
        let mut counter = counter();
        for _ in 0..2 {
            for _ in 0..CONTROL_FRAMES / 2 {
                counter.scan(&frame(PING, 0, 8)).unwrap();
                counter.scan(&frame(SETTINGS, 0, 6)).unwrap();
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        for _ in 0..CONTROL_FRAMES {
            counter.scan(&frame(PING, 0, 8)).unwrap();
        }
        assert_eq!(counter.scan(&frame(PING, ACK, 8)), Ok(()), "it answers one of ours");
        assert_eq!(counter.scan(&frame(PING, 0, 8)), Err(Flood::Control));
    }

    #[test]
    fn headers_are_bounded_by_exchanges() {
        assert_eq!(counter().scan(&frame(HEADERS, 4, 20)), Err(Flood::Headers), "nobody asked");
        let mut counter = counter();
        counter.credit.add_exchange();
        for _ in 0..HEADERS_PER_EXCHANGE {
            counter.scan(&frame(HEADERS, 4, 20)).unwrap();
        }
        assert_eq!(counter.scan(&frame(HEADERS, 4, 20)), Err(Flood::Headers));
        (0..10_000).for_each(|_| counter.credit.add_exchange());
        assert_eq!(counter.credit.0.get(), HEADERS_PER_EXCHANGE * STREAMS_MAX, "it is not saved up");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            payloads in prop::collection::vec((0usize..300, prop::bool::ANY), 1..40),
            piece in 1usize..50,
        ) {
            let bytes: Vec<u8> = payloads
                .iter()
                .flat_map(|&(payload, headers)| frame(if headers { HEADERS } else { DATA }, 0, payload))
                .collect();
            let mut counter = counter();
            counter.credit.0.set(1_000);
            for piece in bytes.chunks(piece) {
                counter.scan(piece).unwrap();
            }
            let headers = payloads.iter().filter(|(_, headers)| *headers).count();
            prop_assert_eq!(counter.credit.0.get(), 1_000 - u32::try_from(headers).unwrap());
            prop_assert_eq!((counter.filled, counter.payload_left), (0, 0));
        }
    }
}
