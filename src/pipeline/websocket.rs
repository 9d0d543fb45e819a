//! WebSocket: a validated handshake goes upstream, and bytes are tunnelled only after the upstream's 101 (RFC 6455).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::pipeline::admitted::Asked;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::request_body::UpstreamRequestBody;
use crate::pipeline::respond::ResponseBody;

const BUFFER: usize = 16 * 1024;
/// A tunnel in which nothing moves either way for this long is closed; WebSocket pings keep it open.
const IDLE: Duration = Duration::from_secs(300);

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

/// Passes the 101 on and lets the tunnel run on its own; the exchange ends with the tunnel.
pub(crate) fn tunnel<B>(
    mut exchange: Box<Exchange>,
    client: OnUpgrade,
    mut reply: Response<B>,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::none());
    *response.status_mut() = reply.status();
    let upstream = hyper::upgrade::on(&mut reply);
    *response.headers_mut() = std::mem::take(reply.headers_mut());
    for name in [header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
        response.headers_mut().remove(name);
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().remove(HeaderName::from_static("keep-alive"));
    exchange.connection.control.tunnel();
    tokio::task::spawn_local(async move {
        let Ok((client, upstream)) = tokio::try_join!(client, upstream) else { return };
        let (from_upstream, clean) = run(client, upstream).await;
        exchange.evidence.response_bytes = from_upstream;
        exchange.evidence.completed = clean;
    });
    response
}

/// Copies both ways until both sides are done, one breaks, or nothing moves. Gives the bytes sent to the client, and
/// whether the end was an orderly one.
async fn run(client: Upgraded, upstream: Upgraded) -> (u64, bool) {
    let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
    let (upstream_read, upstream_write) = tokio::io::split(TokioIo::new(upstream));
    let moved = std::cell::Cell::new(tokio::time::Instant::now());
    let up = copy(client_read, upstream_write, &moved);
    let down = copy(upstream_read, client_write, &moved);
    let (up, down) = tokio::join!(up, down);
    (down.0, up.1 && down.1)
}

async fn copy<R, W>(
    mut from: ReadHalf<R>,
    mut to: WriteHalf<W>,
    moved: &std::cell::Cell<tokio::time::Instant>,
) -> (u64, bool)
where
    ReadHalf<R>: tokio::io::AsyncRead + Unpin,
    WriteHalf<W>: tokio::io::AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    let mut clean = false;
    loop {
        let read = match tokio::time::timeout_at(moved.get() + IDLE, from.read(&mut buffer)).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => break,
            // The other direction may have moved meanwhile.
            Err(_) if moved.get().elapsed() < IDLE => continue,
            Err(_) => break,
        };
        moved.set(tokio::time::Instant::now());
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            clean = true;
            break;
        };
        match tokio::time::timeout(IDLE, to.write_all(bytes)).await {
            Ok(Ok(())) => total += u64::try_from(read).unwrap_or(u64::MAX),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    // An end of one side is told to the other, which then ends too.
    let told = tokio::time::timeout(IDLE, to.shutdown()).await;
    (total, clean && matches!(told, Ok(Ok(()))))
}
