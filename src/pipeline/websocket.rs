//! WebSocket: a validated handshake goes upstream, and bytes are tunnelled only after the upstream's 101 (RFC 6455).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, Response, header};
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
const IDLE: Duration = Duration::from_mins(5);
/// The upstream has sent its 101, so its side is there at once.
const HANDOVER: Duration = Duration::from_secs(5);

/// Appended to the client's key, and hashed, by a server that means WebSocket (RFC 6455 section 1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// A WebSocket handshake that is to be passed on.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// What the upstream must answer in `Sec-WebSocket-Accept`.
    accept: String,
}

// === impl Handshake ===

impl Handshake {
    /// The handshake that the request is, on a route that passes them on. Otherwise `Upgrade` ends here, and the request
    /// is an ordinary one.
    pub(crate) fn of(exchange: &Exchange, asked: &Asked, body: &UpstreamRequestBody) -> Option<Self> {
        let head = &exchange.head;
        let (_, route) = asked.target.resolve(exchange)?;
        let version = head.headers.get(header::SEC_WEBSOCKET_VERSION)?;
        let is_handshake = asked.from.hop.websocket
            && route.websocket
            && head.method == Method::GET
            && head.protocol == "HTTP/1.1"
            && matches!(body, UpstreamRequestBody::Empty)
            && version.as_bytes() == b"13";
        let mut keys = head.headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
        let (Some(key), None, true) = (keys.next(), keys.next(), is_handshake) else { return None };
        STANDARD.decode(key).ok().filter(|nonce| nonce.len() == 16)?;
        Some(Self { accept: accept(key.as_bytes()) })
    }

    /// Asks the upstream to switch.
    pub(crate) fn ask(headers: &mut HeaderMap) {
        headers.insert(header::CONNECTION, UPGRADE);
        headers.insert(header::UPGRADE, WEBSOCKET);
    }

    /// Whether the head of a 101 answers this handshake: a cached or confused answer must not open a tunnel.
    pub(crate) fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        let upgrade = headers.get(header::UPGRADE);
        let accept = headers.get(header::SEC_WEBSOCKET_ACCEPT);
        upgrade.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
            && accept.is_some_and(|accept| accept.as_bytes() == self.accept.as_bytes())
    }
}

fn accept(key: &[u8]) -> String {
    let text = [key, ACCEPT_GUID].concat();
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &text))
}

/// A tunnel that waits for the client's side of the connection.
#[derive(Debug)]
pub struct Tunnel {
    exchange: Box<Exchange>,
    upstream: OnUpgrade,
}

/// Passes the 101 on, its hop-by-hop headers made anew, and leaves the tunnel for the connection to run once the 101 is
/// out. The exchange ends with it.
pub(crate) fn switch<B>(exchange: Box<Exchange>, mut reply: Response<B>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::none());
    *response.status_mut() = reply.status();
    let upstream = hyper::upgrade::on(&mut reply);
    *response.headers_mut() = std::mem::take(reply.headers_mut());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
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
            // The other direction may have moved meanwhile.
            Err(_) if moved.get().elapsed() < IDLE => continue,
            Ok(Err(_)) | Err(_) => break,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_switch_must_answer_the_handshake() {
        let handshake = Handshake { accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned() };
        let check = |upgrade: &'static str, accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(accept));
            handshake.is_answered_by(&headers)
        };
        assert!(check("WebSocket", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!check("h2c", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!check("websocket", "AAAALMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(!handshake.is_answered_by(&HeaderMap::new()));
    }
}
