//! WebSocket: a validated handshake goes upstream, and bytes are tunnelled only after the upstream's 101 (RFC 6455).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout, timeout_at};

use crate::pipeline::admitted::Asked;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::request_body::UpstreamRequestBody;
use crate::pipeline::respond::ResponseBody;

const BUFFER: usize = 16 * 1024;
/// A tunnel in which nothing moves either way for this long is closed; WebSocket pings keep it open.
const IDLE: Duration = Duration::from_secs(300);
/// The upstream has sent its 101, so its side is there at once.
const HANDOVER: Duration = Duration::from_secs(5);

/// Whether this is a WebSocket handshake on a route that passes them on. Otherwise `Upgrade` ends here, and the request
/// is an ordinary one.
pub(crate) fn is_wanted(exchange: &Exchange, asked: &Asked, body: &UpstreamRequestBody) -> bool {
    let head = &exchange.head;
    let route = asked.target.resolve(exchange).map(|(_, route)| route);
    let version = head.headers.get(header::SEC_WEBSOCKET_VERSION);
    let key = head.headers.get(header::SEC_WEBSOCKET_KEY);
    asked.from.hop.websocket
        && route.is_some_and(|route| route.websocket)
        && head.method == Method::GET
        && head.protocol == "HTTP/1.1"
        && matches!(body, UpstreamRequestBody::Empty)
        && version.is_some_and(|version| version.as_bytes() == b"13")
        && key.is_some_and(|key| key.len() == 24)
}

/// Asks the upstream to switch.
pub(crate) fn ask(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// A tunnel that waits for the client's side of the connection.
#[derive(Debug)]
pub struct Tunnel {
    exchange: Box<Exchange>,
    upstream: OnUpgrade,
}

/// Passes the 101 on, and leaves the tunnel for the connection to run once the 101 is out. The exchange ends with it.
pub(crate) fn switch<B>(exchange: Box<Exchange>, mut reply: Response<B>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::none());
    *response.status_mut() = reply.status();
    let upstream = hyper::upgrade::on(&mut reply);
    *response.headers_mut() = std::mem::take(reply.headers_mut());
    let headers = response.headers_mut();
    for name in [header::TRANSFER_ENCODING, header::CONTENT_LENGTH, HeaderName::from_static("keep-alive")] {
        headers.remove(name);
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let connection = Rc::clone(&exchange.connection);
    connection.control.switch(Tunnel { exchange, upstream });
    response
}

// === impl Tunnel ===

impl Tunnel {
    /// Copies both ways until both sides are done, one breaks, or nothing moves. `first` has been read from the client
    /// already.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, client: S, first: &[u8]) {
        let Ok(Ok(upstream)) = timeout(HANDOVER, self.upstream).await else { return };
        let (client_read, client_write) = tokio::io::split(client);
        let (upstream_read, mut upstream_write) = tokio::io::split(TokioIo::new(upstream));
        if !matches!(timeout(IDLE, upstream_write.write_all(first)).await, Ok(Ok(()))) {
            return;
        }
        let moved = Cell::new(Instant::now());
        let up = copy(client_read, upstream_write, &moved);
        let down = copy(upstream_read, client_write, &moved);
        let (up, down) = tokio::join!(up, down);
        self.exchange.evidence.response_bytes = down.0;
        self.exchange.evidence.completed = up.1 && down.1;
    }
}

/// Copies one way. Gives the bytes moved, and whether the end was an orderly one.
async fn copy<R, W>(mut from: ReadHalf<R>, mut to: WriteHalf<W>, moved: &Cell<Instant>) -> (u64, bool)
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    let mut clean = false;
    loop {
        let read = match timeout_at(moved.get() + IDLE, from.read(&mut buffer)).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => break,
            // The other direction may have moved meanwhile.
            Err(_) if moved.get().elapsed() < IDLE => continue,
            Err(_) => break,
        };
        moved.set(Instant::now());
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            clean = true;
            break;
        };
        match timeout(IDLE, to.write_all(bytes)).await {
            Ok(Ok(())) => total += u64::try_from(read).unwrap_or(u64::MAX),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    // An end of one side is told to the other, which then ends too.
    let told = timeout(IDLE, to.shutdown()).await;
    (total, clean && matches!(told, Ok(Ok(()))))
}
