//! The byte stream to an endpoint, plain or TLS, with the watch that bounds interim responses.
//!
//! hyper skips 1xx responses without end and without telling, so they are counted here, from the bytes. Nothing is
//! changed on the way through.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::upstream::cluster::Tunnel;
use crate::upstream::interim::InterimScanner;

/// A connected byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP. Boxed: its state is large, and most upstreams are plain.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the pool and the byte stream of one HTTP/1.1 connection tell each other. Both sides run on one thread; the
/// atomics are there because hyper hands upgraded streams out as `Send`.
#[derive(Debug, Default)]
pub(crate) struct HeadWatch {
    awaiting_head: AtomicBool,
    received: AtomicBool,
    too_many_interim: AtomicBool,
    tunnel: OnceLock<Tunnel>,
}

impl HeadWatch {
    /// A request is about to be sent: the next bytes are the head of its response.
    pub(crate) fn expect_head(&self) {
        self.received.store(false, Ordering::Relaxed);
        self.awaiting_head.store(true, Ordering::Relaxed);
    }

    /// Whether any byte has come since [`Self::expect_head`].
    pub(crate) fn received(&self) -> bool {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the stream was failed because of too many interim responses.
    pub(crate) fn too_many_interim(&self) -> bool {
        self.too_many_interim.load(Ordering::Relaxed)
    }

    /// Keeps `tunnel` counted until the upgraded stream is gone.
    pub(crate) fn hold(&self, tunnel: Tunnel) {
        // A connection upgrades at most once; a second tunnel would simply not be counted.
        drop(self.tunnel.set(tunnel));
    }
}

/// A [`Stream`] whose response heads are watched.
#[derive(Debug)]
pub(crate) struct WatchedStream {
    stream: Stream,
    watch: Arc<HeadWatch>,
    scanner: InterimScanner,
}

impl WatchedStream {
    /// Watches `stream`, reporting to `watch`.
    pub(crate) fn new(stream: Stream, watch: Arc<HeadWatch>) -> Self {
        Self { stream, watch, scanner: InterimScanner::default() }
    }

    fn scan(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.watch.received.store(true, Ordering::Relaxed);
        match self.scanner.scan(bytes) {
            Ok(true) => self.watch.awaiting_head.store(false, Ordering::Relaxed),
            Ok(false) => {}
            Err(error) => {
                self.watch.too_many_interim.store(true, Ordering::Relaxed);
                return Err(io::Error::other(error));
            }
        }
        Ok(())
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if self.watch.awaiting_head.load(Ordering::Relaxed) {
            self.scan(buffer.filled().get(before..).unwrap_or_default())?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }
}

impl AsyncWrite for WatchedStream {
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
